import json
import math

import numpy as np
import pytest
import typer
from tiny_project import set_params
from tiny_scorers import stand_in, write_baseline
from typer.testing import CliRunner

import stages.real_text
from pipeline.baseline.gpt2 import block_nats, load_baseline
from pipeline.data.packed import Packed
from pipeline.data.packing import pack
from pipeline.data.tokenizer import TextTokenizer
from pipeline.device import pick_device
from pipeline.evaluation import scores

ARGUMENTS = [
    "artifacts/tokenizer",
    "artifacts/packed",
    "artifacts/baseline",
    "artifacts/scores/real_text.json",
]
TEST = ["Ada", "Ben", "Cleo", "Dora", "Emil", "Fay", "Gus", "Hal", "Ida", "Joel", "Ed", "Al"]


@pytest.fixture
def project(tiny):
    tokenizer = TextTokenizer.load(tiny / "artifacts/tokenizer")
    write_baseline(tiny, tokenizer)
    documents = {"train": ["Ada", "Anna"], "test": TEST}
    pack(tiny / "artifacts/packed", documents, tokenizer, mode="pad", length=16)
    return tiny


def run(**changes):
    settings = {"sample.num": 5, "score.num_real_draws": 4}
    set_params(settings | {key.replace("__", "."): value for key, value in changes.items()})
    app = typer.Typer()
    app.command()(stages.real_text.main)
    return CliRunner().invoke(app, ARGUMENTS)


def row_of(folder):
    return json.loads((folder / "artifacts/scores/real_text.json").read_text())


def test_figures_are_averages_over_draws(project):
    result = run()
    assert result.exit_code == 0, result.output
    row = row_of(project)
    assert row["num_steps"] is None
    assert (row["num_samples"], row["num_scored"], row["excluded"]) == (5, 5, [])
    assert (row["nfe"], row["held_out"], row["well_formed"]) == (0, 1, 1)

    tokenizer = TextTokenizer.load(project / "artifacts/tokenizer")
    blocks = np.array(
        [(tokenizer.encode(text) + [1] + [0] * 16)[:16] for text in TEST], dtype=np.int64
    )
    model = load_baseline(project / "artifacts/baseline", pick_device("cpu"))
    nats, num_tokens = block_nats(model, blocks, batch_size=12)
    generator = np.random.default_rng(0)
    draws = [generator.choice(12, size=5, replace=False) for _ in range(4)]
    expected = [math.exp(nats[draw].sum() / num_tokens[draw].sum()) for draw in draws]
    assert row["gen_ppl"] == pytest.approx(np.mean(expected), rel=1e-6)
    assert row["gen_ppl_stderr"] == pytest.approx(np.std(expected, ddof=1), rel=1e-3)
    novelty = [np.mean([TEST[i] != "Ada" for i in draw]) for draw in draws]
    assert row["novelty"] == pytest.approx(np.mean(novelty))


def test_seed_decides_the_draws(project):
    assert run().exit_code == 0
    first = (project / "artifacts/scores/real_text.json").read_bytes()
    assert run().exit_code == 0
    assert (project / "artifacts/scores/real_text.json").read_bytes() == first
    assert run(score__seed=1).exit_code == 0
    assert (project / "artifacts/scores/real_text.json").read_bytes() != first


def test_draws_of_all_texts_do_not_vary(project):
    assert run(sample__num=12).exit_code == 0
    assert row_of(project)["entropy_stderr"] == pytest.approx(0, abs=1e-12)


def test_too_few_held_out_texts_is_one_message(project):
    result = run(sample__num=13)
    assert result.exit_code == 1
    assert result.stderr == (
        "error: the held-out split has 12 blocks, fewer than sample.num (got 13): "
        "lower it, or real text cannot be compared\n"
    )
    assert not (project / "artifacts/scores").exists()


def test_running_text_is_scored_as_it_is_packed(project):
    packed = project / "artifacts/packed"
    tokenizer = TextTokenizer.load(project / "artifacts/tokenizer")
    documents = {"train": TEST, "test": TEST * 3}
    pack(packed, documents, tokenizer, mode="concat", length=16)
    model = write_baseline(project, tokenizer, mode="concat")
    blocks = Packed.open(packed).test
    assert run(sample__num=len(blocks)).exit_code == 0
    row = row_of(project)
    # Every token of every window, as the baseline itself takes them.
    nats, num_tokens = block_nats(model, blocks, batch_size=4)
    assert row["num_tokens"] == num_tokens.sum() == blocks.size
    assert row["gen_ppl"] == pytest.approx(math.exp(nats.sum() / blocks.size), rel=1e-5)
    assert (row["well_formed"], row["novelty"], row["held_out"]) == (1, None, None)
    _, counts = np.unique(blocks, return_counts=True)
    shares = counts / blocks.size
    assert row["entropy"] == pytest.approx(-(shares * np.log(shares)).sum())


def test_out_of_memory_names_the_parameter(project, monkeypatch):
    def full(*_, **__):
        raise MemoryError

    monkeypatch.setattr(scores, "likelihood", full)
    result = run()
    assert result.exit_code == 1
    assert "lower score.batch_size in params.yaml" in result.stderr


def test_mauve_of_real_text_is_against_other_real_text(project, monkeypatch):
    assert run().exit_code == 0
    without = row_of(project)
    stand_in(monkeypatch)
    assert run(score__mauve_seeds=[3, 5]).exit_code == 0
    # Two sets of five of the twelve.
    assert row_of(project) == without | {"mauve": 3.0, "mauve_spread": pytest.approx(2**0.5)}
    result = run(sample__num=7, score__mauve_seeds=[3])
    assert result.exit_code == 1
    assert "score.mauve_seeds: the held-out split has 12 blocks" in result.output
