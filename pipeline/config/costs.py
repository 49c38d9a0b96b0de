"""What an experiment would take on GPUs, by arithmetic from stated rates.

Operations count two a multiply-add, of linear layers and of attention; look-ups, norms and whatever
else is bound by memory are in the share of the GPU's rate that is assumed.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pipeline.config.params import Params
from pipeline.config.sections import Count, Positive, Section, Text
from pipeline.config.strict_yaml import parse, read_text

RATES = Path(__file__).with_name("rates.yaml")
STATE, WEIGHT = 16, 4
"""Bytes a parameter of an unfinished training, and of a checkpoint."""
BYTES_OF_SAMPLE = 12
"""A token as its id and its text, in JSON."""

Range = tuple[float, float]


class Gpu(Section):
    """TFLOP/s of dense products, and GB."""

    bfloat16: Positive
    float32: Positive
    memory: Positive
    source: Text


class Shares(Section):
    """Of a GPU's rate, least and most; and the least that a call of the network takes."""

    bfloat16: list[Positive]
    float32: list[Positive]
    milliseconds: Positive
    source: Text


class Packing(Section):
    """Megabytes of text a second and core, least and most."""

    megabytes_a_core: list[Positive]
    source: Text


class Rates(Section):
    """What ships in rates.yaml."""

    gpus: dict[str, Gpu]
    training: Shares
    inference: Shares
    packing: Packing
    scorers: dict[str, Count]


@cache
def rates() -> Rates:
    """The rates that ship."""
    return Rates.model_validate(parse(read_text(RATES)))


@dataclass(frozen=True)
class Network:
    """Sizes that decide operations and bytes.

    Attributes:
        num_params: all of them.
        width: of a block.
        num_blocks: of them.
        vocab_size: outputs of the head.
        length: tokens a text.
    """

    num_params: int
    width: int
    num_blocks: int
    vocab_size: int
    length: int

    @property
    def blocks(self) -> float:
        """Operations of all blocks, forward, a token."""
        return self.num_blocks * self.width * (24 * self.width + 4 * self.length)

    @property
    def head(self) -> float:
        """Operations of the head a token."""
        return 2 * self.width * self.vocab_size


@dataclass(frozen=True)
class Corpus:
    """How much text there is.

    Attributes:
        tokens: of both splits.
        num_held_out: blocks.
        gigabytes: of documents; None where nobody said.
    """

    tokens: int
    num_held_out: int
    gigabytes: float | None = None


@dataclass(frozen=True)
class Cost:
    """What a stage takes.

    Attributes:
        stage: its name.
        seconds: least and most; None where nothing is known of it.
        disk: bytes that it leaves.
        source: where the rate is from.
    """

    stage: str
    seconds: Range | None
    disk: float
    source: str


@dataclass(frozen=True)
class Work:
    """What a stage computes.

    Attributes:
        stage: its name.
        operations: all of them.
        calls: of the network, one after another.
        precision: as params.yaml has it.
        disk: bytes that it leaves.
    """

    stage: str
    operations: float
    calls: float
    precision: str
    disk: float


def costs(
    params: Params, network: Network, corpus: Corpus, *, gpu: str, num_gpus: int, num_cores: int
) -> list[Cost]:
    """Time and disk of each stage that takes long, with method sedd.

    Training and the baseline take all GPUs, the other stages one.

    Args:
        network: that of the model.
        gpu: a name of `rates`.
        num_cores: that pack.
    """
    training = [_training(params, network, num_gpus), _baseline(params, network.vocab_size)]
    others = [
        _evaluation(params, network, corpus),
        _sampling(params, network),
        _scoring(params, network),
    ]
    card = rates().gpus[gpu]
    return [
        _packing(corpus, network.vocab_size, num_cores),
        *(_cost(work, card, rates().training, num_gpus) for work in training),
        *(_cost(work, card, rates().inference, 1) for work in others),
    ]


def _cost(work: Work, gpu: Gpu, shares: Shares, num_gpus: int) -> Cost:
    kind = "bfloat16" if work.precision in ("auto", "bfloat16") else "float32"
    rate = getattr(gpu, kind) * 1e12 * num_gpus
    floor = work.calls * shares.milliseconds / 1e3
    most, least = (max(floor, work.operations / (rate * each)) for each in getattr(shares, kind))
    return Cost(work.stage, (least, most), work.disk, shares.source)


def _training(params: Params, network: Network, num_gpus: int) -> Work:
    train = params.train
    tokens = train.num_steps * train.batch_size * network.length
    calls = train.num_steps * max(1, train.accumulate / num_gpus)
    disk = (STATE + WEIGHT) * network.num_params
    return Work(
        "train", tokens * training_operations(params, network), calls, train.precision, disk
    )


def _baseline(params: Params, vocab_size: int) -> Work:
    network, settings = baseline_of(params, vocab_size), params.baseline
    operations = 3.0 * settings.num_tokens * (network.blocks + network.head)
    calls = settings.num_tokens / (settings.batch_size * network.length)
    disk = (STATE + WEIGHT) * network.num_params
    return Work("baseline", operations, calls, settings.precision, disk)


def _evaluation(params: Params, network: Network, corpus: Corpus) -> Work:
    settings = params.evaluate
    # All but a conditional score with masks have a last step to count.
    draws = settings.num_replicates * (settings.num_draws + (not _is_cached(params)))
    a_text = network.length * draws * (network.blocks + _share(params) * network.head)
    num = min(corpus.num_held_out, settings.num_texts or corpus.num_held_out)
    calls = draws * num / settings.batch_size
    return Work("evaluate", num * a_text, calls, settings.precision, 0)


def _sampling(params: Params, network: Network) -> Work:
    sample, steps = params.sample, _step_counts(params)
    operations = sample.num * sum(sampling_operations(params, network, each) for each in steps)
    calls = sum(min(n, network.length) if _is_cached(params) else n + 1 for n in steps)
    disk = len(steps) * sample.num * network.length * BYTES_OF_SAMPLE
    batches = sample.num / sample.batch_size
    return Work("sample, all step counts", operations, calls * batches, sample.precision, disk)


def _scoring(params: Params, network: Network) -> Work:
    texts = params.sample.num * len(_step_counts(params))
    if (scorer := rates().scorers.get(params.score.scorer)) is None:
        own = baseline_of(params, network.vocab_size)
        a_token = own.blocks + own.head
    else:
        a_token = 2.0 * scorer
    calls = texts / params.score.batch_size
    operations = texts * network.length * a_token
    return Work("score, all step counts", operations, calls, params.score.precision, 0)


def _step_counts(params: Params) -> list[int]:
    return [params.steps, *params.sweep, *[params.steps] * len(params.temperatures)]


def baseline_of(params: Params, vocab_size: int) -> Network:
    """The baseline's sizes, a GPT-2's."""
    sizes, length = params.baseline, params.pack.length
    width = sizes.width
    num_params = sizes.num_blocks * 12 * width**2 + (vocab_size + length) * width
    return Network(num_params, width, sizes.num_blocks, vocab_size, length)


def training_operations(params: Params, network: Network) -> float:
    """A token, forward and back; with checkpointing once more forward, but for the head."""
    again = network.blocks if params.train.activation_checkpointing else 0.0
    return 3 * (network.blocks + _share(params) * network.head) + again


def sampling_operations(params: Params, network: Network, num_steps: int) -> float:
    """A sample in `num_steps` steps.

    With a conditional score and masks a sample is evaluated in the steps that reveal something of
    it, of which there are T (1 - (1 - 1/T)^L) of T, and the head is taken once a token.
    """
    length = network.length
    if _is_cached(params):
        evaluated = num_steps * (1 - (1 - 1 / num_steps) ** length)
        return length * (evaluated * network.blocks + network.head)
    return length * (num_steps + 1) * (network.blocks + _share(params) * network.head)


def _is_cached(params: Params) -> bool:
    diffusion = params.diffusion
    return diffusion.graph == "absorb" and diffusion.absorb.parameterization == "conditional"


def _share(params: Params) -> float:
    """Of positions that the head is asked for: masks, half of them, or all."""
    return 0.5 if params.diffusion.graph == "absorb" else 1.0


def _packing(corpus: Corpus, vocab_size: int, num_cores: int) -> Cost:
    packing = rates().packing
    disk = corpus.tokens * (2 if vocab_size <= 2**16 else 4)
    if corpus.gigabytes is None:
        return Cost("pack", None, disk, "how many gigabytes of text was not said")
    slow, fast = (corpus.gigabytes * 1e3 / (each * num_cores) for each in packing.megabytes_a_core)
    return Cost("pack", (fast, slow), disk, packing.source)
