"""Stages in units: killed amid them they end with the same bytes; and a part of the texts."""

import os
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tiny_project import PROJECT, set_params, stage_command
from tiny_scorers import write_baseline
from toy import toy_config

from pipeline.baseline.gpt2 import block_nats, load_baseline
from pipeline.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from pipeline.data.packed import Packed
from pipeline.data.tokenizer import TextTokenizer
from pipeline.files import read_object, store
from pipeline.methods.sedd.bound import draw_bound
from pipeline.methods.sedd.model import SEDD
from pipeline.scale.units import Units
from stages import evaluate, real_text, sample, score, zero_shot

ARTIFACTS = Path("artifacts")
CHECKPOINT, BASELINE, DATA, PACKED, TOKENIZER = (
    ARTIFACTS / name for name in ("checkpoint", "baseline", "data", "packed", "tokenizer")
)
NAMES = ["Ada", "Ben", "Cleo", "Dora", "Emil", "Fay", "Gus", "Hal", "Ida", "Jon"]
OUT = Path("out")
CPU = torch.device("cpu")
SAMPLES = OUT / "3.jsonl"
# A stage, its arguments, and its outs but for clocks.
STAGES = {
    "sample": (sample, [3, CHECKPOINT, TOKENIZER, OUT], [SAMPLES, OUT / "3.trace.json"]),
    "score": (score, [SAMPLES, DATA, TOKENIZER, PACKED, BASELINE, OUT / "s"], [OUT / "s"]),
    "real_text": (real_text, [TOKENIZER, PACKED, BASELINE, OUT / "r"], [OUT / "r"]),
    "evaluate": (evaluate, [CHECKPOINT, BASELINE, PACKED, OUT / "l"], [OUT / "l"]),
    "zero_shot": (zero_shot, ["names", CHECKPOINT, DATA, OUT / "z"], [OUT / "z"]),
}


@pytest.fixture
def project(tiny):
    """Random models, and no unit of more than a few texts."""
    text = TextTokenizer.load(TOKENIZER)
    torch.manual_seed(0)
    model = SEDD(toy_config("absorb", "raw", vocab_size=text.size, length=16, t_min=0.1))
    save_checkpoint(CHECKPOINT, model, tokenizer=TOKENIZER, tokenizer_sha256=text.sha256)
    write_baseline(tiny, text)
    DATA.mkdir()
    for split in ("train", "test"):
        pq.write_table(pa.table({"Names": NAMES}), DATA / f"{split}.parquet")
    declared = {"repo": ".", "revision": "0", "file": "test.parquet", "column": "Names"}
    declared |= {"of": None, "split": None, "detokenizer": "none", "protocols": ["exact"]}
    set_params(
        {
            "sample.batch_size": 4,
            "score.batch_size": 4,
            "evaluate.batch_size": 10,
            "zero_shot.batch_size": 2,
            "zero_shot.sets": {"names": declared},
        }
    )
    return tiny


@contextmanager
def counted(after=None):
    """The units that are kept meanwhile, by name and index; after so many the process is killed."""
    keep, found = Units._keep, []

    def kept(units, index, result):
        keep(units, index, result)
        found.append((units.name, index))
        if len(found) == after:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Units, "_keep", kept)
        yield found


def killed(stage, arguments, after):
    """Run a stage in a process that is killed once it has kept so many units."""
    child = os.fork()
    if child == 0:
        try:
            with counted(after):
                stage.main(*arguments)
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


@pytest.mark.parametrize("name", STAGES)
def test_a_killed_stage_goes_on_to_the_same_bytes(project, name):
    stage, arguments, outs = STAGES[name]
    if name == "score":
        sample.main(*STAGES["sample"][1])
    with counted() as units:
        stage.main(*arguments)
    right = [out.read_bytes() for out in outs]
    for out in outs:
        out.unlink()
    after = 2 * len(units) // 3
    killed(stage, arguments, after)
    assert not any(out.exists() for out in outs)
    (folder,) = (path for path in (store() / "units").iterdir() if path.is_dir())
    assert len(list(folder.iterdir())) == after >= 2
    with counted() as again:
        stage.main(*arguments)
    assert [out.read_bytes() for out in outs] == right
    assert again == units[after:]
    assert len(set(units)) == len(units)
    assert list((store() / "units").iterdir()) == []


def test_what_decides_a_result_decides_which_units_are_taken_up(project):
    stage, arguments, _ = STAGES["sample"]
    killed(stage, arguments, 2)
    usual = {"sample.seed": 0, "sample.batch_size": 4, "sample.top_p": 1.0}
    for changes in ({"sample.seed": 1}, {"sample.batch_size": 5}, {"sample.top_p": 0.9}):
        set_params(usual | changes)
        with counted() as again:
            stage.main(*arguments)
        assert len(again) == 4, changes
    set_params(usual)
    with counted() as again:
        stage.main(*arguments)
    assert again == [("batch", 2), ("batch", 3)]


def test_a_part_of_the_held_out_texts_is_evaluated_and_the_baseline_on_the_same(project):
    stage, arguments, (out,) = STAGES["evaluate"]
    set_params({"evaluate.num_texts": 8})
    stage.main(*arguments)
    found, some = read_object(out), Packed.open(PACKED).test[::5]
    exact, num_tokens = block_nats(load_baseline(BASELINE, CPU), some, batch_size=8)
    assert (found["num_texts"], found["num_texts_of"]) == (8, 40)
    assert found["num_tokens"] == num_tokens.sum()
    assert found["baseline_nats_per_block"] == pytest.approx(exact.mean())
    repeats = {"num_replicates": 16, "num_draws": 2, "batch_size": 10, "seed": 0}
    bound = draw_bound(load_checkpoint(CHECKPOINT, CPU), some, **repeats)
    assert found["bound_nats_per_block"] == pytest.approx(bound.total.mean().item())
    set_params({"evaluate.num_texts": 41})
    stage.main(*arguments)
    found = read_object(out)
    assert (found["num_texts"], found["num_texts_of"]) == (40, 40)


RANKS = {"train.accumulate": 2, "baseline.accumulate": 2, "resources.processes": 2}


def started(name):
    """A stage in a process of its own."""
    command = stage_command(name, *STAGES[name][1])
    surroundings = os.environ | {"PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=surroundings, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", STAGES)
def test_ranks_share_units_and_write_what_one_process_writes(project, name):
    stage, arguments, outs = STAGES[name]
    if name == "score":
        sample.main(*STAGES["sample"][1])
    stage.main(*arguments)
    right = [out.read_bytes() for out in outs]
    for out in outs:
        out.unlink()
    set_params(RANKS)
    process = started(name)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "warning" not in errors.lower(), errors
    assert [out.read_bytes() for out in outs] == right
    assert list((store() / "units").iterdir()) == []
    assert not list(store().glob("ranks-*"))


@pytest.mark.slow
def test_a_killed_rank_ends_all_and_the_next_run_goes_on(project):
    stage, arguments, outs = STAGES["evaluate"]
    stage.main(*arguments)
    right = [out.read_bytes() for out in outs]
    outs[0].unlink()
    set_params(RANKS)
    process = started("evaluate")
    while not any((store() / "units").glob("evaluate-*/*")):
        assert process.poll() is None
        time.sleep(0.01)
    parent = psutil.Process(process.pid)
    ranks = {child.environ().get("RANK"): child for child in parent.children()}
    ranks["1"].kill()
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 1
    assert errors.splitlines()[-1] == "error: rank 1 was killed by SIGKILL; the next run goes on"
    assert not any(rank.is_running() for name, rank in ranks.items() if name)
    with counted() as again:
        set_params({"resources.processes": 1})
        stage.main(*arguments)
    assert [out.read_bytes() for out in outs] == right
    assert len(again) > 0
