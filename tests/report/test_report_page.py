import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_files import (
    AWKWARD,
    SCORER,
    STEP_COUNTS,
    folder_of,
    read,
    real_text,
    scores,
    write_json,
)

from pipeline.report.experiment import Experiment
from pipeline.report.metrics import results
from pipeline.report.page import counted, dataset, duration, number, render, share, specials


class Page(HTMLParser):
    """What a browser would make of the page: its elements, its addresses and its samples."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.scripts: list[str] = []
        self.samples: dict[str, list[str]] = {}
        self._steps: str | None = None
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        found = dict(attrs)
        names = ("src", "href", "action", "data", "srcset")
        self.addresses += [found[name] or "" for name in names if name in found]
        if tag in ("dd", "td"):
            self.text += " "
        if tag == "ol":
            self._steps = found.get("data-steps")
        if tag == "li" and self._steps:
            self.samples.setdefault(self._steps, []).append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == "ol":
            self._steps = None

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] in ("script", "style"):
            self.scripts.append(data)
            return
        self.text += data
        if self._steps and data.strip():
            self.samples[self._steps][-1] += data


def words(html: str) -> str:
    return re.sub(r"\s+", " ", Page(html).text)


def test_same_page_every_time(experiment: Experiment, html: str) -> None:
    assert render(experiment, steps=64, num_samples=8) == html


def test_page_needs_nothing_but_itself(html: str) -> None:
    page = Page(html)
    assert all(re.match(r"(#|data:)", address) for address in page.addresses)
    assert not re.search(r"https?://|@import|//cdn", html)
    assert not {"img", "iframe", "object", "embed"} & set(page.tags)
    assert page.tags.count("link") == 1


def test_texts_stay_texts(html: str) -> None:
    page = Page(html)
    # The data of the slider and its code; nothing that came with a sample.
    assert page.tags.count("script") == 2
    assert "{{ 7 * 7 }}" in page.text
    for num_steps in map(str, STEP_COUNTS):
        shown = page.samples[num_steps]
        assert len(shown) == 8
        assert shown[:6] == [text or "empty" for text in AWKWARD]


def test_names_stay_texts(experiment: Experiment) -> None:
    name = "<img src=x onerror='alert(1)'>"
    provenance = experiment.provenance.model_copy(update={"repo": name, "commit": name})
    model = experiment.model.model_copy(update={"device": name})
    scorer = experiment.scorer.model_copy(update={"name": name})
    real_text = experiment.real_text.model_copy(update={"scorer": scorer})
    unknown = experiment.packed.model_copy(update={"unknown": {"train": {name: 1}, "test": {}}})
    changed = replace(
        experiment, provenance=provenance, model=model, real_text=real_text, packed=unknown
    )
    page = Page(render(changed, steps=64, num_samples=8))
    assert "img" not in page.tags
    assert page.text.count(name) >= 6


def test_of_a_stream_no_document_is_counted(experiment: Experiment) -> None:
    blocks = {"train": 900, "eval": 3, "test": 3}
    packed = experiment.packed.model_copy(update={"mode": "stream", "num_blocks": blocks})
    page = Page(render(replace(experiment, packed=packed), steps=64, num_samples=8))
    assert "the last characters of the text, and as many before them (eval)" in page.text
    assert "900 train, 3 eval, 3 test" in " ".join(page.text.split())
    assert "(stream: of train any window)" in page.text
    assert "none is an end" in page.text
    assert "of them in the training split too" not in page.text


def test_special_tokens_of_a_malformed_sample_stand_out() -> None:
    assert specials("Jo<pad>h<b>") == "Jo<mark>&lt;pad&gt;</mark>h&lt;b&gt;"
    assert specials("<pad><pad><unk>") == "<mark>&lt;pad&gt;×2</mark><mark>&lt;unk&gt;</mark>"


def test_page_names_what_it_shows(html: str) -> None:
    text = words(html)
    for fact in (
        "98717ad1",
        "Parameterization conditional",
        "absorb",
        "loglinear",
        "At 64 sampling steps",
        "801,975",
        "803,072",
        "4,096,000",
        "3,276,800",
        "0 train, 3 test (é 2×, < 1×)",
        f"scored by baseline@{SCORER['sha256'][:12]}",
        SCORER["sha256"],
        "0123" * 16,
        "a1b2" * 16,
        "torch 2.13.0+cpu",
        "1f0c" * 16,
        "gen_ppl_mean_of_exp",
        "2.239 ± 0.009",
        "2.061 ± 0.008",
        "0.178 ± 0.003",
        "nats a character",
        "nats a token 2.240 ± 0.009",
        "perplexity a token 9.40 7.86",
        "bits a byte 3.735 3.439",
        "nats a name 16.56 15.24",
        "38,528 tokens, 38,547 characters",
        "33,335 bytes",
        "integral 16.550, prior 0.000, reconstruction 0.010 nats a name",
        "Excluded from the perplexity, with nothing to score: at 1 step: sample 1;",
    ):
        assert fact in text.replace("\N{NO-BREAK SPACE}", " "), fact


def test_a_bound_of_a_part_of_the_held_out_texts_says_so(experiment: Experiment, html: str) -> None:
    part = experiment.likelihood.model_copy(update={"num_texts": 512})
    said = words(render(replace(experiment, likelihood=part), steps=64, num_samples=3))
    assert "on 512 of 5,212 names" in said
    assert "Over 512 of 5,212 held-out names, evenly spaced, 38,528 tokens" in said
    assert "Over 5,212 held-out names, 38,528 tokens" in words(html)


def test_real_text_stands_in_the_table(html: str) -> None:
    table = html[html.index('id="by-steps"') : html.index("</table>")]
    rows = re.findall(r'<th scope="row">([^<]+)</th>', table)
    assert rows == ["1", "4", "16", "64", "128", "real text"]
    assert '<tr class="chosen">\n          <th scope="row">64<' in table


def test_mauve_stands_in_the_table_and_in_figures_only_where_it_was_asked_for(
    files: Path, html: str
) -> None:
    assert "MAUVE" not in html
    real = real_text() | {"mauve": 0.961, "mauve_spread": 0.004}
    write_json(files / "artifacts/scores/real_text.json", real)
    for n in STEP_COUNTS:
        found = {"mauve": 0.5 + n / 1000, "mauve_spread": None}
        write_json(folder_of(files, n) / f"scores/{n}.json", scores(n) | found)
    experiment = read(files)
    assert results(experiment, 64)["by_steps"]["64"]["mauve"] == pytest.approx(0.564)
    assert results(experiment, 64)["real_text"]["mauve_spread"] == 0.004
    page = words(render(experiment, steps=64, num_samples=8))
    assert "0.564" in page
    assert "0.961 ± 0.004" in page


def test_slider_data_is_every_state_of_the_trace(html: str, written: Path) -> None:
    found = re.search(r'<script type="application/json" id="traces">(.*?)</script>', html)
    assert found
    assert "░" in found[1]
    traces = json.loads(found[1])
    assert [trace["num_steps"] for trace in traces] == list(STEP_COUNTS)
    for trace in traces:
        path = folder_of(written, trace["num_steps"]) / f"samples/{trace['num_steps']}.trace.json"
        for changes, states in zip(
            trace["samples"], json.loads(path.read_text())["samples"], strict=True
        ):
            text = dict(changes)
            shown = ""
            for k, state in enumerate(states):
                shown = text.get(k, shown)
                assert shown == state["text"]
                assert trace["t"][k] == pytest.approx(state["t"], abs=1e-6)


def test_uniform_noise_has_no_masks(experiment: Experiment) -> None:
    config = experiment.config.model_copy(update={"graph": "uniform"})
    text = words(render(replace(experiment, config=config), steps=64, num_samples=1))
    assert "starts as random tokens at t = 1" in text
    assert "░ mask" not in text


def test_long_texts_get_the_whole_width(experiment: Experiment) -> None:
    at = experiment.by_steps[64]
    long = [sample.model_copy(update={"text": "word " * 50}) for sample in at.samples]
    html = render(
        replace(experiment, by_steps={64: replace(at, samples=long)}), steps=64, num_samples=1
    )
    assert 'class="columns long"' in html


def test_without_traces_snapshots_unknowns_or_figures(files: Path) -> None:
    nothing = {"gen_ppl": None, "gen_ppl_stderr": None, "entropy": None, "num_scored": 0}
    excluded = {"excluded": list(range(128))}
    for n in STEP_COUNTS:
        write_json(folder_of(files, n) / f"samples/{n}.trace.json", {"num_steps": n, "samples": []})
        write_json(folder_of(files, n) / f"scores/{n}.json", scores(n) | nothing | excluded)
    write_json(files / "artifacts/scores/real_text.json", real_text() | nothing)
    (files / "artifacts/snapshots.jsonl").write_text("")
    experiment = read(files)
    html = render(experiment, steps=128, num_samples=20)
    assert "<script" not in html
    text = words(html)
    assert "No sample was traced" in text
    assert "No snapshots" in text
    assert "18, 19 and 108 more" in text
    assert "None" not in text
    assert not re.search(r"\bnan\b", text)


@pytest.mark.parametrize(
    ("value", "digits", "stderr", "text"),
    [
        (12.345, 2, None, "12.35"),
        (12.345, 2, 0.1, "12.35 ± 0.10"),
        (12.345, 2, 0.0, "12.35 ± 0.00"),
        (12.345, 2, 0.001, "12.35 ± <0.01"),
        (123.45, 2, None, "123.5"),
        (1234567.8, 2, 1234.5, "1,234,568 ± 1,234"),
        (-0.5, 3, None, "-0.500"),
        (None, 3, 0.1, "–"),
    ],
)
def test_numbers(value: float | None, digits: int, stderr: float | None, text: str) -> None:
    assert number(value, digits, stderr).striptags() == text


def test_shares() -> None:
    assert share(0.98765, 0.0123).striptags() == "98.8% ± 1.2"
    assert share(1.0) == "100.0%"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.05, "0.1 s"),
        (42.4, "42 s"),
        (119.7, "2 min 0 s"),
        (212.4, "3 min 32 s"),
        (7290, "2 h 1 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_words() -> None:
    assert [counted(1), counted(1024)] == ["1 step", "1,024 steps"]
    assert counted(1, "sampling step") == "1 sampling step"
    assert dataset("https://hub.oxen.ai/datasets/baby_names") == "baby_names"
    assert dataset("/data/names/") == "names"
