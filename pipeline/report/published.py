"""What of an experiment stands beside published figures, or why it may not."""

import math

from pipeline.references.trained import GEN_PPL, Mine, Trained, figures_of
from pipeline.report.experiment import Experiment


def beside_published(experiment: Experiment, steps: int) -> list[Mine]:
    """Its figures for tables of models that were trained on the same text; samples at `steps`."""
    at, bound, packed = experiment.by_steps[steps], experiment.likelihood, experiment.packed
    keys = [key for key, (_, entropy, _) in GEN_PPL.items() for key in (key, entropy)]
    return figures_of(
        Trained(
            data=experiment.provenance.repo,
            mode=packed.mode,
            length=packed.length,
            vocab_size=packed.vocab_size,
            num_blocks=packed.num_blocks["test"],
            num_texts=bound.num_texts,
            bits_per_char=bound.bound_bits_per_char,
            stderr=bound.bound_stderr / math.log(2),
            num_steps=steps,
            drawn_by=at.samples[0].drawn_by if at.samples else {},
            num_samples=len(at.samples),
            scorer=experiment.scorer.name,
            scores={
                name: getattr(at.scores, name) for key in keys for name in (key, f"{key}_stderr")
            },
        )
    )
