"""Tiny models with random weights, and some that say one token whatever they are asked."""

import math
from pathlib import Path

import pytest
import torch
from importing_checks import CONFIG, LETTERS
from reference_files import write_published
from toy import random_model, small_embedding, write_model
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.data.tokenizer import train_char_tokenizer
from pipeline.methods.embedding.model import EmbeddingDiffusion
from pipeline.methods.sedd.model import SEDD

LENGTH = 8


@pytest.fixture(autouse=True)
def one_thread():
    """Threads only get in each other's way in networks this small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tokenizer():
    return train_char_tokenizer(["abcdefghi\n\\[]"])


@pytest.fixture(scope="session")
def make_model(tmp_path_factory, tokenizer):
    """Write a checkpoint and return its folder; with `says` it ignores its input.

    Then token `says` is `odds` times as likely as each other one.
    """

    def make(
        graph="absorb",
        parameterization="conditional",
        says=None,
        odds=1e30,
        text_lengths=(1,) * LENGTH,
        **more,
    ):
        sizes = {"vocab_size": tokenizer.size, "length": LENGTH, "cond_dim": 8}
        values = {"eps": 1e-3, "t_min": 1e-3, "scale_by_sigma": True} | sizes | more
        model = random_model(graph, parameterization, **values)
        if says is not None:
            torch.manual_seed(0)
            model = SEDD(model.config)
            with torch.no_grad():
                model.network.output_layer.linear.bias[says] = math.log(odds)
        folder = tmp_path_factory.mktemp("trained")
        return write_model(folder, model, tokenizer, text_lengths and list(text_lengths))

    return make


@pytest.fixture(scope="session")
def make_embedding(tmp_path_factory, tokenizer):
    """Write a checkpoint of embedding diffusion with random weights and return its folder."""

    def make(known=0.5):
        torch.manual_seed(0)
        model = EmbeddingDiffusion(
            small_embedding(vocab_size=tokenizer.size, length=LENGTH, width=8, known=known)
        )
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        return write_model(tmp_path_factory.mktemp("trained"), model, tokenizer, [1] * LENGTH)

    return make


@pytest.fixture(scope="session")
def model(make_model):
    return make_model()


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A working folder with a params.yaml."""
    shipped = Path(__file__).parents[2] / "params.yaml"
    (tmp_path / "params.yaml").write_text(shipped.read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return tmp_path


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A working folder with nothing in it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def sedd():
    """Run `sedd` and return its result."""

    def run(*arguments):
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return run


@pytest.fixture
def refusal(sedd):
    """Run `sedd`, which must exit with 1 and one line, and return that line."""

    def run(*arguments):
        result = sedd(*arguments)
        assert result.exit_code == 1, result.output
        assert result.stdout == ""
        assert result.stderr.startswith("error: ")
        assert result.stderr.count("\n") == 1, result.stderr
        return result.stderr.removeprefix("error: ").strip()

    return run


@pytest.fixture(scope="session")
def letters(tmp_path_factory):
    """A tokenizer of as many tokens as CONFIG has."""
    folder = tmp_path_factory.mktemp("letters")
    train_char_tokenizer([LETTERS]).save(folder)
    return folder


@pytest.fixture
def source(tmp_path, letters):
    """A published checkpoint with its tokenizer beside it."""
    write_published(tmp_path / "source", "safetensors", CONFIG)
    for path in letters.iterdir():
        (tmp_path / "source" / path.name).write_bytes(path.read_bytes())
    return tmp_path / "source"


@pytest.fixture
def refused(refusal, tmp_path):
    """Import to a folder that does not exist, which must fail and leave nothing; the message."""

    def run(source, *options):
        message = refusal("import", source, tmp_path / "to" / "it", *options)
        assert not (tmp_path / "to").exists() or not list((tmp_path / "to").iterdir())
        return message

    return run
