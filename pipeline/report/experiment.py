"""Everything that the report shows of an experiment, put together."""

from dataclasses import dataclass

from pipeline.report.records import (
    Likelihood,
    ModelConfig,
    PackedMeta,
    Provenance,
    Run,
    Sample,
    Scorer,
    Scores,
    Snapshot,
    Timing,
    Trace,
)


@dataclass(frozen=True)
class LossCurve:
    """Losses in nats a block; None before the first step, or where it was not evaluated."""

    step: list[int]
    train_loss: list[float | None]
    eval_loss: list[float | None]


@dataclass(frozen=True)
class AtSteps:
    """Everything about one step count."""

    samples: list[Sample]
    trace: Trace
    timing: Timing
    scores: Scores


@dataclass(frozen=True)
class Experiment:
    """Everything the report shows, in the order of step counts and of temperatures."""

    provenance: Provenance
    packed: PackedMeta
    config: ModelConfig
    model: Run
    baseline: Run
    loss: LossCurve
    baseline_loss: LossCurve
    snapshots: list[Snapshot]
    likelihood: Likelihood
    real_text: Scores
    by_steps: dict[int, AtSteps]
    by_temperature: dict[float, AtSteps]

    def frontier(self, steps: int) -> dict[float, AtSteps]:
        """Samples at `steps` by their temperature, `sample.temperature` among them.

        None at all where no other was asked for.
        """
        if not self.by_temperature:
            return {}
        at = self.by_steps[steps]
        given = {sample.temperature: at for sample in at.samples[:1]}
        return dict(sorted((self.by_temperature | given).items()))

    @property
    def frontier_entropy(self) -> str:
        """The entropy that stands against generative perplexity, by its name in Scores.

        Of running text that of each sample by itself, as papers have it; names are too short.
        """
        return "entropy_per_sample" if self.packed.mode != "pad" else "entropy"

    @property
    def has_mauve(self) -> bool:
        """Whether MAUVE was asked for."""
        return self.real_text.mauve is not None

    @property
    def scorer(self) -> Scorer:
        """The one scorer of every generative perplexity here."""
        return self.real_text.scorer
