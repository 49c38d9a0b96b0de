"""Turn the documents of both splits into blocks of tokens."""

import sys
from functools import partial
from pathlib import Path
from typing import get_args

from pipeline.config.params import Params, load_params
from pipeline.data.encoding import Encoder
from pipeline.data.labels import label_names, named, watching
from pipeline.data.packed import Meta, blocks_line, check_comparable, remember, unknown_line
from pipeline.data.packing import pack, write_blocks
from pipeline.data.parts import Recipe, pack_part, parts_of, pieces_of
from pipeline.data.pieces import Packer
from pipeline.data.splits import Empty, Split, both_splits, stream
from pipeline.data.stream import pack_stream
from pipeline.data.tokenizer import TextTokenizer
from pipeline.errors import DataError, reported
from pipeline.methods.samplers import label_misuses
from pipeline.scale.cluster import cluster
from pipeline.table import shown
from stages import run


@reported
def main(data: Path, tokenizer: Path, packed: Path) -> None:
    """Write `packed`, the folder of blocks, from the files in `data`."""
    params = load_params()
    empty, text = Empty(), TextTokenizer.load(tokenizer)
    if params.pack.mode == "stream":
        meta = _stream(params, data, text, packed)
    elif params.resources.pack == "ray":
        meta = _by_ray(params, data, tokenizer, packed, empty)
    else:
        meta = _documents(params, data, text, packed, empty)
    check_comparable(meta.num_blocks["test"], params.sample.num)
    for split, written in meta.sha256.items():
        remember(packed / f"{split}.bin", written)
    if said := empty.line():
        print(shown(said), file=sys.stderr)
    if meta.mode != "pad":
        print(blocks_line(meta), file=sys.stderr)
    if any(meta.num_unknown.values()):
        print(shown(unknown_line(meta)), file=sys.stderr)


def _documents(
    params: Params, data: Path, tokenizer: TextTokenizer, packed: Path, empty: Empty
) -> Meta:
    names = _labels(params, data)
    seen: dict[str, list[list[int]]] = {split: [] for split in get_args(Split)}
    with both_splits(data, params.data, [*names]) as rows:
        texts = {
            split: watching(named(each, params.data), names, seen[split])
            for split, each in rows.items()
        }
        return pack(
            packed,
            {split: empty.watching(split, each) for split, each in texts.items()},
            tokenizer,
            mode=params.pack.mode,
            length=params.pack.length,
            labels=names,
            label_rows=seen,
        )


def _by_ray(params: Params, data: Path, tokenizer: Path, packed: Path, empty: Empty) -> Meta:
    names, encoder = _labels(params, data), Encoder(TextTokenizer.load(tokenizer))
    recipe = Recipe(
        data=params.data,
        # Workers stand elsewhere.
        tokenizer=tokenizer.resolve(),
        sha256=encoder.tokenizer.sha256,
        mode=params.pack.mode,
        length=params.pack.length,
        names=names,
    )
    parts = parts_of(data.resolve(), params.data)
    with cluster(params.resources.ray_address) as in_order:
        pieces = pieces_of(in_order(partial(pack_part, recipe), parts), len(parts), empty)
        packer = Packer(encoder, params.pack.mode, params.pack.length)
        return write_blocks(packed, pieces, packer, get_args(Split), names)


def _labels(params: Params, data: Path) -> dict[str, list[str]]:
    names = label_names(data, params.data) if params.data.labels else {}
    asked = params.sample.conditioning
    # Here, and not after training: only the data say what values there are.
    if asked is not None and (wrong := label_misuses(names, asked, "sample.")):
        raise DataError(*wrong)
    return names


def _stream(params: Params, data: Path, tokenizer: TextTokenizer, packed: Path) -> Meta:
    splits: tuple[Split, ...] = ("train",) if params.data.files.test is None else ("train", "test")
    return pack_stream(
        packed,
        {split: stream(data, split, params.data) for split in splits},
        tokenizer,
        length=params.pack.length,
        holdout=params.data.holdout,
    )


if __name__ == "__main__":
    run(main)
