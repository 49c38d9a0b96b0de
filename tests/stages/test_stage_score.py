import json

import pytest
import typer
from reference_files import write_byte_level
from tiny_project import set_params
from tiny_scorers import cached_hub, stand_in, write_baseline
from typer.testing import CliRunner

import stages.score
from pipeline.baseline.gpt2 import block_nats, load_baseline
from pipeline.data.documents import index_of, keys_of, path_of
from pipeline.data.gpt2 import read_gpt2_tokenizer
from pipeline.data.packed import Packed
from pipeline.data.tokenizer import TextTokenizer, train_char_tokenizer
from pipeline.device import pick_device
from pipeline.evaluation import scores as scoring
from pipeline.evaluation.scorer import weights_sha256
from pipeline.files import folder_revision, write_jsonl

ARGUMENTS = [
    "artifacts/samples/8.jsonl",
    "artifacts/data",
    "artifacts/tokenizer",
    "artifacts/packed",
    "artifacts/baseline",
    "artifacts/scores/8.json",
]
TEXTS = ["Ada", "Adal", "Ada", "", "Ben", "Idan"]


def write_samples(folder, texts, tokenizer, changes=None):
    rows = []
    for index, text in enumerate(texts):
        ids = [*tokenizer.encode(text), tokenizer.eos_id]
        ids += [tokenizer.pad_id] * (16 - len(ids))
        row = {"index": index, "num_steps": 8, "seed": 0, "text": text, "ids": ids, "nfe": 5}
        rows.append(row | (changes or {}))
    write_jsonl(folder / "artifacts/samples/8.jsonl", rows)


@pytest.fixture
def scored(tiny):
    """A folder with samples, a fresh baseline and blocks of two splits."""
    tokenizer = TextTokenizer.load(tiny / "artifacts/tokenizer")
    write_samples(tiny, TEXTS, tokenizer)
    write_baseline(tiny, tokenizer)
    for split, names in (("train", ["Ada", "Emil"]), ("test", ["Ben", "Emil"])):
        index = index_of([keys_of(names)])
        path_of(tiny / "artifacts/packed", split).write_bytes(index)
    return tiny


def run(arguments=ARGUMENTS):
    app = typer.Typer()
    app.command()(stages.score.main)
    return CliRunner().invoke(app, arguments)


def scores(folder):
    return json.loads((folder / "artifacts/scores/8.json").read_text())


def test_scores_with_the_baseline(scored):
    result = run()
    assert result.exit_code == 0, result.output
    row = scores(scored)
    assert (row["num_steps"], row["num_samples"], row["num_scored"]) == (8, 6, 6)
    assert row["excluded"] == []
    assert row["num_tokens"] == sum(len(text) + 1 for text in TEXTS)
    assert row["novelty"] == pytest.approx(4 / 6)
    assert row["held_out"] == pytest.approx(1 / 6)
    assert row["uniqueness"] == pytest.approx(5 / 6)
    assert row["well_formed"] == pytest.approx(5 / 6)
    assert (row["nfe"], row["invalid_utf8"]) == (5, 0)
    assert row["scorer"]["name"] == "baseline"


def test_mauve_is_of_texts_that_are_not_empty_against_as_many_real_ones_as_samples(
    scored, monkeypatch
):
    assert run().exit_code == 0
    without = scores(scored)
    stand_in(monkeypatch)
    set_params({"score.mauve_seeds": [3, 5]})
    assert run().exit_code == 0
    # Five texts, and sample.num of 16.
    found = {"mauve": 4 - 5 / 16, "mauve_spread": pytest.approx(2**0.5)}
    assert scores(scored) == without | found


def test_both_ways_to_the_baselines_likelihood_agree(scored):
    """What scoring finds for held-out names is what evaluation finds for their blocks."""
    tokenizer = TextTokenizer.load(scored / "artifacts/tokenizer")
    packed = Packed.open(scored / "artifacts/packed")
    write_samples(scored, [tokenizer.decode(ids) for ids in packed.test], tokenizer)
    assert run().exit_code == 0
    model = load_baseline(scored / "artifacts/baseline", pick_device("cpu"))
    nats, num_tokens = block_nats(model, packed.test, batch_size=8)
    assert scores(scored)["num_tokens"] == num_tokens.sum()
    perplexity = pytest.approx(2.718281828459045 ** (nats.sum() / num_tokens.sum()), rel=1e-6)
    assert scores(scored)["gen_ppl"] == perplexity


def test_a_local_folder_with_the_samples_tokenizer_takes_their_ids(scored):
    assert run().exit_code == 0
    with_baseline = scores(scored)
    pinned = folder_revision(scored / "artifacts/baseline")
    set_params({"score.scorer": "artifacts/baseline", "score.scorer_revision": pinned})
    assert run().exit_code == 0
    assert scores(scored) == with_baseline


def test_a_local_folder_with_another_tokenizer_reads_texts_and_excludes_empty_ones(scored):
    train_char_tokenizer(["".join(TEXTS)]).save(scored / "artifacts/baseline")
    pinned = folder_revision(scored / "artifacts/baseline")
    set_params({"score.scorer": "artifacts/baseline", "score.scorer_revision": pinned})
    result = run()
    assert result.exit_code == 0, result.output
    row = scores(scored)
    assert row["excluded"] == [3]
    assert (row["num_samples"], row["num_scored"]) == (6, 5)
    assert row["num_tokens"] == sum(len(text) for text in TEXTS)


def test_a_local_folder_of_other_bytes_than_those_pinned_is_refused(scored):
    set_params({"score.scorer": "artifacts/baseline", "score.scorer_revision": "0" * 64})
    result = run()
    assert result.exit_code == 1
    assert result.stderr.startswith("error: score.scorer_revision: the files in ")


def test_a_model_of_the_hub_is_scored_with_at_the_commit_that_is_pinned(scored, monkeypatch):
    snapshots = cached_hub(scored / "hub", monkeypatch)
    found = {}
    for commit in "ab":
        set_params({"score.scorer": "gpt2", "score.scorer_revision": commit * 40})
        assert run().exit_code == 0
        found[commit] = scores(scored)
        assert found[commit]["scorer"]["name"] == "gpt2"
        weights = weights_sha256(snapshots / (commit * 40))
        assert found[commit]["scorer"]["sha256"] == weights
    assert found["a"]["gen_ppl"] != found["b"]["gen_ppl"]


@pytest.mark.parametrize(
    ("pinned", "message"),
    [
        (None, "score.scorer_revision: a commit of gpt2 on the Hugging Face hub is asked for (got"),
        ("main", "score.scorer_revision: a commit of gpt2 on the Hugging Face hub is asked for"),
        ("c" * 40, f"score.scorer: gpt2 at {'c' * 40} is neither on this machine nor can it be"),
    ],
)
def test_a_model_of_the_hub_at_no_commit_or_one_that_is_absent(
    scored, monkeypatch, pinned, message
):
    cached_hub(scored / "hub", monkeypatch)
    set_params({"score.scorer": "gpt2", "score.scorer_revision": pinned})
    result = run()
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {message}")
    assert result.stderr.count("\n") == 1


def test_invalid_utf8_is_counted_and_scored_by_its_ids(scored):
    """The whole way with a byte-level tokenizer: its baseline, and samples that are cut bytes."""
    tokenizer = read_gpt2_tokenizer(write_byte_level(scored / "bytes", num_merges=9))
    tokenizer.save(scored / "artifacts/tokenizer")
    write_baseline(scored, tokenizer)
    whole, cut = tokenizer.encode("é"), tokenizer.encode("é")[:1]
    rows = []
    for index, ids in enumerate((whole, cut, cut, tokenizer.encode("é�"))):
        block = ids + [tokenizer.eos_id] * (16 - len(ids))
        row = {"index": index, "num_steps": 8, "seed": 0, "nfe": 5, "ids": block}
        rows.append(row | {"text": tokenizer.decode(block)})
    write_jsonl(scored / "artifacts/samples/8.jsonl", rows)
    result = run()
    assert result.exit_code == 0, result.output
    row = scores(scored)
    assert row["invalid_utf8"] == 0.5
    assert row["well_formed"] == 1
    assert row["num_tokens"] == (2 + 1 + 1 + 5) + 4


def test_bytes_depend_on_inputs_alone(scored):
    assert run().exit_code == 0
    first = (scored / "artifacts/scores/8.json").read_bytes()
    (scored / "artifacts/scores/8.json").unlink()
    assert run().exit_code == 0
    assert (scored / "artifacts/scores/8.json").read_bytes() == first
    assert b"cpu" not in first
    assert b"seconds" not in first


def test_missing_scorer_is_one_message(scored):
    set_params({"score.scorer": "no/such/folder"})
    result = run()
    assert result.exit_code == 1
    assert result.stderr.startswith("error: score.scorer: ")
    assert result.stderr.count("\n") == 1
    assert not (scored / "artifacts/scores").exists()


def test_truncated_baseline_is_one_message(scored):
    path = scored / "artifacts/baseline/model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    result = run()
    assert result.exit_code == 1
    assert "the model in artifacts/baseline is damaged" in result.stderr
    assert not (scored / "artifacts/scores").exists()


def test_samples_of_another_tokenizer(scored):
    tokenizer = TextTokenizer.load(scored / "artifacts/tokenizer")
    write_samples(scored, TEXTS, tokenizer, {"ids": [tokenizer.size] * 16})
    result = run()
    assert result.exit_code == 1
    assert f"sample 0 holds the token id {tokenizer.size}" in result.stderr


def test_out_of_memory_names_the_parameter(scored, monkeypatch):
    def full(*_, **__):
        raise MemoryError

    monkeypatch.setattr(scoring, "likelihood", full)
    result = run()
    assert result.exit_code == 1
    assert "lower score.batch_size in params.yaml" in result.stderr
