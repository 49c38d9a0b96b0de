"""Samples by label, and what labels spare, where there are labels; nothing of it where not."""

import json
import re
from pathlib import Path

from report_files import STEP_COUNTS, read, write_json, write_rows

from pipeline.report.metrics import results
from pipeline.report.page import render

LOOKS = {"num": 18, "num_sure": 10, "share": 0.9, "share_stderr": 0.0949}
REAL = {"real_num": 30, "real_num_sure": 20, "real_share": 0.95, "real_share_stderr": 0.0487}
NOTHING = {"num_sure": 0, "share": None, "share_stderr": None}
STEPS = STEP_COUNTS[-1]


def with_labels(files: Path) -> None:
    """Every second sample of the experiment was asked for another sex."""
    path = files / f"artifacts/samples/{STEPS}.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    asked = ({"labels": {"Sex": "FM"[row["index"] % 2]}, "guidance": 2.0} for row in rows)
    write_rows(path, [row | labels for row, labels in zip(rows, asked, strict=True)])
    path = files / f"artifacts/scores/{STEPS}.json"
    by_label = {"Sex": {"F": LOOKS | REAL, "<M>": LOOKS | REAL | NOTHING}}
    write_json(path, json.loads(path.read_text()) | {"by_label": by_label})
    path = files / "reports/likelihood.json"
    given = {"bound_nats_per_char": 2.1, "bound_stderr": 0.01}
    gain = {"gain_nats_per_char": 0.1391, "gain_stderr": 0.0021}
    write_json(path, json.loads(path.read_text()) | {"given_labels": given | gain})


def test_labels_stand_in_the_page_and_the_figures(files: Path) -> None:
    with_labels(files)
    experiment = read(files)
    html = render(experiment, steps=STEPS, num_samples=8)
    table = html.partition('id="by-label"')[2].partition("</table>")[0]
    assert "Sex F" in table
    assert "Sex &lt;M&gt;" in table
    assert "90.0" in table
    assert "95.0" in table
    words = " ".join(re.sub(r"<[^>]+>", "", html).split())
    assert "costs at most 2.100 ± 0.010 nats a character, 0.1391 ± 0.0021 less" in words
    lists = html.partition('id="by-label"')[2].partition("</section>")[0]
    assert lists.count("<ol") == 2
    assert lists.index("<h3>F</h3>") < lists.index("<h3>M</h3>")
    found = results(experiment, STEPS)
    assert found["by_label"]["Sex"]["F"] == LOOKS | REAL
    assert found["likelihood"]["given_labels"]["gain_nats_per_char"] == 0.1391


def test_without_labels_nothing_is_said_of_them(files: Path) -> None:
    experiment = read(files)
    assert "label" not in results(experiment, STEPS)
    assert "given_labels" not in results(experiment, STEPS)["likelihood"]
    assert "By label" not in render(experiment, steps=STEPS, num_samples=8)
