"""A clone, tiny parameters, and what a user types: real git, DVC, Oxen and MLflow."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from pyarrow.parquet import read_table, write_table
from reference_files import (
    NARROW,
    SHARED_GPT2,
    config_of,
    write_byte_level,
    write_published,
)
from tiny_clone import ALL, SMALL, make_clone, ran, run, runs
from tiny_project import PROJECT, TINY, changed, readme_blocks, shipped_params

from pipeline.config.edits import edit_yaml

pytestmark = pytest.mark.slow

SCREEN = 160
"""Characters in a line of a terminal."""
WEBTEXT = SHARED_GPT2.parent / "webtext"


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A git clone of the working tree with tiny parameters, in the environment of the tests."""
    return make_clone(tmp_path_factory.mktemp("clone") / "project", {})


def publications(folder: Path) -> int:
    """Commits in the repository of samples, counted in a process: Oxen locks what it opens."""
    if not (folder / ".store" / "oxen" / "samples").exists():
        return 0
    count = "from oxen import Repo; print(len(Repo('.store/oxen/samples').log()))"
    return int(run(folder, "python", "-c", count))


@pytest.mark.filterwarnings("default")
def test_from_a_clone_to_comparable_runs(clone):
    environment = Path(sys.prefix)
    if environment.name == ".venv":
        # pyproject.toml keeps its time, so make finds nothing to install.
        (clone / ".venv").symlink_to(environment)
        assert ran(run(clone, "make", "repro")) == ALL
    else:
        assert ran(run(clone, "dvc", "repro")) == ALL
    assert (clone / "artifacts" / "packed" / "train.bin").stat().st_nlink == 2
    results = json.loads((clone / "reports" / "results.json").read_text())
    assert set(results["by_steps"]) == {"64", "128"}
    assert len(runs(clone)) == 1
    assert publications(clone) == 1

    assert ran(run(clone, "dvc", "repro")) == set()

    output = run(clone, "dvc", "exp", "run", "-S", "steps=7")
    assert ran(output) == {"sample", "score", "report", "track", "publish"}
    results = json.loads((clone / "reports" / "results.json").read_text())
    assert set(results["by_steps"]) == {"64", "7"}
    metrics = json.loads((clone / "reports" / "metrics.json").read_text())
    assert metrics["gen_ppl"] == results["by_steps"]["7"]["gen_ppl"]
    assert len(runs(clone)) == 2
    assert publications(clone) == 2
    table = run(clone, "sedd", "compare")
    assert "7" in table
    assert "128" in table
    shown = run(clone, "dvc", "exp", "show", "--csv")
    assert "gen_ppl" in shown

    # Only the wall-clock of a forced sampling may differ.
    output = run(clone, "dvc", "repro", "-s", "-f", "sample")
    assert ran(output) == {"sample"}
    assert ran(run(clone, "dvc", "repro")) == {"report", "track", "publish"}
    assert len(runs(clone)) == 2
    assert publications(clone) == 2

    # One that is in the sweep too is drawn once more, and counts once.
    output = run(clone, "dvc", "exp", "run", "-S", "steps=64")
    assert ran(output) == {"sample", "score", "report", "track", "publish"}
    drawn = [clone / "artifacts" / part / "64.jsonl" for part in ("samples", "sweep/samples")]
    assert drawn[0].read_bytes() == drawn[1].read_bytes()

    # A sweep has any length, and one that is made shorter leaves nothing of what is gone.
    output = run(clone, "dvc", "exp", "run", "-S", "sweep=[4,64,2]", "-S", "steps=7")
    names = {f"sweep_{stage}@{n}" for stage in ("sample", "score") for n in (4, 2)}
    assert ran(output) == {*names, "report", "track", "publish"}
    held = {path.stem for path in (clone / "artifacts" / "sweep" / "scores").iterdir()}
    assert held == {"2", "4", "64"}
    output = run(clone, "dvc", "exp", "run", "-S", "sweep=[]")
    assert ran(output) == {"report", "track", "publish"}
    results = json.loads((clone / "reports" / "results.json").read_text())
    assert set(results["by_steps"]) == {"7"}
    assert ran(run(clone, "dvc", "repro")) == set()
    run(clone, "git", "checkout", "params.yaml")


OXEN_COMMIT = """
import sys
from pathlib import Path
import oxen
folder = Path(sys.argv[1])
oxen.user.config_user("t", "t@example.org")
repo = oxen.Repo(str(folder))
if not (folder / ".oxen").exists():
    repo.init()
for path in sorted(folder.iterdir()):
    if path.is_file():
        repo.add(str(path))
print(repo.commit("as it is").id)
"""


def oxen_commit(clone: Path, folder: Path) -> str:
    """Commit the files of `folder` in a process of its own; returns the commit's id."""
    environment = f"OXEN_CONFIG_DIR={folder.parent}/config"
    return run(clone, "env", environment, "python", "-c", OXEN_COMMIT, str(folder)).split()[-1]


@pytest.mark.filterwarnings("default")
def test_a_commit_that_leaves_the_data_alone_reruns_what_names_it(clone, tmp_path):
    """A repository of one's own: first another commit of the same bytes, then one of a note."""
    run(clone, "dvc", "repro")
    names = tmp_path / "names"
    shutil.copytree(clone / "pipeline" / "data" / "baby_names", names)
    for note in (None, "another commit"):
        if note:
            (names / "note.txt").write_text(note)
        values = yaml.safe_load((clone / "params.yaml").read_text())
        source = {"data.repo": str(names), "data.revision": oxen_commit(clone, names)}
        (clone / "params.yaml").write_text(yaml.safe_dump(changed(values, source)))
        assert ran(run(clone, "dvc", "repro")) == {"fetch", "report", "track", "publish"}
    run(clone, "git", "checkout", "params.yaml")


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("block", readme_blocks(), ids=lambda block: block[-1])
def test_commands_of_the_readme(clone, block):
    """Each block in its order, after the pipeline has run, in the environment of the tests."""
    run(clone, "dvc", "exp", "remove", "--all-commits")
    run(clone, "dvc", "repro")
    for command in block:
        if command == ". .venv/bin/activate":
            continue
        output = run(clone, "sh", "-c", command)
        if command.startswith(("dvc exp show", "dvc metrics show")):
            lines = output.splitlines()
            assert any("bound_bpb" in line for line in lines)
            assert max(map(len, lines)) <= SCREEN
        if "-S diffusion." in command or "-S method" in command:
            assert {"train", "evaluate", "report", "track", "publish"} <= ran(output)
            assert "baseline" not in ran(output)
            page = (clone / "reports" / "index.html").read_text()
            assert command.split("=")[-1] in page.lower()
    run(clone, "git", "checkout", "params.yaml")


@pytest.mark.filterwarnings("default")
def test_a_published_checkpoint_goes_through_the_pipeline(clone, tmp_path):
    """Imported with a tokenizer of bytes, then evaluated, sampled, scored, tracked, published."""
    published, model, names = (tmp_path / name for name in ("published", "model", "names"))
    names.mkdir()
    for split, num in (("train", 400), ("test", 80)):
        table = read_table(clone / "pipeline" / "data" / "baby_names" / f"{split}.parquet")
        write_table(table.slice(0, num), names / f"{split}.parquet")
    revision = oxen_commit(clone, names)
    config = config_of(NARROW, tokens=257 + 20)
    write_published(published, "pth", config, prefix="module.", ema=True)
    write_byte_level(published, num_merges=20)
    run(clone, "sedd", "import", str(published), str(model))
    given = {
        "data.repo": str(names),
        "data.revision": revision,
        "tokenizer.kind": "gpt2",
        "tokenizer.source": str(model / "tokenizer"),
        "diffusion.absorb.parameterization": "raw",
        "model.width": NARROW["hidden_size"],
        "model.num_blocks": NARROW["n_blocks"],
        "model.num_heads": NARROW["n_heads"],
        "model.cond_dim": NARROW["cond_dim"],
        "train.init": str(model),
        "train.num_steps": 0,
    }
    values = changed(shipped_params(), SMALL | given)
    (clone / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    assert "train.init_revision: " in run(clone, "sedd", "pin")
    before = len(runs(clone)), publications(clone)
    assert ran(run(clone, "dvc", "repro")) == ALL
    weights = "model.safetensors"
    kept = (clone / "artifacts" / "checkpoint" / weights).read_bytes()
    assert kept == (model / weights).read_bytes()
    assert (len(runs(clone)), publications(clone)) == (before[0] + 1, before[1] + 1)
    assert "as they were" in (clone / "reports" / "index.html").read_text()
    by_steps = json.loads((clone / "reports" / "results.json").read_text())["by_steps"]
    # Bytes drawn from random weights seldom make up characters.
    assert all(row["invalid_utf8"] > 0.5 for row in by_steps.values())
    run(clone, "git", "checkout", "params.yaml")


WINDOWS = {
    "data.column": "text",
    "tokenizer.source": str(SHARED_GPT2),
    "pack.length": 64,
    "baseline.num_tokens": 20480,
    "evaluate.batch_size": 16,
    "train.eval_blocks": 16,
    "baseline.eval_blocks": 16,
    "train.batch_size": 8,
    "train.num_steps": 12,
    "train.eval_every": 6,
    "train.sample_every": 6,
}


@pytest.fixture
def web_text(clone, tmp_path):
    """Some hundred documents in a local Oxen repository, in a clone whose parameters take them."""
    if not (WEBTEXT.is_dir() and SHARED_GPT2.is_dir()):
        pytest.skip("needs web text and GPT-2's tokenizer in ../shared/data")
    texts = tmp_path / "texts"
    texts.mkdir()
    # Short ones of the held-out: each position of theirs costs 50,257 logits a draw.
    for split, first, num in (("train", 0, 300), ("test", 2, 3)):
        table = read_table(WEBTEXT / f"{split}.parquet")
        write_table(table.slice(first, num), texts / f"{split}.parquet")
    source = {"data.repo": str(texts), "data.revision": oxen_commit(clone, texts)}
    values = changed(shipped_params(), SMALL | WINDOWS | source)
    (clone / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    yield clone
    run(clone, "git", "checkout", "params.yaml")


@pytest.mark.filterwarnings("default")
def test_web_text_goes_through_the_pipeline(web_text):
    """As windows of running text in GPT-2's tokens, chosen by `-S` alone."""
    before = len(runs(web_text))
    command = "dvc exp run -S tokenizer.kind=gpt2 -S pack.mode=concat"
    assert f"\n{command}\n" in (PROJECT / "README.md").read_text()
    output = run(web_text, *command.split())
    assert ran(output) == ALL
    assert "blocks of 64 tokens: train " in output
    meta = json.loads((web_text / "artifacts" / "packed" / "meta.json").read_text())
    assert (meta["mode"], meta["vocab_size"], meta["text_lengths"]) == ("concat", 50257, None)
    results = json.loads((web_text / "reports" / "results.json").read_text())
    for row in (*results["by_steps"].values(), results["real_text"]):
        assert row["novelty"] is None
        assert row["well_formed"] == 1
    # All 64 tokens of each of 16 samples are scored.
    scores = json.loads((web_text / "artifacts" / "scores" / "128.json").read_text())
    assert (scores["num_scored"], scores["num_tokens"]) == (16, 16 * 64)
    likelihood = results["likelihood"]
    assert likelihood["num_texts"] == meta["num_blocks"]["test"]
    assert likelihood["num_chars"] > 3 * 64 * meta["num_blocks"]["test"]
    page = (web_text / "reports" / "index.html").read_text()
    assert "nats a block" in page
    assert "nats a name" not in page
    assert len(runs(web_text)) == before + 1
    assert run(web_text, "sedd", "sample", "--num", "1", "--steps", "2", "--seed", "0")
    output = run(web_text, "sedd", "infill", "--prefix", "The ", "--suffix", ".", status=1)
    assert "trained on running text" in output
    assert ran(run(web_text, "dvc", "exp", "run", "-S", "tokenizer.kind=bpe", "pack")) == {
        "tokenizer", "pack",
    }  # fmt: skip
    meta = json.loads((web_text / "artifacts" / "packed" / "meta.json").read_text())
    assert 1000 < meta["vocab_size"] <= 16384


@pytest.mark.filterwarnings("default")
def test_the_recipe_of_openwebtext_goes_through_the_pipeline(web_text):
    """`sedd preset owt-small`, then all that takes a GPU made small."""
    source = yaml.safe_load((web_text / "params.yaml").read_text())["data"]
    run(web_text, "git", "checkout", "params.yaml")
    own = {f"data.{key}": source[key] for key in ("repo", "revision")}
    edit_yaml(web_text / "params.yaml", own)
    output = run(web_text, "sedd", "preset", "owt-small")
    assert "next: `sedd pin` writes which gpt2-large is the scorer" in output
    given = {f"data.files.{split}": f"{split}.parquet" for split in ("train", "test")}
    small = {key: TINY[key] for key in TINY if not key.startswith("report")}
    edit_yaml(
        web_text / "params.yaml",
        small
        | WINDOWS
        | given
        | {"train.accumulate": 1, "baseline.accumulate": 1}
        | {"score.scorer": "baseline", "sweep": [2], "steps": 4},
    )
    values = yaml.safe_load((web_text / "params.yaml").read_text())
    assert (values["tokenizer"]["kind"], values["pack"]["mode"]) == ("gpt2", "concat")
    assert values["diffusion"]["absorb"]["parameterization"] == "raw"
    assert {"train", "evaluate", "sample", "sweep_score@2", "track"} <= ran(
        run(web_text, "dvc", "repro")
    )
    results = json.loads((web_text / "reports" / "results.json").read_text())
    assert set(results["by_steps"]) == {"2", "4"}
    assert results["likelihood"]["terms"]["reconstruction"] > 0
    assert "0 values changed" not in run(web_text, "sedd", "preset", "names")
    before = run(web_text, "git", "show", "HEAD:params.yaml")
    now = yaml.safe_load((web_text / "params.yaml").read_text())
    assert now["train"]["num_steps"] == shipped_params()["train"]["num_steps"]
    assert before.count("#") == (web_text / "params.yaml").read_text().count("#")


@pytest.mark.filterwarnings("default")
def test_killed_dvc_and_stage_resume(clone):
    """kill -9 of DVC and its trainer, then of DVC alone; `dvc repro` ends with the same bytes."""
    values = changed(
        shipped_params(), SMALL | {"train.num_steps": 600, "train.checkpoint_every": 2}
    )
    (clone / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    run(clone, "dvc", "repro", "train")
    expected = (clone / "artifacts" / "checkpoint" / "model.safetensors").read_bytes()
    losses = (clone / "reports" / "loss.csv").read_bytes()
    for kill in (os.killpg, os.kill):
        process = subprocess.Popen(
            ["dvc", "repro", "-s", "-f", "train"],
            cwd=clone,
            env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
            start_new_session=True,
        )
        while not list((clone / ".store" / "train").glob("train-*/state.pt")):
            assert process.poll() is None
            time.sleep(0.02)
        kill(process.pid, 9)
        process.wait()
        while "in use" in run(clone, "sedd", "clean"):
            time.sleep(0.1)
        output = run(clone, "dvc", "repro", "-s", "-f", "train")
        assert "train: 100%" in output
        assert "| 0/600 " not in output
        assert (clone / "artifacts" / "checkpoint" / "model.safetensors").read_bytes() == expected
        assert (clone / "reports" / "loss.csv").read_bytes() == losses
    run(clone, "git", "checkout", "params.yaml")
