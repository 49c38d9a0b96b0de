"""Documents packed as running text, through every stage from packing to scores."""

import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_project import TINY, write_params

from pipeline.baseline.gpt2 import block_nats, load_baseline
from pipeline.data.packed import Packed
from pipeline.data.tokenizer import TextTokenizer
from pipeline.device import pick_device
from pipeline.files import read_jsonl, read_object
from stages import baseline, evaluate, pack, real_text, sample, score, tokenizer, train

DATA, TOKENIZER, PACKED, CHECKPOINT, BASELINE = (
    Path("artifacts", name) for name in ("data", "tokenizer", "packed", "checkpoint", "baseline")
)
CHANGES = {
    "tokenizer.vocab_size": 300,
    "pack.mode": "concat",
    "train.num_steps": 12,
    "train.warmup_steps": 2,
    "train.sample_every": 6,
    "train.sample_num": 60,
    "train.eval_every": 6,
    "baseline.num_tokens": 512,
}
TEXTS = ["the cat sat", "on the mat", "naïve 👩", "a bat", ""] * 30


@pytest.fixture(params=["char", "bpe", "sentencepiece"])
def trained(tiny, request):
    """Both models, trained on windows of 16 tokens."""
    write_params(tiny, TINY | CHANGES | {"tokenizer.kind": request.param})
    DATA.mkdir()
    for split, texts in (("train", TEXTS), ("test", TEXTS[:100])):
        pq.write_table(pa.table({"Names": texts}), DATA / f"{split}.parquet")
    tokenizer.main(DATA, TOKENIZER)
    pack.main(DATA, TOKENIZER, PACKED)
    for stage, out in (train, CHECKPOINT), (baseline, BASELINE):
        reports = [Path(f"{out.name}.{kind}") for kind in ("jsonl", "json", "csv")]
        stage.main(PACKED, TOKENIZER, out, *reports[stage is baseline :])


def test_figures_of_windows_take_all_of_them(trained):
    evaluate.main(CHECKPOINT, BASELINE, PACKED, Path("likelihood.json"))
    sample.main(3, CHECKPOINT, TOKENIZER, Path("samples"))
    score.main(Path("samples/3.jsonl"), DATA, TOKENIZER, PACKED, BASELINE, Path("3.json"))
    real_text.main(TOKENIZER, PACKED, BASELINE, Path("real_text.json"))

    text, packed = TextTokenizer.load(TOKENIZER), Packed.open(PACKED)
    values = read_object(Path("likelihood.json"))
    nats, num_tokens = block_nats(
        load_baseline(BASELINE, pick_device("cpu")), packed.test, batch_size=64
    )
    assert num_tokens.tolist() == [16] * len(packed.test)
    num_chars = sum(text.num_chars(block, "concat") for block in packed.test)
    assert values["num_chars"] == num_chars
    assert values["baseline_nats_per_char"] == pytest.approx(nats.sum() / num_chars)
    assert values["num_tokens"] == 16 * len(packed.test)
    assert values["baseline_nats_per_token"] == pytest.approx(nats.mean() / 16)
    num_bytes = sum(text.num_bytes(block, "concat") for block in packed.test)
    assert values["num_bytes"] == num_bytes
    assert values["baseline_bits_per_byte"] == pytest.approx(nats.sum() / num_bytes / math.log(2))
    # Every character of the stream but those of the tail, which fills no block.
    stream = "".join(f"{text}\n" for text in TEXTS[:100])
    assert 0 <= len(stream) - num_chars <= 8 * packed.meta.num_dropped["test"]

    rows = read_jsonl(Path("samples/3.jsonl"))
    assert [row["text"] for row in rows] == [text.decode_all(row["ids"]) for row in rows]
    for found in (read_object(Path("3.json")), read_object(Path("real_text.json"))):
        assert (found["num_scored"], found["num_tokens"]) == (16, 16 * 16)
        assert (found["novelty"], found["held_out"]) == (None, None)
    assert read_object(Path("real_text.json"))["well_formed"] == 1
    snapshots = [shown for row in read_jsonl(Path("checkpoint.jsonl")) for shown in row["texts"]]
    assert any(text.decode_all([text.eos_id]) in shown for shown in snapshots)
    assert read_object(CHECKPOINT / "config.json")["text_lengths"] is None
