"""Packing: from documents in parquet to blocks of GPT-2's tokens on disk."""

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.machine import Machine
from benchmarks.measure import Facts, Side, Step, interleaved
from benchmarks.plain_text import plain_pack
from benchmarks.rows import Check, Plan, Row, at_least, floor_text, rate
from pipeline.data.corpus import read_documents
from pipeline.data.gpt2 import read_gpt2_tokenizer
from pipeline.data.packing import pack

SHARED = Path(__file__).parents[2] / "shared" / "data"
CORPUS = SHARED / "webtext"
TOKENIZER = SHARED / "gpt2"
COLUMN = "text"
LENGTH = 1024


def plain(parquet: str) -> Step:
    """Two maps of Hugging Face's datasets, with two processes each."""
    import datasets
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER, local_files_only=True)
    datasets.disable_progress_bars()

    def run() -> Facts:
        with tempfile.TemporaryDirectory() as cache:
            blocks = plain_pack(Path(parquet), COLUMN, tokenizer, LENGTH, Path(cache))
            return {"num_blocks": len(blocks)}

    return run


def ours(parquet: str) -> Step:
    """The product's pack."""
    tokenizer = read_gpt2_tokenizer(TOKENIZER)

    def run() -> Facts:
        folder = Path(tempfile.mkdtemp())
        try:
            documents = {
                "train": read_documents(Path(parquet), COLUMN),
                # One short document: its split must be there, and costs nothing.
                "test": ["block " * LENGTH],
            }
            meta = pack(folder, documents, tokenizer, mode="concat", length=LENGTH)
            return {"num_blocks": meta.num_blocks["train"]}
        finally:
            shutil.rmtree(folder)

    return run


def text_bytes(parquet: Path) -> int:
    """Size of the texts in UTF-8."""
    return sum(len(text.encode()) for text in read_documents(parquet, COLUMN))


def write_repeated(target: Path, documents: pa.Table, times: int) -> Side:
    """The documents several times over, and the product's side that packs them."""
    with pq.ParquetWriter(target, documents.schema) as writer:
        for _ in range(times):
            writer.write_table(documents, row_group_size=1000)
    return Side("benchmarks.pack:ours", {"parquet": str(target)})


def pack_gpt2(plan: Plan, machine: Machine) -> list[Row]:
    """The row pack_gpt2."""
    if not (CORPUS.is_dir() and TOKENIZER.is_dir()):
        return [Row("pack_gpt2", "MB/s", notes=(f"not run: no {CORPUS}",))]
    whole = pq.read_table(CORPUS / "train.parquet", columns=[COLUMN])
    documents = whole.slice(0, len(whole) // plan.runs(1, 4))
    times = plan.runs(8, 3)
    with tempfile.TemporaryDirectory() as name:
        corpus = Path(name) / "corpus.parquet"
        our_side = write_repeated(corpus, documents, 1)
        sides = {"plain": replace(our_side, prepare="benchmarks.pack:plain"), "ours": our_side}
        found = interleaved(sides, plan.runs(3, 1), warm_up=False, on_run=plan.on_run)
        size = text_bytes(corpus)
        # A quarter of the corpus does not take all the memory that packing works in.
        grown = {
            "once": write_repeated(Path(name) / "whole.parquet", whole, 1),
            "larger": write_repeated(Path(name) / "larger.parquet", whole, times),
        }
        at_once, at_large = interleaved(grown, 1, warm_up=False, on_run=plan.on_run).values()
    plain, ours = found["plain"], found["ours"]
    growth = at_large.peak_mb / at_once.peak_mb
    return [
        Row(
            "pack_gpt2",
            "MB/s",
            (
                at_least(plain.median / ours.median, 4),
                Check("memory flat in corpus size", growth <= 1.2),
            ),
            ours=rate(ours, size / 1e6, machine),
            plain=rate(plain, size / 1e6, machine),
            floor=floor_text(machine, 0, 2 * size, ours.median),
            notes=(
                f"{size / 1e6:.0f} MB of text to {ours.facts['num_blocks']:,} blocks of {LENGTH:,} "
                f"(plain {plain.facts['num_blocks']:,}: it loses a tail each batch)",
                f"ours at {times} times the corpus: peak {at_large.peak_mb:,.0f} MB "
                f"({growth:.2f}x that of the whole)",
            ),
        )
    ]
