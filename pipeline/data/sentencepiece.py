"""SentencePiece: its library learns the pieces, the tokenizers library encodes with them."""

import io
import re
from collections.abc import Iterable, Iterator

from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE, Unigram
from tokenizers.pre_tokenizers import Split

from pipeline.config.data import ModelType, SentencePiece
from pipeline.data.byte_level import pieces
from pipeline.data.tokenizer import TextTokenizer
from pipeline.errors import DataError

SPACE = "▁"
"""The space, as the library writes it in a piece."""
DIGITS = list("0123456789")
SPELLED = r"<(?=/?s>|pad>|unk>|0x[0-9A-F]{2}>)"
"""The < that begins the name of a special piece, or of a byte."""
LONGEST = 2**30
"""Bytes of what is learned from together; of more the library would learn nothing."""
PART = 2**12
"""Characters of a long text that are learned from together, where it can be cut: of what repeats
itself the library's unigram takes the square."""
BEFORE_WORD = re.compile("(?<=[^ ])(?= )")
# Sums of a unigram model depend on their number, so it is not the machine's.
NUM_THREADS = 16
ERRORS_ONLY = 2


def train_sentencepiece(texts: Iterable[str], vocab_size: int, params: SentencePiece) -> bytes:
    """The library's .model of `vocab_size` pieces, the same bytes for the same texts.

    Digits are pieces of their own, and what is no piece is spelled in bytes. The library holds the
    texts in memory.

    Raises:
        DataError: the texts allow fewer pieces, or need more, or are all empty or digits.
    """
    model, failed = io.BytesIO(), list[BaseException]()
    try:
        SentencePieceTrainer.train(
            sentence_iterator=_watched(pieces(texts, BEFORE_WORD, PART), failed),
            model_writer=model,
            model_type=params.model_type,
            vocab_size=vocab_size,
            bos_id=params.bos,
            eos_id=params.eos,
            pad_id=params.pad,
            unk_id=params.unk,
            user_defined_symbols=DIGITS,
            byte_fallback=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            max_sentence_length=LONGEST,
            num_threads=NUM_THREADS,
            minloglevel=ERRORS_ONLY,
        )
    except RuntimeError as error:
        if failed:
            raise failed[0] from None
        raise DataError(_refusal(str(error), vocab_size)) from error
    return model.getvalue()


def sentencepiece_tokenizer(model: bytes, model_type: ModelType) -> TextTokenizer:
    """The pieces and ids of a .model that `train_sentencepiece` made.

    Every text comes back as it was: ▁ in a text is its bytes and no space, and what is spelled like
    a special piece or a byte (</s>, <0x41>) is characters. Elsewhere ids are the library's own, but
    where two ways to cut a text are equally good.
    """
    found = SentencePieceProcessor(model_proto=model)
    ids = range(found.piece_size())
    pieces = [found.id_to_piece(id).replace(SPACE, " ") for id in ids]
    special = [pieces[id] for id in ids if found.is_control(id) or found.is_unknown(id)]
    pad, eos, unk = (pieces[id] for id in (found.pad_id(), found.eos_id(), found.unk_id()))
    # A piece holds a space at its start alone; cut there, words come from a cache.
    splits = [Split(" ", "merged_with_next")]
    learned: BPE | Unigram
    if model_type == "bpe":
        vocab = {piece: id for id, piece in enumerate(pieces)}
        merges = _merges([piece for piece in pieces if piece not in special])
        learned = BPE(vocab, merges, unk_token=unk, byte_fallback=True)
    else:
        scored = [(piece, found.get_score(id)) for id, piece in enumerate(pieces)]
        learned = Unigram(scored, unk_id=found.unk_id(), byte_fallback=True)
        # It would take them for the special piece or the byte.
        splits.append(Split(Regex(SPELLED), "isolated"))
    tokenizer = Tokenizer(learned)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splits)
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(special)
    return TextTokenizer(tokenizer.to_str(pretty=True), pad=pad, eos=eos, unk=unk)


def _watched(texts: Iterable[str], failed: list[BaseException]) -> Iterator[str]:
    """`texts`; what ends them is kept, since the library makes a failure of its own of it."""
    try:
        yield from texts
    except BaseException as error:  # Ctrl-C too: it is raised again, here and by who trains.
        failed.append(error)
        raise


def _merges(pieces: list[str]) -> list[tuple[str, str]]:
    """Every way to make a piece of two others, in the order in which pieces were learned."""
    known = set(pieces)
    cuts = ((piece[:at], piece[at:]) for piece in pieces for at in range(1, len(piece)))
    return [(first, second) for first, second in cuts if {first, second} <= known]


def _refusal(said: str, vocab_size: int) -> str:
    if most := re.search(r"too high .* value <= (\d+)", said):
        return (
            f"tokenizer.vocab_size must be at most {most[1]}: the training split allows no more "
            f"pieces (got {vocab_size})"
        )
    if least := re.search(r"required_chars\. \d+ vs (\d+)", said):
        return (
            f"tokenizer.vocab_size must be at least {least[1]}, for the 256 bytes, the digits, the "
            f"special pieces and the characters of the training split (got {vocab_size})"
        )
    if re.search(r"sentences_\.empty|all_chars_count|required_chars_\.empty", said):
        return "no characters to learn a tokenizer from: every document is empty, or digits alone"
    return f"SentencePiece refuses the documents: {said}"
