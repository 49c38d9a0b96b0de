import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from report_files import SCORER, STEP_COUNTS, read, write_json

from pipeline.errors import PipelineError
from pipeline.report.experiment import LossCurve
from pipeline.report.page import render


def change(path: Path, **values: Any) -> None:
    write_json(path, json.loads(path.read_text()) | values)


def test_step_counts_come_out_sorted(files: Path) -> None:
    found = read(files, [128, 1, 16])
    assert list(found.by_steps) == [1, 16, 128]


@pytest.mark.parametrize(
    "name",
    [
        "artifacts/provenance.json",
        "artifacts/packed/meta.json",
        "artifacts/checkpoint/config.json",
        "artifacts/snapshots.jsonl",
        "artifacts/runs/train.json",
        "artifacts/runs/baseline.json",
        "artifacts/sweep/samples/16.jsonl",
        "artifacts/sweep/samples/16.trace.json",
        "artifacts/sweep/samples/16.timing.json",
        "artifacts/sweep/scores/16.json",
        "artifacts/scores/real_text.json",
        "reports/likelihood.json",
        "reports/loss.csv",
        "reports/baseline_loss.csv",
    ],
)
def test_a_missing_and_a_damaged_file_are_named(files: Path, name: str) -> None:
    path = files / name
    path.write_bytes(path.read_bytes()[:-40] + b"\xff{")
    with pytest.raises(PipelineError, match=name):
        read(files)
    path.unlink()
    with pytest.raises(PipelineError, match=rf"{name} is missing: run `dvc repro`"):
        read(files)


def test_a_missing_key_and_a_nan_are_named(files: Path) -> None:
    path = files / "artifacts/sweep/scores/4.json"
    scores = json.loads(path.read_text())
    del scores["novelty"]
    write_json(path, scores | {"entropy": float("nan")})
    with pytest.raises(PipelineError) as caught:
        read(files)
    assert "4.json: novelty: Field required" in str(caught.value)
    assert "4.json: entropy: Input should be a finite number" in str(caught.value)


def test_nothing_to_score_is_no_mistake(files: Path) -> None:
    nothing = {"gen_ppl": None, "gen_ppl_stderr": None, "gen_ppl_mean_of_exp": None}
    change(files / "artifacts/sweep/scores/1.json", num_scored=0, **nothing)
    assert read(files).by_steps[1].scores.gen_ppl is None


def test_a_loss_that_diverged_is_still_reported(files: Path) -> None:
    path = files / "artifacts/snapshots.jsonl"
    path.write_text('{"step": 200, "loss": NaN, "eval_loss": null, "texts": []}\n')
    assert read(files).snapshots[0].loss != read(files).snapshots[0].loss


@pytest.mark.parametrize("num", [0, 1, 2, 20, 21, 833])
def test_of_many_snapshots_some_are_read_and_the_rest_is_not_parsed(files: Path, num: int) -> None:
    row = '{{"step": {}, "loss": 1.0, "eval_loss": null, "texts": []}}\n'
    lines = [row.format(step) for step in range(num)]
    path = files / "artifacts/snapshots.jsonl"
    path.write_text("".join(lines))
    found = [snapshot.step for snapshot in read(files).snapshots]
    assert len(found) == min(num, 20)
    assert found[:1] + found[-1:] == [*range(num)][:1] + [*range(num)][-1:]
    gaps = {after - before for before, after in itertools.pairwise(found)}
    assert not gaps or max(gaps) - min(gaps) <= 1
    path.write_text("".join(line if step in found else "?\n" for step, line in enumerate(lines)))
    assert [snapshot.step for snapshot in read(files).snapshots] == found


def test_given_weights_have_a_held_out_loss_and_no_other(files: Path) -> None:
    (files / "reports/loss.csv").write_text("step,train_loss,eval_loss,lr\n0,,17.5,\n")
    run = {"num_steps": 0, "num_tokens": 0, "tokens_per_second": None, "init_sha256": "ab" * 32}
    change(files / "artifacts/runs/train.json", **run)
    experiment = read(files)
    assert experiment.loss == LossCurve([0], [None], [17.5])
    page = render(experiment, steps=max(STEP_COUNTS), num_samples=2)
    assert "its weights as they were given" in " ".join(page.split())
    assert f'from <code class="hash">{"ab" * 32}</code>' in page


def test_figures_of_different_scorers_are_refused(files: Path) -> None:
    path = files / "artifacts/sweep/scores/64.json"
    change(path, scorer={"name": "gpt2", "sha256": "ab" * 32, "precision": "float32"})
    with pytest.raises(PipelineError, match=r"64\.json was scored by gpt2@abababababab, real_text"):
        read(files)
    change(path, scorer=SCORER | {"precision": "bfloat16"})
    name = r"baseline@5c0e5c0e5c0e"
    with pytest.raises(PipelineError, match=rf"by {name} in bfloat16, .* by {name}: figures of"):
        read(files)


@pytest.mark.parametrize("kind", ["samples/4.trace", "samples/4.timing", "scores/4"])
def test_a_file_of_another_step_count_is_refused(files: Path, kind: str) -> None:
    change(files / f"artifacts/sweep/{kind}.json", num_steps=5)
    with pytest.raises(PipelineError, match=r"of 4 in .*sweep must be of 4 steps \(got 5\)"):
        read(files)


def test_states_at_different_times_are_refused(files: Path) -> None:
    states = [{"t": 1.0, "text": "░"}, {"t": 0.0, "text": "a"}]
    other = [{"t": 1.0, "text": "░"}, {"t": 0.5, "text": "a"}]
    change(files / "artifacts/sweep/samples/4.trace.json", samples=[states, other])
    with pytest.raises(PipelineError, match="same times"):
        read(files)


@pytest.mark.parametrize("row", ["10,many,,0.1", "x,1.0,,0.1", "10"])
def test_a_loss_that_is_no_number_is_refused(files: Path, row: str) -> None:
    (files / "reports/loss.csv").write_text(f"step,train_loss,eval_loss,lr\n{row}\n")
    with pytest.raises(PipelineError, match=r"loss\.csv is damaged: columns step, train_loss"):
        read(files)
