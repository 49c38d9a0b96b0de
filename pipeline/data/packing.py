"""Documents to blocks of token ids: streamed, encoded, written in order."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.data.documents import Keys, index_of, path_of
from pipeline.data.encoding import Encoder
from pipeline.data.packed import Meta
from pipeline.data.pieces import Packer, Piece, num_cores
from pipeline.data.tokenizer import Mode, TextTokenizer
from pipeline.errors import DataError
from pipeline.files import sha256, whole


@dataclass
class Seen:
    """What packing counts in one split."""

    num_tokens: int = 0
    lengths: Counter[int] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)
    keys: list[Keys] = field(default_factory=list)

    def add(self, piece: Piece) -> None:
        """Count what stands in the next piece."""
        self.num_tokens += piece.tokens.size
        self.lengths.update(piece.lengths.tolist() if len(piece.keys) else ())
        self.unknown.update(piece.unknown)
        self.keys.append(piece.keys)


def pack(
    folder: Path,
    documents: Mapping[str, Iterable[str]],
    tokenizer: TextTokenizer,
    *,
    mode: Mode,
    length: int,
    num_workers: int | None = None,
    labels: Mapping[str, list[str]] | None = None,
    label_rows: Mapping[str, list[list[int]]] | None = None,
) -> Meta:
    """Write the documents of each split to `folder` as blocks of `length` tokens.

    With `pad` each block is one document: its tokens, eos, then pad; an index of each split's
    documents (`data.documents`) stands beside its blocks. With `concat` the documents,
    an eos after each, make one stream that is cut into blocks; the tail that fills none is dropped.

    Args:
        documents: texts of the splits "train" and "test"; each is read once, as it is needed.
        num_workers: threads that encode, one a core unless given; the bytes do not depend on it.
        labels: what the values of each label are called, by column; with `pad` alone.
        label_rows: of each split, the labels of its documents as numbers, there as they come.
    Returns:
        What meta.json holds.
    Raises:
        DataError: a document does not fit a block, or a split fills none. Nothing is written then.
    """
    packer = Packer(Encoder(tokenizer), mode, length, label_rows if labels else None)
    pieces = packer.pieces(documents, num_workers or num_cores())
    return write_blocks(folder, pieces, packer, list(documents), labels)


def write_blocks(
    folder: Path,
    pieces: Iterable[tuple[str, Piece]],
    packer: Packer,
    splits: Sequence[str],
    labels: Mapping[str, list[str]] | None = None,
) -> Meta:
    """Write the pieces of each split, which come in their order, as `pack` does.

    Raises:
        DataError: a split fills no block. Nothing is written then, nor where `pieces` raise.
    """
    labels = dict(labels or {})
    width = len(labels) + packer.length
    with ExitStack() as files:
        # Left last, so that meta.json appears when the blocks are there.
        partial_meta = files.enter_context(whole(folder / "meta.json"))
        partials = {split: files.enter_context(whole(folder / f"{split}.bin")) for split in splits}
        seen = write_pieces(pieces, partials)
        for split, counts in seen.items():
            if not (num_blocks := counts.num_tokens // width):
                raise DataError(_no_block(split, counts, packer.length))
            with partials[split].open("rb+") as file:
                file.truncate(num_blocks * width * packer.dtype.itemsize)
            if packer.mode == "pad":
                index = files.enter_context(whole(path_of(folder, split)))
                index.write_bytes(index_of(counts.keys))
        hashes = {split: sha256(partial) for split, partial in partials.items()}
        meta = described(
            packer,
            hashes,
            num_blocks={split: counts.num_tokens // width for split, counts in seen.items()},
            num_dropped={split: counts.num_tokens % width for split, counts in seen.items()},
            lengths=seen["train"].lengths if packer.mode == "pad" else None,
            unknown={split: counts.unknown for split, counts in seen.items()},
            labels=labels,
        )
        meta.write(folder, partial_meta)
    return meta


def write_pieces(pieces: Iterable[tuple[str, Piece]], paths: Mapping[str, Path]) -> dict[str, Seen]:
    """Write the tokens of each split to its file; what they were."""
    seen = {split: Seen() for split in paths}
    with ExitStack() as opened:
        files = {split: opened.enter_context(path.open("wb")) for split, path in paths.items()}
        for split, piece in pieces:
            # numpy's own tofile hides that a disk is full.
            files[split].write(piece.tokens.tobytes())
            seen[split].add(piece)
    return seen


def described(
    packer: Packer,
    hashes: dict[str, str],
    *,
    num_blocks: dict[str, int],
    num_dropped: dict[str, int],
    lengths: Counter[int] | None,
    unknown: Mapping[str, Counter[str]],
    labels: dict[str, list[str]],
) -> Meta:
    """What meta.json holds of blocks that were written; hashes and so on are by split.

    Args:
        lengths: how many training documents have how many tokens, where each is a block.
    """
    tokenizer = packer.tokenizer
    return Meta(
        dtype=packer.dtype.name,
        length=packer.length,
        mode=packer.mode,
        vocab_size=tokenizer.size,
        pad_id=tokenizer.pad_id,
        eos_id=tokenizer.eos_id,
        unk_id=tokenizer.unk_id,
        num_blocks=num_blocks,
        num_dropped=num_dropped,
        text_lengths=None if lengths is None else [lengths[n] for n in range(packer.length)],
        num_unknown={split: counts.total() for split, counts in unknown.items()},
        unknown={split: dict(sorted(counts.items())) for split, counts in unknown.items()},
        tokenizer_sha256=tokenizer.sha256,
        sha256=hashes,
        labels=labels,
    )


def _no_block(split: str, seen: Seen, length: int) -> str:
    if not seen.num_tokens:
        return f"the {split} split has no document"
    return (
        f"the {split} split has {seen.num_tokens} tokens, which do not fill one block: "
        f"lower pack.length (got {length})"
    )
