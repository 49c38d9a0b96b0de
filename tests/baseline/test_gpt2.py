import itertools
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from toy import SETTINGS
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from pipeline.baseline.gpt2 import (
    NextToken,
    block_nats,
    check_baseline,
    load_baseline,
    new_baseline,
    save_baseline,
    scored_tokens,
)
from pipeline.data.tokenizer import train_char_tokenizer
from pipeline.errors import CheckpointError
from pipeline.training.loop import Watch, fit
from pipeline.training.state import TrainingState

PAD, EOS = 0, 1
SIZES = SimpleNamespace(width=16, num_blocks=2, num_heads=2, dropout=0.0)
CPU = torch.device("cpu")


def tiny(vocab_size=5, length=4, mode="pad", sharp=True):
    model = new_baseline(
        SIZES, vocab_size=vocab_size, length=length, start_id=EOS, mode=mode, seed=0, device=CPU
    )
    if sharp:  # fresh weights predict almost evenly, so that mistakes would hardly show
        for parameter in model.parameters():
            parameter.data.mul_(5)
    return model


def random_blocks(num, vocab_size=5, length=4, seed=0):
    blocks = np.random.default_rng(seed).integers(0, vocab_size, (num, length))
    for block in blocks:
        if EOS in block:
            block[list(block).index(EOS) + 1 :] = PAD
    return blocks


def one_by_one(model, block, num_scored):
    """Transformers' own loss of one sequence, a token at a time."""
    nats = 0.0
    for place in range(num_scored):
        prefix = torch.tensor([[EOS, *block[:place]]])
        logits = model(prefix).logits[0, -1].double()
        nats -= logits.log_softmax(-1)[block[place]].item()
    return nats


def test_nats_are_those_of_one_token_at_a_time():
    model, blocks = tiny(), random_blocks(24)
    nats, num_scored = block_nats(model, blocks, batch_size=7)
    for block, value, num in zip(blocks.tolist(), nats, num_scored, strict=True):
        assert num == (block.index(EOS) + 1 if EOS in block else 4)
        assert value == pytest.approx(one_by_one(model, block, num), rel=1e-5)
    assert {1, 2, 3, 4} == set(num_scored)
    assert nats.dtype == np.float64


def test_probabilities_of_all_texts_sum_to_one():
    """Every text through its eos, and every one that fills the block without."""
    model, length = tiny(vocab_size=4), 4
    texts = [
        [*text, EOS, *[PAD] * (length - num - 1)]
        for num in range(length)
        for text in itertools.product([PAD, 2, 3], repeat=num)
    ] + [list(text) for text in itertools.product([PAD, 2, 3], repeat=length)]
    nats, _ = block_nats(model, np.array(texts), batch_size=32)
    assert np.exp(-nats).sum() == pytest.approx(1, abs=1e-6)


def test_probabilities_of_all_concat_blocks_sum_to_one():
    model = tiny(vocab_size=4, length=3, mode="concat")
    blocks = np.array(list(itertools.product(range(4), repeat=3)))
    nats, num_scored = block_nats(model, blocks, batch_size=10)
    assert np.exp(-nats).sum() == pytest.approx(1, abs=1e-6)
    assert set(num_scored) == {3}


def test_batch_size_changes_nothing_but_rounding():
    model, blocks = tiny(), random_blocks(50)
    whole, _ = block_nats(model, blocks, batch_size=50)
    for batch_size in (1, 3, 16):
        nats, _ = block_nats(model, blocks, batch_size=batch_size)
        np.testing.assert_allclose(nats, whole, rtol=1e-5)


def test_what_comes_after_eos_has_no_part():
    model = tiny()
    padded, junk = np.array([[3, EOS, PAD, PAD]]), np.array([[3, EOS, 4, EOS]])
    a, b = block_nats(model, padded, batch_size=1), block_nats(model, junk, batch_size=1)
    assert a[0] == b[0]


def test_loss_and_gradient_are_those_of_the_plain_formulation():
    model, x0 = tiny(), torch.from_numpy(random_blocks(20))
    method = NextToken(model)
    drawn = method.draw(x0, torch.Generator())
    loss = method.loss(*drawn)
    assert torch.equal(method.loss(*method.located(*drawn)), loss)
    (loss / 20).backward()
    gradient = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()

    inputs = torch.cat([torch.full((20, 1), EOS), x0[:, :-1]], dim=1)
    log_p = model(inputs).logits.log_softmax(-1).gather(-1, x0[:, :, None])[:, :, 0]
    kept = torch.arange(4) < scored_tokens(model, x0)[:, None]
    plain = -(log_p * kept).sum(1)
    plain.mean().backward()
    torch.testing.assert_close(loss, plain.sum())
    for ours, parameter in zip(gradient, model.parameters(), strict=True):
        torch.testing.assert_close(ours, parameter.grad, atol=1e-5, rtol=1e-4)


def test_same_seed_same_weights():
    first, second = tiny(sharp=False), tiny(sharp=False)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_training_reaches_the_entropy_of_the_data(tmp_path):
    """Three letters, each one of four at even odds, then the end: 3 log 4 nats."""
    letters = np.random.default_rng(0).integers(2, 6, (512, 3))
    blocks = np.column_stack([letters, np.full(512, EOS), np.full(512, PAD)])
    model = tiny(vocab_size=6, length=5, sharp=False)
    steps = {"num_steps": 80, "log_every": 10, "eval_every": 80, "checkpoint_every": 80}
    settings = replace(SETTINGS, batch_size=64, accumulate=2, lr=0.01, weight_decay=0.0, **steps)
    fit(
        NextToken(model),
        blocks,
        settings,
        Watch(lambda: block_nats(model, blocks, batch_size=64)[0].mean().item()),
        device=CPU,
        state=TrainingState(tmp_path),
        desc="baseline",
    )
    nats, _ = block_nats(model, blocks, batch_size=64)
    assert nats.mean() == pytest.approx(3 * math.log(4), abs=0.1)


@pytest.fixture
def saved(tmp_path):
    tokenizer = train_char_tokenizer(["ab"])
    tokenizer.save(tmp_path / "tokenizer")
    model = tiny(vocab_size=tokenizer.size)
    sha256 = save_baseline(tmp_path / "baseline", model, tokenizer=tmp_path / "tokenizer")
    return tmp_path / "baseline", model, tokenizer, sha256


def test_loads_what_it_saved(saved):
    folder, model, tokenizer, sha256 = saved
    blocks = random_blocks(8)
    loaded = load_baseline(folder, CPU)
    assert not loaded.training
    check_baseline(folder, tokenizer_sha256=tokenizer.sha256, length=4)
    for ours, theirs in zip(
        block_nats(model, blocks, batch_size=8),
        block_nats(loaded, blocks, batch_size=8),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)
    again = save_baseline(folder, loaded, tokenizer=folder)
    assert again == sha256
    assert not list(folder.glob(".*"))


def test_is_a_folder_that_transformers_loads(saved):
    folder, model, tokenizer, _ = saved
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.tensor([[EOS, 3, 4]])
    torch.testing.assert_close(loaded(ids).logits, model(ids).logits)
    assert PreTrainedTokenizerFast.from_pretrained(folder).encode("ba") == tokenizer.encode("ba")


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def drop_tensor(path):
    from safetensors.torch import load_file, save_file

    weights = load_file(path)
    del weights["transformer.h.1.mlp.c_fc.weight"]
    save_file(weights, path)


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("model.safetensors", truncate, "is damaged"),
        ("model.safetensors", drop_tensor, r"is damaged: .*transformer\.h\.1\.mlp\.c_fc\.weight"),
        ("model.safetensors", lambda path: path.unlink(), "no baseline in"),
        ("config.json", lambda path: path.write_text("{"), "is damaged"),
        ("config.json", lambda path: path.unlink(), "is damaged"),
        (
            "config.json",
            lambda path: path.write_text(path.read_text().replace('"n_embd": 16', '"n_embd": 32')),
            "is damaged",
        ),
        (
            "config.json",
            lambda path: path.write_text(path.read_text().replace("block_mode", "other")),
            "no block_mode",
        ),
        ("config.json", lambda path: path.write_text("null"), "is damaged"),
        ("config.json", lambda path: path.write_text("[" * 100_000), "is damaged"),
    ],
)
def test_damaged_folder_is_one_clear_error(saved, name, damage, message):
    folder = saved[0]
    damage(folder / name)
    with pytest.raises(CheckpointError, match=r"(?s)" + message):
        load_baseline(folder, CPU)


def test_other_tokenizer_or_length_is_refused(saved, tmp_path):
    folder, _, tokenizer, _ = saved
    other = train_char_tokenizer(["abc"])
    with pytest.raises(CheckpointError, match=f"trained with tokenizer {tokenizer.sha256[:12]}"):
        check_baseline(folder, tokenizer_sha256=other.sha256, length=4)
    with pytest.raises(CheckpointError, match="blocks of 4 tokens, these have 8"):
        check_baseline(folder, tokenizer_sha256=tokenizer.sha256, length=8)
    with pytest.raises(CheckpointError, match="no baseline in"):
        check_baseline(tmp_path / "none", tokenizer_sha256=tokenizer.sha256, length=4)
    (folder / "config.json").write_text("null")
    with pytest.raises(CheckpointError, match="no baseline in"):
        check_baseline(folder, tokenizer_sha256=tokenizer.sha256, length=8)


@pytest.mark.gpu
def test_gpu_gives_the_same_likelihoods():
    model, blocks = tiny(), random_blocks(40)
    expected, _ = block_nats(model, blocks, batch_size=16)
    model.to("cuda")
    found, _ = block_nats(model, blocks, batch_size=16)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
