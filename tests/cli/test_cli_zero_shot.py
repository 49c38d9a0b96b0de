"""`sedd zero-shot` and `sedd references`: counts, rows, figures, and what is refused."""

import json
import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from reference_files import SHARED_GPT2, write_byte_level
from toy import random_model, write_model
from transformers import GPT2Config, GPT2LMHeadModel

from pipeline.data.gpt2 import encoding_sha256, read_gpt2_tokenizer

EVAL = SHARED_GPT2.parent / "eval"
ROWS = [" = Birds = \n", "", *[f" The {n} birds , all of them , sang . \n" for n in range(40)], ""]
LENGTH = 32
FEW = ("--num-replicates", 4, "--batch-size", 64)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("set") / "rows.parquet"
    pq.write_table(pa.table({"text": ROWS}), path)
    return path


@pytest.fixture(scope="module")
def letters(tmp_path_factory):
    return write_byte_level(tmp_path_factory.mktemp("letters"), num_merges=0)


@pytest.fixture
def as_gpt2(letters, monkeypatch):
    """The tokenizer of single bytes passes for GPT-2's."""
    parts = json.loads(read_gpt2_tokenizer(letters).definition)
    monkeypatch.setattr("pipeline.data.gpt2.GPT2", encoding_sha256(parts))


def write(folder, letters, parameterization="raw", **changes):
    tokenizer = read_gpt2_tokenizer(letters)
    values = {"vocab_size": tokenizer.size, "length": LENGTH, "eps": 1e-3, "t_min": 1e-3}
    values |= {"scale_by_sigma": True} | changes
    model = random_model("absorb", parameterization, std=0.05, **values)
    return write_model(folder, model, tokenizer)


@pytest.fixture(scope="module")
def model(tmp_path_factory, letters):
    return write(tmp_path_factory.mktemp("trained"), letters)


def table(result):
    """Lines of a table by their first cell."""
    assert result.exit_code == 0, result.output
    return {
        line.split("  ")[0]: line.split("  ", 1)[1].strip() for line in result.stdout.splitlines()
    }


def test_counts_need_a_tokenizer_and_no_model(sedd, elsewhere, file, letters):
    counted = table(
        sedd("zero-shot", file, "--detokenizer", "wikitext", "--tokenizer", letters, "--count")
    )
    num = sum(len(row.replace(" ,", ",").replace(" .", ".").replace(" \n", "\n")) for row in ROWS)
    num += len(ROWS)
    assert counted == {
        "protocol": "exact",
        "texts": "43",
        "tokens": f"{num:,} in the stream",
        "blocks": f"{num // 1024} of 1,024 tokens and a tail of {num % 1024}",
        "left over": "0 tokens",
    }


def test_rows_are_shown_as_they_are_scored(sedd, elsewhere, file):
    result = sedd("zero-shot", file, "--detokenizer", "wikitext", "--show-texts")
    shown = [json.loads(line) for line in result.stdout.splitlines()]
    assert shown[:3] == [" = Birds =\n", "", " The 0 birds, all of them, sang.\n"]
    assert len(shown) == len(ROWS)


@pytest.mark.skipif(not EVAL.is_dir(), reason="needs GPT-2's tokenizer and ../shared/data/eval")
@pytest.mark.parametrize(
    ("name", "detokenizer", "protocol", "said"),
    [
        ("wikitext_raw_test.parquet", "wikitext", "sedd", "264 of 1,024 tokens"),
        pytest.param(
            "wikitext_raw_test.parquet",
            "wikitext",
            "exact",
            "268 of 1,024 tokens and a tail of 364",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "lambada_test.jsonl",
            "lambada",
            "sedd",
            "414 of 1,024 tokens",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_blocks_of_the_papers_own_sets(sedd, elsewhere, name, detokenizer, protocol, said):
    how = ("--detokenizer", detokenizer, "--protocol", protocol, "--tokenizer", SHARED_GPT2)
    counted = table(sedd("zero-shot", EVAL / name, *how, "--count"))
    assert counted["blocks"] == said


def test_every_figure_has_its_unit(sedd, elsewhere, file, model, as_gpt2):
    how = ("--protocol", "sedd", "--workers", 1, "--model", model, "--set", "wikitext103", *FEW)
    result = sedd("zero-shot", file, "--detokenizer", "wikitext", *how, "--out", "found.json")
    shown = table(result)
    found = json.loads((elsewhere / "found.json").read_text())
    nats, bits = found["nats_per_token"], found["bits_per_byte"]
    assert shown["nats a token"].startswith(f"≤ {nats:.4f} ± ")
    assert shown["perplexity a token"].startswith(f"≤ {math.exp(nats):,.2f} ± ")
    assert shown["bits a byte"] == f"≤ {bits:.4f}"
    assert bits == pytest.approx(nats * found["num_tokens"] / found["num_bytes"] / math.log(2))
    assert shown["may stand beside"] == "no published figure"
    assert found["differs"] == [
        "blocks of 32 tokens, the table's have 1,024",
        "1 workers, the table's 8",
    ]
    assert list(found["terms_nats_per_token"]) == ["integral", "prior"]
    assert sum(found["terms_nats_per_token"].values()) == pytest.approx(nats)
    assert found["num_tokens"] == found["num_blocks"] * LENGTH
    assert "perplexity" not in {name.rsplit("_", 2)[-1] for name in found}


def test_all_of_a_set_is_scored_under_exact_and_some_of_it_where_asked(
    sedd, elsewhere, file, model
):
    sedd("zero-shot", file, "--model", model, *FEW, "--out", "all.json")
    shown = table(
        sedd("zero-shot", file, "--model", model, *FEW, "--out", "few.json", "--max-blocks", 3)
    )
    found, few = (json.loads((elsewhere / name).read_text()) for name in ("all.json", "few.json"))
    text = "".join(ROWS)
    assert found["num_bytes"] == len(text.encode())
    assert found["num_tokens"] == len(text.encode()) + len(ROWS)
    nats = found["nats_per_token"] * found["num_tokens"]
    assert found["nats_per_word"] == pytest.approx(nats / len(text.split()))
    assert "3 of " in shown["blocks"]
    assert "nats_per_word" not in few


def test_an_autoregressive_model_stands_beside_it(sedd, elsewhere, file, model, letters, tmp_path):
    torch.manual_seed(0)
    sizes = {"vocab_size": 257, "n_positions": LENGTH, "n_embd": 8, "n_layer": 1, "n_head": 1}
    folder = write_byte_level(tmp_path / "other", num_merges=0)
    GPT2LMHeadModel(GPT2Config(bos_token_id=256, eos_token_id=256, **sizes)).save_pretrained(folder)
    how = ("--model", model, "--against", folder, *FEW, "--out", "found.json")
    shown = table(sedd("zero-shot", file, *how, "--detokenizer", "lambada"))
    found = json.loads((elsewhere / "found.json").read_text())
    theirs = found["against"]
    assert theirs["num_tokens"] == found["num_tokens"]
    gap = found["nats_per_token"] - theirs["nats_per_token"]
    assert theirs["difference_nats_per_token"] == pytest.approx(gap)
    assert 0 < theirs["difference_stderr"] < 0.2
    assert shown["ours less its, nats a token"].startswith(f"{gap:+.4f} ± ")
    # Rows with a blank behind the line end that the detokenizer puts before each.
    assert found["last_word"]["num_texts"] == 41
    assert "last words right" in shown
    assert "other, last words right" in shown


def test_a_model_of_single_texts_is_told_apart(sedd, elsewhere, make_model):
    (elsewhere / "rows.txt").write_text("abc\nhi\n" * 5)
    result = sedd("zero-shot", "rows.txt", "--model", make_model(), *FEW)
    assert result.exit_code == 0, result.output
    assert "trained on one text a block" in result.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--protocol", "mine"], "--protocol must be one of exact, sedd, mdlm, duo, bd3lm"),
        (["--detokenizer", "mine"], "--detokenizer must be one of none, wikitext, ptb"),
        (["--set", "mine"], "--set must be one of ag_news"),
        (["--split", "mine"], "--split must be one of train, validation, test"),
        (["--workers", 0], "--workers must be from 1 to"),
        (["--max-blocks", 0], "--max-blocks must be from 1 to"),
        (["--column", "mine"], "has no column 'mine' (--column); its columns: 'text'"),
        (["--num-draws", 3], "--num-draws must be even"),
        (["--protocol", "sedd"], "its figures are of GPT-2's tokens"),
        (["--length", 64], "--length must be from 1 to 32 (got 64)"),
        (["--against", "nowhere"], "--against:"),
    ],
)
def test_wrong_input(refusal, elsewhere, file, model, options, said):
    assert said in refusal("zero-shot", file, "--model", model, *options)


def test_a_set_that_fills_no_block(refusal, sedd, elsewhere, file, letters, as_gpt2):
    how = ("--tokenizer", letters, "--count", "--protocol", "sedd")
    assert table(sedd("zero-shot", file, *how, "--workers", 1))["blocks"].startswith("1 of")
    said = refusal("zero-shot", file, *how, "--workers", 43)
    assert "no block of 1,024 tokens from 43 rows" in said
    assert "with workers 43" in said
    assert "fewer workers, or protocol exact" in said
    (elsewhere / "empty.txt").write_text("")
    assert "the set has no rows" in refusal("zero-shot", "empty.txt", *how)


def test_the_word_level_file_is_refused(refusal, elsewhere):
    (elsewhere / "wiki.txt").write_text(" the <unk> of it \n")
    said = refusal("zero-shot", "wiki.txt", "--detokenizer", "wikitext", "--show-texts")
    assert "WikiText's word-level file" in said


def test_references_are_printed_without_a_project(sedd, elsewhere):
    result = sedd("references")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "protocol sedd" in result.stdout
    assert "≤ 40.62" in result.stdout
