"""The report as one HTML page that needs nothing but itself."""

import re
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from pipeline.config.methods import LABELS
from pipeline.references.tables import rows_of
from pipeline.references.trained import Mine
from pipeline.report.experiment import Experiment
from pipeline.report.figures import draw
from pipeline.report.inputs import MOST_SNAPSHOTS
from pipeline.report.published import beside_published
from pipeline.report.records import Trace
from pipeline.templates import templates

_SPECIAL = re.compile(r"((<(?:pad|eos|unk|mask|\|endoftext\|)>)\2*)")
_MISSING = "–"


def render(experiment: Experiment, *, steps: int, num_samples: int) -> str:
    """The page, headed by the figures at `steps`, with `num_samples` texts at each step count."""
    environment = templates(Path(__file__).parent)
    environment.filters |= {
        "num": number,
        "share": share,
        "duration": duration,
        "specials": specials,
        "steps": counted,
    }
    # Glyphs of masks as themselves, not as six ASCII characters each.
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False}
    texts = [sample.text for at in experiment.by_steps.values() for sample in at.samples]
    return environment.get_template("page.html.j2").render(
        e=experiment,
        at=experiment.by_steps[steps],
        steps=steps,
        num_samples=num_samples,
        curves=draw(experiment, steps),
        dataset=dataset(experiment.provenance.repo),
        label=LABELS[experiment.config.method],
        traces=[_trace(at.trace) for at in experiment.by_steps.values() if at.trace.samples],
        excluded=_excluded(experiment),
        references=_references(experiment, steps),
        most_snapshots=MOST_SNAPSHOTS,
        long_texts=sum(map(len, texts)) > 40 * len(texts),
    )


def dataset(repo: str) -> str:
    """What a reader calls the data of `repo`: the last part of its path or address."""
    if repo == "bundled":
        return "bundled names"
    return repo.rstrip("/").rsplit("/", 1)[-1]


def number(value: float | None, digits: int = 2, stderr: float | None = None) -> Markup:
    """`value` with its standard error, fewer digits for large ones; a dash for what is missing."""
    if value is None:
        return Markup(_MISSING)
    size = abs(value)
    digits = 0 if size >= 1000 else 1 if size >= 100 and digits > 1 else digits
    text = Markup(f"{value:,.{digits}f}")
    return text + _plus_minus(stderr, digits)


def share(value: float | None, stderr: float | None = None) -> Markup:
    """A share in [0, 1] as a percentage, its standard error in percentage points."""
    if value is None:
        return Markup(_MISSING)
    error = None if stderr is None else 100 * stderr
    return Markup(f"{100 * value:.1f}%") + _plus_minus(error, 1)


def _plus_minus(stderr: float | None, digits: int) -> Markup:
    if stderr is None:
        return Markup("")
    least = 10.0**-digits
    error = f"{stderr:,.{digits}f}" if stderr >= least / 2 or not stderr else f"&lt;{least:g}"
    return Markup(f' <span class="pm">± {error}</span>')


def counted(num_steps: int, unit: str = "step") -> str:
    """A number of steps with its unit."""
    return f"{num_steps:,} {unit}{'' if num_steps == 1 else 's'}"


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


def specials(text: str) -> Markup:
    """`text` escaped, with runs of the special tokens of a malformed sample marked."""
    marked, end = Markup(""), 0
    for run in _SPECIAL.finditer(text):
        num = len(run[1]) // len(run[2])
        marked += escape(text[end : run.start()])
        marked += Markup("<mark>{}{}</mark>").format(run[2], f"×{num}" if num > 1 else "")
        end = run.end()
    return marked + escape(text[end:])


def _excluded(experiment: Experiment) -> dict[str, list[int]]:
    """The texts that nothing could be scored of, by where they stand in the table."""
    rows = {f"at {counted(n)}": at.scores for n, at in experiment.by_steps.items()}
    rows["of real text"] = experiment.real_text
    return {where: scores.excluded for where, scores in rows.items() if scores.excluded}


def _references(experiment: Experiment, steps: int) -> list[tuple[Mine, list[list[str]]]]:
    """Each figure of a published table, with the table's rows where it may stand there."""
    found = beside_published(experiment, steps)
    return [(mine, [] if mine.differs else rows_of(mine.protocol)) for mine in found]


def _trace(trace: Trace) -> dict[str, Any]:
    """A trace without repetition: the times once, and of each sample only states that differ."""
    samples = []
    for states in trace.samples:
        texts = [state.text for state in states]
        samples.append([[k, s] for k, s in enumerate(texts) if k == 0 or s != texts[k - 1]])
    return {
        "num_steps": trace.num_steps,
        "t": [round(state.t, 6) for state in trace.samples[0]],
        "samples": samples,
    }
