"""Hostile inputs of every kind: a value or one message. Short by default, long in `test-slow`."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from campaign import JSON, NUMBERS, ODD, SCALARS, check_said, damaged, one_message, run
from faulty_server import ANSWERS, COMMIT, Request, serving
from hypothesis import strategies as st
from reference_files import NARROW, config_of, write_published
from tiny_project import PROJECT
from toy import toy_config
from typer.testing import CliRunner

from pipeline.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from pipeline.checkpoints.reference.reading import read_published
from pipeline.cli import app
from pipeline.config.data import Patience
from pipeline.config.edits import edited
from pipeline.config.params import load_params
from pipeline.data.corpus import read_documents
from pipeline.data.tokenizer import TextTokenizer, train_char_tokenizer
from pipeline.files import read_object
from pipeline.methods.sedd.model import SEDD
from pipeline.oxen.credentials import author, token_for
from pipeline.oxen.fetching import recorded_files
from pipeline.oxen.opening import open_repository
from pipeline.publishing.spool import Item

PARAMS = (PROJECT / "params.yaml").read_text()
LEAF = re.compile(r"^ *\w+: *([^\s#][^#\n]*?) *(?:#.*)?$", re.MULTILINE)
PLACES = [match.span(1) for match in LEAF.finditer(PARAMS)]
IMPATIENT = Patience(connect_seconds=1, stall_seconds=0.3, retries=0)


def sizes(short: int, long: int) -> pytest.MarkDecorator:
    """How many inputs by default, and in `make test-slow`."""
    return pytest.mark.parametrize("num", [short, pytest.param(long, marks=pytest.mark.slow)])


def with_value(change: tuple[tuple[int, int], str]) -> str:
    (start, end), value = change
    return PARAMS[:start] + value + PARAMS[end:]


@sizes(150, 8000)
def test_params(empty_project, num):
    path = empty_project / "params.yaml"

    def check(content: bytes) -> None:
        path.write_bytes(content)
        one_message(lambda: load_params(path))
        text = content.decode("utf-8", "replace")
        one_message(lambda: edited(text, {"steps": 5, "data.revision": "0" * 64}))

    values = st.tuples(st.sampled_from(PLACES), SCALARS).map(with_value)
    run(check, values.map(lambda text: text.encode("utf-8", "replace")), num)
    run(check, damaged(PARAMS.encode()), num // 3)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A tiny checkpoint."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = train_char_tokenizer(["Adabce"])
    tokenizer.save(folder / "tokenizer")
    noise = {"eps": 1e-3, "sigma_min": None, "sigma_max": None, "t_min": 1e-3}
    sizes = {"length": 8, "cond_dim": 8, "vocab_size": tokenizer.size}
    torch.manual_seed(0)
    model = SEDD(toy_config("absorb", "conditional", scale_by_sigma=True, **noise, **sizes))
    about = {"tokenizer_sha256": tokenizer.sha256, "text_lengths": [1] * 8}
    save_checkpoint(folder / "own", model, tokenizer=folder / "tokenizer", **about)
    return folder / "own"


@pytest.fixture
def files(empty_project, model, monkeypatch) -> Path:
    """A folder with a file of each kind that others may have written."""
    monkeypatch.setenv("OXEN_CONFIG_DIR", str(empty_project))
    shutil.copytree(model, empty_project / "own")
    write_published(empty_project / "published", "safetensors", config_of(NARROW, tokens=8))
    (empty_project / "a.jsonl").write_text('{"text": "Ada"}\n{"text": "B\\u00e9a", "x": [1]}\n')
    shutil.copy(PROJECT / "pipeline/data/baby_names/test.parquet", empty_project / "a.parquet")
    file = {"path": "a", "split": "train", "size": 1, "sha256": "0", "rows": 1}
    overlap = {"num_held_out": 1, "num_in_train": 0}
    read = {"asked": {"train": "a", "test": None}, "column": "text", "overlap": overlap}
    origin = {"repo": "r", "host": None, "revision": "1", "commit": "1", "files": [file]}
    (empty_project / "provenance.json").write_text(json.dumps(origin | read))
    item = {"repository": "r", "message": "m", "paths": ["a"]}
    (empty_project / "item.json").write_text(json.dumps(item))
    token = '[[host_configs]]\nhost = "h"\nauth_token = "t"\n'
    (empty_project / "auth_config.toml").write_text(token)
    (empty_project / "user_config.toml").write_text('name = "A"\nemail = "a@b"\n')
    return empty_project


CPU = torch.device("cpu")
DATA = load_params(PROJECT / "params.yaml").data
READERS: dict[str, Callable[[Path], object]] = {
    "own/config.json": lambda here: load_checkpoint(here / "own", CPU),
    "own/model.safetensors": lambda here: load_checkpoint(here / "own", CPU),
    "own/tokenizer/tokenizer.json": lambda here: TextTokenizer.load(here / "own/tokenizer"),
    "own/tokenizer/tokenizer_config.json": lambda here: TextTokenizer.load(here / "own/tokenizer"),
    "published/config.json": lambda here: read_published(here / "published"),
    "a.jsonl": lambda here: list(read_documents(here / "a.jsonl", "text")),
    "a.parquet": lambda here: list(read_documents(here / "a.parquet", "Names")),
    "provenance.json": lambda here: (
        recorded_files(here / "provenance.json", DATA),
        read_object(here / "provenance.json", "repo"),
    ),
    "item.json": lambda here: Item.read(here),
    "auth_config.toml": lambda _: token_for("h"),
    "user_config.toml": lambda _: author(),
}


@pytest.mark.parametrize("name", READERS)
@sizes(40, 800)
def test_readers(files, name, num):
    path, read = files / name, READERS[name]

    def check(content: bytes) -> None:
        path.write_bytes(content)
        one_message(lambda: read(files))

    run(check, damaged(path.read_bytes()), num)


@sizes(4, 100)
def test_archives(tmp_path, num):
    folder = tmp_path / "published"
    shutil.copytree(PROJECT / "tests/golden/absorb_pth", folder)
    path = folder / "checkpoint.pth"

    def check(content: bytes) -> None:
        path.write_bytes(content)
        one_message(lambda: read_published(folder))

    run(check, damaged(path.read_bytes()), num)


@pytest.fixture
def answering() -> Iterator[tuple[Any, dict[str, bytes]]]:
    """A server, and what it answers where that is not what a sound one would."""
    wrong: dict[str, bytes] = {}

    def fault(request: Request) -> object:
        below = request.path.split("?")[0].removeprefix("/api/repos/ns/name")
        return below in wrong and request.send(200, wrong[below])

    with serving(fault) as server:
        yield server, wrong


def inside(value: Any, changes: Iterator[Any]) -> Any:
    """`value` with some of its leaves replaced."""
    if isinstance(value, dict):
        return {key: inside(part, changes) for key, part in value.items()}
    if isinstance(value, list):
        return [inside(part, changes) for part in value]
    change = next(changes, None)
    return value if change is None else change[0]


@sizes(150, 4000)
def test_servers(answering, tmp_path, num):
    server, wrong = answering
    repository = open_repository(server.url, IMPATIENT)

    def check(answer: tuple[str, bytes]) -> None:
        wrong.clear()
        wrong.update([answer])
        one_message(lambda: repository.resolve("main"))
        one_message(lambda: repository.entries(COMMIT))
        one_message(lambda: repository.fetch(COMMIT, {"f": "big.bin"}, tmp_path / "out"))

    def changed(drawn: tuple[str, list[Any]]) -> tuple[str, bytes]:
        path, changes = drawn
        return path, json.dumps(inside(ANSWERS[path], iter(changes))).encode()

    path = st.sampled_from(sorted(ANSWERS))
    leaves = st.lists(st.none() | st.tuples(JSON), min_size=1, max_size=7)
    whole = JSON.map(lambda value: json.dumps(value).encode())
    run(check, st.tuples(path, leaves).map(changed) | st.tuples(path, whole | st.binary()), num)


OPTIONS = ["--steps", "--num", "--seed", "--predictor", "--temperature", "--top-p", "--device"]
GIVEN = st.sampled_from(["1", "2", "cpu", "auto", "euler", "0.5"]) | NUMBERS | ODD
COMMANDS = st.one_of(
    st.tuples(
        st.sampled_from([["sample"], ["infill", "--prefix", "A"], ["loss", "Ada"]]),
        st.lists(st.tuples(st.sampled_from(OPTIONS), GIVEN), max_size=3).map(
            lambda options: [part for option in options for part in option]
        ),
    ).map(lambda parts: [*parts[0], "--model", "own", "--num", "1", "--steps", "1", *parts[1]]),
    st.tuples(st.sampled_from(["import", "verify", "shift", "perturb"]), GIVEN, GIVEN).map(list),
    st.tuples(st.just("pin"), GIVEN, st.just("--dry-run")).map(list),
    st.tuples(st.just("login"), GIVEN).map(list),
)


@sizes(120, 3000)
def test_command_lines(files, monkeypatch, num):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (files / "params.yaml").write_text(PARAMS)

    def check(arguments: list[str]) -> None:
        result = CliRunner().invoke(app, arguments, input="")
        ended = result.exception is None or isinstance(result.exception, SystemExit)
        assert ended, (arguments, result.exception)
        assert result.exit_code in (0, 1)
        check_said(result.output)

    run(check, COMMANDS, num)
