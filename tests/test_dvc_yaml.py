"""dvc.yaml: what each stage depends on, by parameter and by code."""

import ast
import shutil
from pathlib import Path

import pytest
import yaml
from tiny_project import PROJECT, changed, shipped_params

STAGES = yaml.safe_load((PROJECT / "dvc.yaml").read_text())["stages"]

# They check, say and keep files whole; none of them decides what a stage writes.
EXEMPT = {
    f"pipeline/{name}.py"
    for name in ("params", "errors", "files", "progress", "device", "weights", "hub")
}

SAMPLE = [f"sample@{n}" for n in (1, 4, 16, 64, 128)]
SCORE = [f"score@{n}" for n in (1, 4, 16, 64, 128)]
LOGGED = ["track", "publish"]

# For every leaf key of params.yaml: another value, and the stages that this alone reruns.
TABLE = {
    "sweep": ([2, 4, 16, 64], ["sample@2", "score@2", "report", *LOGGED]),
    "steps": (32, ["sample@32", "score@32", "report", *LOGGED]),
    "device": ("cpu", []),
    "data.repo": ("elsewhere", ["fetch", *LOGGED]),
    "data.revision": ("0" * 64, ["fetch", *LOGGED]),
    "data.files.train": (
        "other.parquet",
        ["fetch", "tokenizer", "pack", *SCORE, "real_text", *LOGGED],
    ),
    "data.files.test": (
        "other.parquet",
        ["fetch", "tokenizer", "pack", *SCORE, "real_text", *LOGGED],
    ),
    "data.holdout": (0.5, ["tokenizer", "pack", *SCORE, "real_text", *LOGGED]),
    "network.connect_seconds": (5, []),
    "network.stall_seconds": (5, []),
    "network.retries": (5, []),
    "data.column": ("Other", ["tokenizer", "pack", *SCORE, "real_text", *LOGGED]),
    "tokenizer.kind": ("other", ["tokenizer", *LOGGED]),
    "tokenizer.vocab_size": (300, ["tokenizer", *LOGGED]),
    "tokenizer.source": ("elsewhere", ["tokenizer", *LOGGED]),
    "pack.mode": ("other", ["pack", *SCORE, *LOGGED]),
    "pack.length": (32, ["pack", *LOGGED]),
    "diffusion.graph": ("uniform", ["train", *LOGGED]),
    "diffusion.noise": ("geometric", ["train", *LOGGED]),
    "diffusion.t_min": (0.01, ["train", *LOGGED]),
    "diffusion.absorb.parameterization": ("raw", ["train", *LOGGED]),
    "diffusion.uniform.parameterization": ("other", LOGGED),
    "diffusion.loglinear.eps": (0.01, ["train", *LOGGED]),
    "diffusion.geometric.sigma_min": (0.01, LOGGED),
    "diffusion.geometric.sigma_max": (10.0, LOGGED),
    **{f"model.{key}": (96, ["train", *LOGGED]) for key in shipped_params()["model"]},
    **{f"train.{key}": (96, ["train", *LOGGED]) for key in shipped_params()["train"]},
    "train.checkpoint_every": (7, LOGGED),
    **{f"baseline.{key}": (96, ["baseline", *LOGGED]) for key in shipped_params()["baseline"]},
    "baseline.checkpoint_every": (7, LOGGED),
    **{f"evaluate.{key}": (96, ["evaluate", *LOGGED]) for key in shipped_params()["evaluate"]},
    "sample.num": (96, [*SAMPLE, "real_text", *LOGGED]),
    "sample.predictor": ("euler", [*SAMPLE, *LOGGED]),
    "sample.temperature": (0.5, [*SAMPLE, *LOGGED]),
    "sample.top_p": (0.5, [*SAMPLE, *LOGGED]),
    "sample.batch_size": (96, [*SAMPLE, *LOGGED]),
    "sample.num_traced": (96, [*SAMPLE, *LOGGED]),
    "sample.seed": (96, [*SAMPLE, *LOGGED]),
    "score.scorer": ("gpt2", [*SCORE, "real_text", *LOGGED]),
    "score.precision": ("bfloat16", [*SCORE, "real_text", *LOGGED]),
    "score.batch_size": (96, [*SCORE, "real_text", *LOGGED]),
    "score.num_bootstrap": (96, [*SCORE, *LOGGED]),
    "score.num_real_draws": (96, ["real_text", *LOGGED]),
    "score.seed": (96, [*SCORE, "real_text", *LOGGED]),
    "report.num_samples": (96, ["report", "track"]),
    "tracking.uri": ("http://127.0.0.1:1", ["track"]),
    "tracking.experiment": ("other", ["track"]),
    "publish.repo": ("elsewhere", LOGGED),
    "publish.checkpoint": (True, LOGGED),
    "publish.during_training": (True, LOGGED),
    "publish.strict": (True, LOGGED),
}


def leaves(values: dict, prefix: str = "") -> list[str]:
    keys = []
    for key, value in values.items():
        path = prefix + key
        keys += leaves(value, path + ".") if isinstance(value, dict) else [path]
    return keys


def test_the_table_names_every_leaf_of_params_yaml():
    assert sorted(TABLE) == sorted(leaves(shipped_params()))


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory):
    """A project whose dvc.lock says that everything is up to date, without having run it."""
    from dvc.repo import Repo

    folder = tmp_path_factory.mktemp("project")
    for name in ("dvc.yaml", "params.yaml", ".dvcignore"):
        shutil.copy(PROJECT / name, folder)
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PROJECT / "pipeline", folder / "pipeline", ignore=ignore)
    shutil.copytree(PROJECT / "stages", folder / "stages", ignore=ignore)
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.chdir(folder)
    repo = Repo.init(str(folder), no_scm=True)
    for stage in repo.index.stages:
        for out in stage.outs:
            path = Path(out.fs_path)
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.name in {"data", "tokenizer", "packed", "checkpoint", "baseline"}:
                path.mkdir()
                for name in ("meta.json", "config.json"):
                    (path / name).write_text(str(path))
            else:
                path.write_text(str(path))
    repo.commit(force=True)
    repo.close()
    yield folder
    monkeypatch.undo()


def test_the_lock_holds_each_key_in_the_stages_of_the_table(reproduced):
    lock = yaml.safe_load((reproduced / "dvc.lock").read_text())["stages"]
    held = {name: leaves(stage["params"]["params.yaml"]) for name, stage in lock.items()}
    # Step counts are in the names of stages: what they rerun is not in the lock yet.
    named = {"sweep", "steps"}
    for key, (_, stages) in TABLE.items():
        if key not in named:
            assert {name for name, keys in held.items() if key in keys} == set(stages), key


# What DVC makes of the lock, by a key of each kind: in a stage's name, in the name of another key,
# nowhere, one of a section, by itself.
MOVED = [
    "sweep",
    "steps",
    "device",
    "data.revision",
    "data.files.train",
    "pack.mode",
    "diffusion.graph",
    "diffusion.noise",
    "diffusion.geometric.sigma_max",
    "model.width",
    "train.lr",
    "train.checkpoint_every",
    "sample.num",
    "score.num_bootstrap",
    "report.num_samples",
]


@pytest.mark.filterwarnings("default")
def test_status_names_the_stages_of_the_table_when_one_key_moves(reproduced):
    from dvc.repo import Repo

    def stale() -> set[str]:
        with Repo(str(reproduced)) as repo:
            status = repo.status()
        return {name.removeprefix("dvc.yaml:") for name in status}

    assert stale() == set()
    wrong = {}
    for key in MOVED:
        value, stages = TABLE[key]
        text = yaml.safe_dump(changed(shipped_params(), {key: value}))
        (reproduced / "params.yaml").write_text(text)
        found = stale()
        if found != set(stages):
            wrong[key] = sorted(found.symmetric_difference(stages))
    assert not wrong


def imported_files(path: Path, seen: set[Path]) -> set[Path]:
    """`path` and the project's files that it imports, inside functions too, and theirs."""
    if path in seen:
        return seen
    seen.add(path)
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            module = PROJECT / (name.replace(".", "/") + ".py")
            if name.split(".")[0] in {"pipeline", "stages"} and module.exists():
                imported_files(module, seen)
    return seen


def uncovered(stage: str, deps: list[str]) -> set[str]:
    """Files that a stage's code imports and `deps` do not hold."""
    files = imported_files(PROJECT / "stages" / f"{stage}.py", set())
    names = {str(file.relative_to(PROJECT)) for file in files} - EXEMPT
    return {
        name for name in names if not any(name == dep or name.startswith(dep + "/") for dep in deps)
    }


@pytest.mark.parametrize("stage", STAGES)
def test_deps_cover_what_a_stage_imports(stage):
    assert uncovered(stage, STAGES[stage]["deps"]) == set()


@pytest.mark.parametrize("stage", STAGES)
def test_every_code_dep_is_needed(stage):
    deps = STAGES[stage]["deps"]
    for dep in deps:
        is_code = dep.endswith(".py") or ((PROJECT / dep).is_dir() and dep.startswith("pipeline"))
        if is_code and list((PROJECT / dep).glob("*.py") if not dep.endswith(".py") else [1]):
            assert uncovered(stage, [other for other in deps if other != dep]), dep


def test_no_package_runs_code_on_import():
    for path in (PROJECT / "pipeline").rglob("__init__.py"):
        if path.parent.name != "cli":
            assert path.read_text() == "", path


def test_every_stage_file_is_in_dvc_yaml():
    files = {path.stem for path in (PROJECT / "stages").glob("*.py")} - {"__init__"}
    assert files == set(STAGES)


def test_rooms_do_not_import_each_other():
    allowed = {
        "sedd": {"sedd"},
        "training": {"sedd", "training"},
        "published": {"sedd", "published"},
        "golden": {"sedd", "published", "golden"},
    }
    shared = {
        "params",
        "errors",
        "files",
        "progress",
        "device",
        "identity",
        "weights",
        "hub",
        "table",
    }
    for path in (PROJECT / "pipeline").glob("*/*.py"):
        room = path.parent.name
        if room == "cli":
            continue
        for file in imported_files(path, set()) - {path}:
            other = file.relative_to(PROJECT / "pipeline").parts[0].removesuffix(".py")
            ours = allowed.get(room, {room})
            assert other in (ours if room == "sedd" else ours | shared), f"{path} imports {file}"
