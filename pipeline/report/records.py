"""What earlier stages leave for the report: the JSON objects of their files."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Finite = Annotated[float, Field(allow_inf_nan=False)]
# Nothing was there to measure, as when every sample is empty.
Measured = Finite | None


class Record(BaseModel):
    """A JSON object of an earlier stage; keys that the report does not show are left alone."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")


class DataFile(Record):
    """A fetched file."""

    path: str
    size: int
    sha256: str
    rows: int


class Overlap(Record):
    """How many documents are held out, and how many of these are training documents too."""

    num_held_out: int
    num_in_train: int


class Provenance(Record):
    """Where the documents come from."""

    repo: str
    revision: str
    commit: str
    files: list[DataFile]
    overlap: Overlap


class PackedMeta(Record):
    """The packed blocks; `unknown` counts each unknown character of a split."""

    length: int
    mode: str
    vocab_size: int
    num_blocks: dict[str, int]
    num_unknown: dict[str, int]
    unknown: dict[str, dict[str, int]]
    tokenizer_sha256: str


class ModelConfig(Record):
    """The network and the process it was trained for; what else there is belongs to the method."""

    model_config = ConfigDict(extra="allow")

    method: str = "sedd"
    length: int
    width: int
    num_blocks: int

    @property
    def variants(self) -> dict[str, str]:
        """What was chosen among several of a kind, by kind."""
        extra = self.model_extra or {}
        return {
            key.replace("_", " ").capitalize(): value.replace("_", " ")
            for key, value in extra.items()
            if isinstance(value, str) and key != "tokenizer_sha256"
        }


class Run(Record):
    """One finished training run."""

    num_params: int
    num_tokens: int
    num_steps: int
    seconds: float
    tokens_per_second: float | None
    device: str
    precision: str = "float32"
    torch: str
    lock_sha256: str | None = None
    sha256: str
    init_sha256: str | None = None


class Snapshot(Record):
    """Samples in the middle of training; losses in nats a block."""

    step: int
    loss: float | None
    eval_loss: float | None
    texts: list[str]


class Sample(Record):
    """One generated text."""

    index: int
    seed: int
    temperature: float = 1.0
    top_p: float = 1.0
    order: str = "random"
    corrector: str = "none"
    labels: dict[str, str] = {}
    text: str

    @property
    def drawn_by(self) -> dict[str, str | float]:
        """What decides how likely a sample is, beside the model and the number of steps."""
        return self.model_dump(include={"temperature", "top_p", "order", "corrector"})

    @property
    def asked(self) -> str:
        """What it was asked for, in a line."""
        return ", ".join(self.labels.values())


class State(Record):
    """One sample at time `t`, one glyph a position."""

    t: Finite
    text: str


class Trace(Record):
    """The states of a few samples, from all masks to the end, at the same times for each."""

    num_steps: int
    samples: list[Annotated[list[State], Field(min_length=2)]]


class Timing(Record):
    """Wall-clock of sampling."""

    num_steps: int
    num_samples: int
    seconds: Finite
    samples_per_second: Finite
    device: str
    precision: str = "float32"
    calls: int


class Scorer(Record):
    """The language model behind a generative perplexity."""

    name: str
    sha256: str
    precision: str

    def __str__(self) -> str:
        """What tells scorers apart: figures of a rounded one are never ranked with the others."""
        rounded = "" if self.precision == "float32" else f" in {self.precision}"
        return f"{self.name}@{self.sha256[:12]}{rounded}"


class LooksLike(Record):
    """Of samples asked for a label, and of real texts that have it, how many look like it."""

    num: int
    num_sure: int
    share: Measured
    share_stderr: Measured
    real_num: int
    real_num_sure: int
    real_share: Measured
    real_share_stderr: Measured


class Scores(Record):
    """Figures of one set of texts; an error that does not exist is None."""

    num_steps: int | None
    num_samples: int
    num_scored: int
    excluded: list[int]
    scorer: Scorer
    gen_ppl: Measured
    gen_ppl_stderr: Measured
    gen_ppl_mean_of_exp: Measured
    gen_ppl_mean_of_exp_stderr: Measured = None
    gen_ppl_sedd: Measured
    gen_ppl_sedd_stderr: Measured = None
    gen_ppl_mdlm: Measured
    gen_ppl_mdlm_stderr: Measured = None
    entropy: Measured
    entropy_stderr: Measured = None
    entropy_per_sample: Measured
    entropy_per_sample_stderr: Measured = None
    entropy_per_sample_bits: Measured
    entropy_per_sample_bits_stderr: Measured = None
    distinct_1: Measured
    distinct_1_stderr: Measured = None
    distinct_2: Measured
    distinct_2_stderr: Measured = None
    distinct_3: Measured
    distinct_3_stderr: Measured = None
    rep_4: Measured
    rep_4_stderr: Measured = None
    self_bleu: Measured
    self_bleu_stderr: Measured = None
    mauve: Measured = None
    mauve_spread: Measured = None
    uniqueness: Finite
    uniqueness_stderr: Measured = None
    novelty: Measured
    novelty_stderr: Measured = None
    held_out: Measured
    held_out_stderr: Measured = None
    well_formed: Finite
    well_formed_stderr: Measured = None
    invalid_utf8: Finite
    nfe: Finite
    nfe_stderr: Measured = None
    by_label: dict[str, dict[str, LooksLike]] = {}


class GivenLabels(Record):
    """The bound given labels, and how much less it is, paired."""

    bound_nats_per_char: Finite
    bound_stderr: Finite
    gain_nats_per_char: Finite
    gain_stderr: Finite


class Terms(Record):
    """The three terms of the bound, nats a block."""

    integral: Finite
    prior: Finite
    reconstruction: Finite


class Likelihood(Record):
    """Held-out likelihood: the model's bound and the baseline's exact value, in each unit.

    Errors are of nats a character where the key names no other unit.
    """

    bound_nats_per_char: Finite
    bound_stderr: Finite
    bound_mc_stderr: Finite
    bound_data_stderr: Finite
    bound_bits_per_char: Finite
    bound_nats_per_token: Finite
    bound_nats_per_token_stderr: Finite
    bound_perplexity_per_token: Finite
    bound_bits_per_byte: Measured
    bound_nats_per_block: Finite
    baseline_nats_per_char: Finite
    baseline_stderr: Finite
    baseline_bits_per_char: Finite
    baseline_nats_per_token: Finite
    baseline_nats_per_token_stderr: Finite
    baseline_perplexity_per_token: Finite
    baseline_bits_per_byte: Measured
    baseline_nats_per_block: Finite
    gap_nats_per_char: Finite
    gap_stderr: Finite
    terms: Terms
    bound_of: str | None = None
    given_labels: GivenLabels | None = None
    num_texts: int
    num_texts_of: int
    num_tokens: int
    num_chars: int
    num_bytes: int
    num_replicates: int
    num_draws: int
