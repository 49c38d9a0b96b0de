"""Zero-shot sets in the pipeline: from a parquet file to a pinned set, its figures, and the DAG."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
import torch
import yaml
from pyarrow import parquet
from tiny_clone import make_clone, ran, run
from tiny_project import PATIENCE, PROJECT, TINY, write_params
from toy import toy_config

from pipeline.checkpoints.checkpoint import save_checkpoint, weights_sha256
from pipeline.config.params import load_params
from pipeline.data.tokenizer import TextTokenizer
from pipeline.errors import ParamsError
from pipeline.files import sha256
from pipeline.methods.sedd.model import SEDD
from pipeline.oxen.opening import open_repository
from stages.zero_shot import main as score
from stages.zero_shot_fetch import main as fetch

ROWS = ["Ada\n", "", *["Ben", "Cleo", "Dora"] * 6]
OUT = Path("artifacts/zero_shot/names.json")
DATA = Path("artifacts/zero_shot_data/names")


def declared(repo, revision, **changes):
    return {
        "repo": str(repo),
        "revision": revision,
        "file": "test.parquet",
        "column": "text",
        "of": None,
        "split": "test",
        "detokenizer": "none",
        "protocols": ["exact"],
        **changes,
    }


def write_parquet(path, rows=ROWS):
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table({"text": rows}), path)
    return path


def write_set(folder, sets, **changes):
    """params.yaml that declares sets and scores all of them."""
    values = {"zero_shot.sets": sets, "zero_shot.names": list(sets), **changes}
    write_params(folder, TINY | values)


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A repository with a set, and its one commit."""
    folder = tmp_path_factory.mktemp("repository")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OXEN_CONFIG_DIR", str(folder / "no configuration"))
        patch.setenv("DVC_ROOT", str(folder))
        path = write_parquet(folder / "files" / "test.parquet", ROWS[1:])
        made = open_repository(str(folder / "sets"), PATIENCE, create=True)
        return folder / "sets", made.commit({"test.parquet": path}, "a set")


@pytest.fixture
def checkpoint(tiny):
    """Random weights for the names of the tiny project."""
    text = TextTokenizer.load(Path("artifacts/tokenizer"))
    torch.manual_seed(0)
    model = SEDD(toy_config("absorb", "conditional", vocab_size=text.size, length=16))
    save_checkpoint(
        Path("artifacts/checkpoint"),
        model,
        tokenizer=Path("artifacts/tokenizer"),
        tokenizer_sha256=text.sha256,
    )
    return Path("artifacts/checkpoint")


def refused(capsys, stage, *arguments):
    with pytest.raises(SystemExit) as exit:
        stage(*arguments)
    assert exit.value.code == 1
    return capsys.readouterr().err


def test_a_pinned_set_is_fetched_and_scored(tiny, repository, checkpoint):
    repo, commit = repository
    write_set(tiny, {"names": declared(repo, commit)}, **{"zero_shot.max_blocks": 3})
    fetch("names", DATA)
    score("names", checkpoint, DATA, OUT)
    found = json.loads(OUT.read_text())
    assert (found["repo"], found["revision"], found["file"]) == (str(repo), commit, "test.parquet")
    assert found["sha256"] == sha256(repo.parent / "files" / "test.parquet")
    assert found["checkpoint_sha256"] == weights_sha256(checkpoint)
    exact = found["protocols"]["exact"]
    num = sum(map(len, ROWS[1:])) + len(ROWS[1:])
    assert (exact["num_texts"], exact["num_stream"]) == (len(ROWS) - 1, num)
    assert (exact["num_blocks"], exact["num_blocks_of"]) == (3, -(-num // 16))
    assert exact["nats_per_token"] > 0


def test_what_cannot_be_scored_is_said(tiny, checkpoint, capsys):
    """The tokenizer of names knows no line end, and is not GPT-2's."""
    write_parquet(DATA / "test.parquet")
    wrong = {
        "row 0 holds what this tokenizer does not know ('\\n')": {},
        "protocol sedd: its figures are of GPT-2's tokens": {"protocols": ["sedd"]},
        "no column 'mine' (zero_shot.sets.names.column)": {"column": "mine"},
    }
    for said, changes in wrong.items():
        write_set(tiny, {"names": declared("sets", "0", **changes)})
        assert said in refused(capsys, score, "names", checkpoint, DATA, OUT)
        assert not OUT.exists()
    write_set(tiny, {"names": declared("sets", "0")}, **{"zero_shot.against": "other"})
    Path("other").mkdir()
    said = refused(capsys, score, "names", checkpoint, DATA, OUT)
    assert re.search(r"zero_shot.against_revision: .*other is not pinned: `sedd pin`", said)


def test_what_cannot_be_fetched_is_named_by_its_key(tiny, repository, capsys):
    repo, commit = repository
    wrong = {
        "zero_shot.sets.names.repo: ": {"repo": "nowhere"},
        "zero_shot.sets.names.revision: a branch moves": {"revision": "main"},
        "zero_shot.sets.names.file": {"file": "other.parquet"},
        "zero_shot.sets.names.file: test.doc: a dataset file is": {"file": "test.doc"},
    }
    for said, changes in wrong.items():
        write_set(tiny, {"names": declared(repo, commit) | changes})
        assert said in refused(capsys, fetch, "names", DATA)
        assert not DATA.exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"zero_shot.names": ["other"]}, "which are: names (got other)"),
        ({"zero_shot.names": ["names", "names"]}, "names must differ"),
        ({"zero_shot.num_draws": 3}, "zero_shot.num_draws"),
        ({"zero_shot.workers": 0}, "zero_shot.workers"),
    ],
)
def test_wrong_declarations(tmp_path, changes, said):
    write_set(tmp_path, {"names": declared("sets", "0")}, **changes)
    with pytest.raises(ParamsError, match=re.escape(said)):
        load_params(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"protocols": ["mine"]}, "protocols.0"),
        ({"protocols": []}, "protocols"),
        ({"detokenizer": "mine"}, "detokenizer"),
        ({"of": "mine"}, "of"),
        ({"file": "../x.parquet"}, "file"),
    ],
)
def test_wrong_values_of_a_set(tmp_path, changes, key):
    write_set(tmp_path, {"names": declared("sets", "0", **changes)})
    with pytest.raises(ParamsError, match=f"zero_shot.sets.names.{key}: "):
        load_params(tmp_path / "params.yaml")


def test_names_of_sets_are_parts_of_paths(tmp_path):
    write_set(tmp_path, {"../x": declared("sets", "0")})
    with pytest.raises(ParamsError, match="zero_shot"):
        load_params(tmp_path / "params.yaml")


PAGE = (PROJECT / "docs" / "zero-shot.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_the_recipe_leads_from_a_parquet_file_to_figures_without_a_baseline(tmp_path, monkeypatch):
    """Real Oxen and DVC; with no set declared the stages are what they were."""
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "user_config.toml").write_text('name = "A"\nemail = "a@example.org"\n')
    monkeypatch.setenv("OXEN_CONFIG_DIR", str(tmp_path / "config"))
    write_parquet(
        tmp_path / "hub" / "wikitext-103-raw-v1" / "test-00000-of-00001.parquet", ROWS[2:]
    )
    recipe = re.search(r"<!-- recipe -->\n```python\n(.*?)```", PAGE, re.DOTALL)[1]
    done = subprocess.run(
        [sys.executable, "-c", recipe], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    commit = done.stdout.split()[-1]
    clone = make_clone(tmp_path / "project", {})
    assert "zero_shot" not in run(clone, "dvc", "stage", "list", "--all")
    values = yaml.safe_load((clone / "params.yaml").read_text())
    values["zero_shot"]["sets"] = {"names": declared(tmp_path / "zero-shot", commit)}
    values["zero_shot"]["names"] = ["names"]
    (clone / "params.yaml").write_text(yaml.safe_dump(values))
    said = run(clone, "dvc", "repro", "zero_shot_page@names")
    assert ran(said) == {
        "fetch", "tokenizer", "pack", "train", "zero_shot_fetch@names", "zero_shot@names",
        "zero_shot_page@names",
    }  # fmt: skip
    assert json.loads((clone / OUT).read_text())["revision"] == commit
    assert "<h1>names</h1>" in (clone / "reports/zero_shot/names.html").read_text()
    assert "names, protocol exact: ≤ " in run(clone, "sedd", "references")
    # A set that is dropped is no longer shown, and nothing else runs.
    values["zero_shot"]["names"] = []
    (clone / "params.yaml").write_text(yaml.safe_dump(values))
    assert "names, protocol" not in run(clone, "sedd", "references")
    assert not re.search(r"zero_shot\w*@", run(clone, "dvc", "repro", "--dry", "train"))
