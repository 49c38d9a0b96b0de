"""dvc.yaml: what each stage depends on, by parameter and by code."""

import shutil
from pathlib import Path

import pytest
import yaml
from imports import between_files, imports_in
from tiny_clone import run
from tiny_project import PROJECT, changed, shipped_params, write_params

from pipeline.config.identity import leaves
from pipeline.methods.registry import METHODS
from stages.check import main as check

STAGES = yaml.safe_load((PROJECT / "dvc.yaml").read_text())["stages"]

# They check, say, keep files whole and hand on; none of them decides what a stage writes.
EXEMPT = {
    *(f"pipeline/{name}.py" for name in ("device", "environment", "errors", "files", "hub")),
    *(f"pipeline/{name}.py" for name in ("progress", "table")),
    *(f"pipeline/config/{path.name}" for path in (PROJECT / "pipeline/config").glob("*.py")),
    *(f"pipeline/checkpoints/{name}.py" for name in ("keys", "weights")),
    "pipeline/methods/samplers.py",
    "pipeline/publishing/handing.py",
    *(
        f"pipeline/scale/{name}.py"
        for name in ("cluster", "launch", "shares", "unfinished", "units")
    ),
    "stages/__init__.py",
} - {"pipeline/config/identity.py"}

SAMPLE = ["sample", *(f"sweep_sample@{n}" for n in (1, 4, 16, 64))]
SCORE = ["score", *(f"sweep_score@{n}" for n in (1, 4, 16, 64))]
NEW = [f"sweep_{stage}@{n}" for stage in ("sample", "score") for n in (2, 3)]
WARM = ["temperature_sample@0.8", "temperature_score@0.8"]
LOGGED = ["track", "publish"]
METHOD = "artifacts/method.json"
OUTS = ("outs", "metrics", "plots")

# For every leaf key of params.yaml: another value, and the stages that this alone reruns, after
# `check`, which any does.
TABLE = {
    "sweep": ([4, 16, 64, 2, 3], [*NEW, "report", *LOGGED]),
    "temperatures": ([0.8], [*WARM, "report", *LOGGED]),
    "steps": (32, ["sample", "score", "report", *LOGGED]),
    "device": ("cpu", []),
    "resources.processes": (2, []),
    "resources.nodes": (2, []),
    "resources.launcher": ("env", []),
    "resources.strategy": ("fsdp", []),
    "resources.timeout_seconds": (60, []),
    "resources.store": ("../scratch", []),
    "resources.pack": ("ray", []),
    "resources.ray_address": ("head:6379", []),
    "data.repo": ("elsewhere", ["fetch", *LOGGED]),
    "data.revision": ("0" * 64, ["fetch", *LOGGED]),
    "data.files.train": (
        "other.parquet",
        ["fetch", "tokenizer", "pack", *SCORE, *LOGGED],
    ),
    "data.files.test": (
        "other.parquet",
        ["fetch", "tokenizer", "pack", *SCORE, *LOGGED],
    ),
    "data.holdout": (0.5, ["tokenizer", "pack", *SCORE, *LOGGED]),
    "oxen.connect_seconds": (5, []),
    "oxen.stall_seconds": (5, []),
    "oxen.retries": (5, []),
    "data.max_overlap": (0.5, ["fetch", *LOGGED]),
    "data.labels": (["Sex"], ["fetch", "pack", *SCORE, *LOGGED]),
    "data.column": ("Other", ["fetch", "tokenizer", "pack", *SCORE, *LOGGED]),
    "tokenizer.kind": ("other", ["tokenizer", *LOGGED]),
    "tokenizer.vocab_size": (300, ["tokenizer", *LOGGED]),
    "tokenizer.source": ("elsewhere", ["tokenizer", *LOGGED]),
    "tokenizer.sentencepiece.model_type": ("unigram", LOGGED),
    **{f"tokenizer.sentencepiece.{name}": (9, LOGGED) for name in ("bos", "eos", "pad", "unk")},
    "pack.mode": ("other", ["tokenizer", "pack", *SCORE, *LOGGED]),
    "pack.length": (32, ["pack", *LOGGED]),
    **{f"model.{key}": (96, ["train", *LOGGED]) for key in shipped_params()["model"]},
    **{f"train.{key}": (96, ["train", *LOGGED]) for key in shipped_params()["train"]},
    "train.checkpoint_every": (7, LOGGED),
    **{f"baseline.{key}": (96, ["baseline", *LOGGED]) for key in shipped_params()["baseline"]},
    "baseline.checkpoint_every": (7, LOGGED),
    **{f"evaluate.{key}": (96, ["evaluate", *LOGGED]) for key in shipped_params()["evaluate"]},
    "sample.num": (96, [*SAMPLE, "real_text", *LOGGED]),
    "sample.predictor": ("euler", [*SAMPLE, *LOGGED]),
    "sample.precision": ("bfloat16", [*SAMPLE, *LOGGED]),
    "sample.temperature": (0.5, [*SAMPLE, *LOGGED]),
    "sample.top_p": (0.5, [*SAMPLE, *LOGGED]),
    "sample.grid": ("cosine", [*SAMPLE, *LOGGED]),
    "sample.order": ("margin", [*SAMPLE, *LOGGED]),
    "sample.gamma": (0.5, [*SAMPLE, *LOGGED]),
    "sample.corrector": ("cap", [*SAMPLE, *LOGGED]),
    "sample.eta": (0.5, [*SAMPLE, *LOGGED]),
    "sample.hold": (0.5, [*SAMPLE, *LOGGED]),
    "sample.num_redrawn": (2, [*SAMPLE, *LOGGED]),
    "sample.labels": (["Sex=F"], [*SAMPLE, *LOGGED]),
    "sample.guidance": (2.0, [*SAMPLE, *LOGGED]),
    "sample.batch_size": (96, [*SAMPLE, *LOGGED]),
    "sample.num_traced": (96, [*SAMPLE, *LOGGED]),
    "sample.seed": (96, [*SAMPLE, *LOGGED]),
    "score.scorer": ("gpt2", [*SCORE, "real_text", *LOGGED]),
    "score.scorer_revision": ("0" * 64, [*SCORE, "real_text", *LOGGED]),
    "score.precision": ("bfloat16", [*SCORE, "real_text", *LOGGED]),
    "score.batch_size": (96, [*SCORE, "real_text", *LOGGED]),
    "score.num_bootstrap": (96, [*SCORE, *LOGGED]),
    "score.num_real_draws": (96, ["real_text", *LOGGED]),
    "score.mauve_seeds": ([25], [*SCORE, "real_text", *LOGGED]),
    "score.seed": (96, [*SCORE, "real_text", *LOGGED]),
    # None is declared, so there is none to rerun: what they do with one is in test_zero_shot_dvc.
    "zero_shot.names": ([], []),
    **{
        f"zero_shot.{key}": (16, [])
        for key in shipped_params()["zero_shot"]
        if key not in ("names", "sets")
    },
    "report.num_samples": (96, ["report", "track"]),
    "tracking.uri": ("http://127.0.0.1:1", ["track"]),
    "tracking.experiment": ("other", ["track"]),
    "tracking.log_model": ("never", ["track"]),
    "publish.repo": ("elsewhere", LOGGED),
    "publish.checkpoint": (True, LOGGED),
    "publish.during_training": (True, LOGGED),
    "publish.strict": (True, LOGGED),
    "publish.huggingface": ("./export", LOGGED),
    "publish.license": ("mit", LOGGED),
}

# The same for the keys of methods, which go through what `check` writes: another value, and the
# changes to the shipped parameters under which it matters.
EMBEDDING = {"method": "embedding"}
SIMPLE = EMBEDDING | {"embedding.recipe": "simple"}
RECIPE = {
    "dim": 16,
    "norm": "l2",
    "input": "evidence",
    "loss": "likelihood",
    "clock": "nats",
    "g_min": -7.0,
    "g_max": 8.0,
    "self_condition": 0.75,
    "known": 0.75,
}
OF_METHODS: dict[str, tuple[object, list[dict[str, str]]]] = {
    "method": ("embedding", [{}]),
    "diffusion.graph": ("uniform", [{}]),
    "diffusion.noise": ("geometric", [{}]),
    "diffusion.t_min": (0.01, [{}]),
    "diffusion.absorb.parameterization": ("raw", [{}]),
    "diffusion.uniform.parameterization": ("conditional", []),
    "diffusion.loglinear.eps": (0.01, [{}]),
    "diffusion.geometric.sigma_min": (0.01, []),
    "diffusion.geometric.sigma_max": (10.0, []),
    "embedding.recipe": ("simple", [EMBEDDING]),
    **{f"embedding.bound.{key}": (value, [EMBEDDING]) for key, value in RECIPE.items()},
    "embedding.bound.norm": ("layernorm", [EMBEDDING]),
    "embedding.bound.input": ("vector", [EMBEDDING]),
    **{f"embedding.simple.{key}": (value, [SIMPLE]) for key, value in RECIPE.items()},
}


def file_of(stage: str) -> str:
    """The file of stages/ that a stage runs: the sweeps draw and score as `sample` and `score`."""
    return stage.removeprefix("sweep_").removeprefix("temperature_")


def keys_in(values: dict) -> list[str]:
    """Dotted keys, in order of the alphabet."""
    return sorted(key for key, _ in leaves(values))


def test_the_table_names_every_leaf_of_params_yaml():
    assert sorted([*TABLE, *OF_METHODS]) == keys_in(shipped_params())


@pytest.mark.parametrize("key", OF_METHODS)
def test_a_key_of_a_method_changes_what_check_writes_where_it_is_in_use(key, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def written(changes: dict[str, object]) -> bytes:
        write_params(tmp_path, changes)
        check(Path("checked.json"), Path("method.json"), Path("sweep/a.json"), Path("sets/a.json"))
        return Path("method.json").read_bytes()

    value, matters = OF_METHODS[key]
    for changes in ({}, EMBEDDING, SIMPLE):
        if key not in changes:
            differs = written(changes) != written(changes | {key: value})
            assert differs == (changes in matters), changes


def test_what_check_writes_is_read_where_models_are_made_and_written_down():
    readers = {name for name, stage in STAGES.items() if METHOD in stage["deps"]}
    assert readers == {"train", *LOGGED}


def test_every_stage_but_check_waits_for_another_so_that_values_are_checked_first():
    outs = [out for stage in STAGES.values() for kind in OUTS for out in stage.get(kind, [])]
    made = {out if isinstance(out, str) else next(iter(out)) for out in outs}
    assert {name for name, stage in STAGES.items() if not made & {*stage["deps"]}} == {"check"}


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
    held = {name: keys_in(stage["params"]["params.yaml"]) for name, stage in lock.items()}
    assert held.pop("check") == sorted([*TABLE, *OF_METHODS])
    # They are in the names or commands of stages: what they rerun is not in the lock yet.
    named = {"sweep", "steps", "temperatures"}
    for key, (_, stages) in TABLE.items():
        if key not in named:
            assert {name for name, keys in held.items() if key in keys} == set(stages), key


# What DVC makes of the lock, by a key of each kind: in a stage's name, nowhere, by section, by
# itself.
MOVED = [
    "sweep",
    "temperatures",
    "steps",
    "device",
    "resources.processes",
    "data.revision",
    "data.files.train",
    "tokenizer.sentencepiece.eos",
    "pack.mode",
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
        if found != {"check", *stages}:
            wrong[key] = sorted(found.symmetric_difference(stages))
    assert not wrong


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("key", ["diffusion.graph", "method"])
def test_a_value_that_dvc_stumbles_over_is_named_before(reproduced, key):
    text = yaml.safe_dump(changed(shipped_params(), {key: "Absorb"}))
    (reproduced / "params.yaml").write_text(text)
    said = run(reproduced, "dvc", "repro", status=255)
    assert f"error: params.yaml: {key}: Input should be " in said
    assert "(got 'Absorb')" in said
    assert "missing" not in said


def imported_files(stage: str, method: str) -> set[str]:
    """The stage's file and the project's files that it imports, and theirs.

    The registry imports the method in use by its name.
    """
    targets = {"pipeline/methods/registry.py": {f"pipeline/methods/{method}/method.py"}}
    for each in between_files(imports_in(PROJECT)):
        targets.setdefault(each.file, set()).add(each.target)
    seen: set[str] = set()
    waiting = {f"stages/{stage}.py"}
    while waiting:
        seen |= waiting
        waiting = set().union(*(targets.get(file, set()) for file in waiting)) - seen
    return seen


def uncovered(stage: str, deps: list[str], method: str) -> set[str]:
    """Files that a stage's code imports and `deps` do not hold."""
    held = tuple(dep if dep.endswith(".py") else f"{dep}/" for dep in deps)
    held = tuple(dep.replace("${method}", method) for dep in held)
    return {file for file in imported_files(stage, method) - EXEMPT if not file.startswith(held)}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("stage", STAGES)
def test_deps_cover_what_a_stage_imports(stage, method):
    assert uncovered(file_of(stage), STAGES[stage]["deps"], method) == set()


@pytest.mark.parametrize("stage", STAGES)
def test_every_code_dep_is_needed(stage):
    deps = STAGES[stage]["deps"]
    code = [dep for dep in deps if dep.startswith(("pipeline/", "stages/"))]
    # Not code: names that ship, a page's template, published figures.
    others = {"pipeline/data/baby_names", *(dep for dep in code if dep.endswith((".j2", ".yaml")))}
    for dep in set(code) - others:
        others = [other for other in deps if other != dep]
        assert any(uncovered(file_of(stage), others, method) for method in METHODS), dep


def test_no_package_runs_code_on_import():
    for path in (PROJECT / "pipeline").rglob("__init__.py"):
        if path.parent.name != "cli":
            assert path.read_text() == "", path


def test_every_stage_file_is_in_dvc_yaml():
    files = {path.stem for path in (PROJECT / "stages").glob("*.py")} - {"__init__"}
    assert files == set(map(file_of, STAGES))
