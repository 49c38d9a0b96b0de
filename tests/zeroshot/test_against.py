"""An autoregressive model on the same blocks: what it scores, the pairs, and what is refused."""

import math

import pytest
import torch
from reference_files import write_byte_level
from tiny_scorers import plain_nats
from transformers import GPT2Config, GPT2LMHeadModel

from pipeline.data.gpt2 import read_gpt2_tokenizer
from pipeline.errors import CheckpointError
from pipeline.evaluation.causal import GPT2, CausalLM
from pipeline.zeroshot.against import (
    Against,
    after_a_start,
    block_nats,
    compared,
    load_against,
)
from pipeline.zeroshot.blocks import cut
from pipeline.zeroshot.last_word import by_causal
from pipeline.zeroshot.protocols import PROTOCOLS
from pipeline.zeroshot.scoring import counts

HOW = {"key": "--against", "device": torch.device("cpu"), "precision": "float32"}


def network(vocab_size=12, max_tokens=8):
    torch.manual_seed(0)
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "bos_token_id": 0, "eos_token_id": 0}
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=vocab_size, n_positions=max_tokens, **sizes)
    ).eval()
    for parameter in model.parameters():
        parameter.data.mul_(4)
    return model


def against(model, kind=GPT2):
    return Against("--against", "tiny", "00", kind(model, "float32"))


@pytest.mark.parametrize("kind", [GPT2, CausalLM])
@pytest.mark.parametrize("name", PROTOCOLS)
def test_nats_are_of_what_stands_after_a_start(name, kind):
    model, protocol = network(), PROTOCOLS[name]
    blocks = cut([[3, 4, 5], [6, 7, 8, 9], [10]], protocol, length=4, eos_id=0, workers=1)
    rows = [row.tolist() for ids in blocks.by_length() for row in ids]
    plainly = [
        plain_nats(model, [0], row) if name == "exact" else plain_nats(model, row[:1], row[1:])
        for row in rows
    ]
    found = block_nats(against(model, kind), blocks, protocol, 0)
    assert found.tolist() == pytest.approx(plainly, rel=1e-5)
    num = counts(blocks, after_a_start(protocol), [0] * 12).tokens
    assert num.tolist() == [len(row) - (name != "exact") for row in rows]


@pytest.mark.parametrize("kind", [GPT2, CausalLM])
def test_what_is_likeliest_next_is_the_largest_logit(kind):
    model = network()
    ids = torch.randint(12, (3, 6), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        largest = model(ids[:, :-1]).logits.argmax(-1)
    found = by_causal(against(model, kind))(ids, torch.ones_like(ids, dtype=torch.bool))
    assert torch.equal(found[:, 1:], largest)


def test_the_difference_is_of_pairs_and_of_each_ones_own_tokens():
    """Blocks that are hard for both add no error; 4 tokens of ours, 3 of the other's."""
    protocol = PROTOCOLS["sedd"]
    blocks = cut([[1, 2, 3]] * 20, protocol, length=4, eos_id=0, workers=1)
    ours, theirs = (counts(blocks, p, [0, 1, 1, 1]) for p in (protocol, after_a_start(protocol)))
    hardness = torch.rand(20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    nats = (4 * (hardness + 0.5)).expand(16, -1)
    found = compared(nats, ours, 3 * hardness, theirs, against(network()))
    assert found["nats_per_token"] == pytest.approx(hardness.mean().item())
    assert found["nats_per_token_stderr"] == pytest.approx(hardness.std().item() / math.sqrt(20))
    assert found["difference_nats_per_token"] == pytest.approx(0.5)
    assert found["difference_stderr"] == pytest.approx(0, abs=1e-12)
    assert (found["num_tokens"], ours.bytes.sum().item()) == (60, 60)
    assert found["bits_per_byte"] == pytest.approx(hardness.mean().item() * 60 / math.log(2) / 40)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = write_byte_level(tmp_path_factory.mktemp("model"), num_merges=5)
    network(262).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder):
    return read_gpt2_tokenizer(folder)


def test_a_folder_of_the_same_tokens_is_loaded(folder, tokenizer):
    found = load_against(str(folder), tokenizer, **HOW)
    assert (found.name, found.model.vocab_size) == (folder.name, tokenizer.size)
    assert len(found.sha256) == 64


def test_another_vocabulary_is_refused(folder, tmp_path):
    other = read_gpt2_tokenizer(write_byte_level(tmp_path, num_merges=6))
    with pytest.raises(CheckpointError, match=r"another vocabulary, of 262 tokens, than .* 263"):
        load_against(str(folder), other, **HOW)


def test_what_is_no_model_is_refused(tokenizer, tmp_path, folder):
    with pytest.raises(CheckpointError, match="holds no transformers model"):
        load_against(str(tmp_path), tokenizer, **HOW)
    network(262).save_pretrained(tmp_path / "bare")
    with pytest.raises(CheckpointError, match=r"tokenizer.json is missing"):
        load_against(str(tmp_path / "bare"), tokenizer, **HOW)
    small = write_byte_level(tmp_path / "small", num_merges=5)
    network(100).save_pretrained(small)
    with pytest.raises(CheckpointError, match=r"knows 100 tokens, and the blocks are of 262"):
        load_against(str(small), tokenizer, **HOW)


def test_a_model_that_reads_less_than_a_block_is_refused():
    blocks = cut([list(range(1, 11))], PROTOCOLS["sedd"], length=10, eos_id=0, workers=1)
    assert len(block_nats(against(network(max_tokens=9)), blocks, PROTOCOLS["sedd"], 0)) == 1
    with pytest.raises(CheckpointError, match=r"reads 8 tokens at most, and the blocks take 9"):
        block_nats(against(network()), blocks, PROTOCOLS["sedd"], 0)
