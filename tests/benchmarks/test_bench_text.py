"""Plain packing and plain scoring give what the product gives."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from benchmarks.plain_text import plain_pack, plain_score
from benchmarks.score import EOS, flops, samples_of, texts_of
from pipeline.data.gpt2 import read_gpt2_tokenizer
from pipeline.data.packed import Packed
from pipeline.data.packing import pack

GPT2 = Path(__file__).parents[3] / "shared" / "data" / "gpt2"


@pytest.mark.slow
@pytest.mark.skipif(not GPT2.is_dir(), reason=f"no GPT-2 tokenizer in {GPT2}")
@pytest.mark.filterwarnings("default")
def test_both_pack_the_same_blocks(tmp_path):
    pytest.importorskip("datasets", reason="the extra `bench` is not installed")
    from transformers import AutoTokenizer

    texts = [f"Document {number} says: {'word ' * number}." for number in range(40)]
    pq.write_table(pa.table({"text": texts}), tmp_path / "train.parquet")
    blocks = plain_pack(
        tmp_path / "train.parquet",
        "text",
        AutoTokenizer.from_pretrained(GPT2, local_files_only=True),
        8,
        tmp_path / "cache",
        num_processes=1,
    )
    tokenizer = read_gpt2_tokenizer(GPT2)
    documents = {"train": texts, "test": texts[-1:]}
    pack(tmp_path / "packed", documents, tokenizer, mode="concat", length=8)
    np.testing.assert_array_equal(np.array(blocks["ids"]), Packed.open(tmp_path / "packed").train)


def test_plain_scores_are_log_probabilities():
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=7, n_embd=8, n_layer=1, n_head=2)).eval()
    [nats] = plain_score(model, [[3, 5]], start_id=6)
    with torch.no_grad():
        log_p = model(torch.tensor([[6, 3, 5]])).logits[0].log_softmax(-1)
    assert nats == pytest.approx(-float(log_p[0, 3] + log_p[1, 5]), rel=1e-6)


def test_the_texts_scored_have_mixed_lengths_and_an_eos_each():
    texts = texts_of(32)
    assert len({len(text) for text in texts}) > 16
    assert max(map(len, texts)) == 256
    assert all(text.index(EOS) == len(text) - 1 for text in texts)
    assert list(samples_of(texts).num_tokens(EOS)) == [len(text) for text in texts]
    assert flops(texts[:1]) < flops(texts[:2])
