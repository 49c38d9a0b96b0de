"""Text to ids and back. The mask is not here: it is the graph's, its id the tokenizer's size."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Literal, Self

from tokenizers import Regex, Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split

from pipeline.data.token_bytes import AS_BYTES
from pipeline.errors import DataError, read_by_library
from pipeline.files import whole, write_json

# How documents are packed: one a block, closed by eos; windows of running text, an eos after each
# document; or windows of one text without ends.
Mode = Literal["pad", "concat", "stream"]

PAD, EOS, UNK = "<pad>", "<eos>", "<unk>"
# A dot does not match a newline.
CHARACTER = r"[\s\S]"
# What a tokenizer may do to a text beside encoding it.
CHANGING = ("truncation", "padding", "normalizer", "post_processor")
MOST_BYTES = 2**27
REPLACEMENT = "�"
PAD_GLYPH, EOS_GLYPH, UNK_GLYPH, MASK_GLYPH = "·", "⏎", "�", "░"


def train_char_tokenizer(texts: Iterable[str], *, special: bool = True) -> "TextTokenizer":
    """One id for each character of `texts`, in code point order, after pad 0, eos 1 and unk 2.

    Args:
        special: false leaves these three out.
    Raises:
        DataError: `texts` hold no character.
    """
    characters: set[str] = set()
    for text in texts:
        characters.update(text)
    if not characters:
        raise DataError("no characters to learn a tokenizer from: every document is empty")
    names = [PAD, EOS, UNK] if special else []
    vocab = {token: id for id, token in enumerate([*names, *sorted(characters)])}
    tokenizer = Tokenizer(WordLevel(vocab, unk_token=UNK))
    tokenizer.pre_tokenizer = Split(Regex(CHARACTER), "isolated")
    tokenizer.decoder = Fuse()
    tokenizer.add_special_tokens(names)
    pad, eos, unk = names or (None, None, None)
    return TextTokenizer(tokenizer.to_str(pretty=True), pad=pad, eos=eos, unk=unk)


class TextTokenizer:
    """A tokenizer of the `tokenizers` library whose pad, eos and unk have known ids, if any.

    Attributes:
        size: number of ids, specials included; the graph's mask has this id.
        pad_id, eos_id: may be the same; None where no text ends.
        start_id: what an autoregressive model reads before a text: eos, else an id after all.
        unk_id: None where there is none; where every text can be encoded, no text has it.
        special_ids: theirs, and those of other special tokens: no text has any.
        definition: text of tokenizer.json.
        sha256: its hash.
    """

    def __init__(
        self, definition: str, *, pad: str | None, eos: str | None, unk: str | None
    ) -> None:
        """Take the text of a tokenizer.json and the names of its special tokens.

        Raises:
            DataError: the text is no tokenizer, lacks a special token, or changes texts.
        """
        self._tokenizer = parsed(definition, "tokenizer.json")
        if changing := [part for part in CHANGING if getattr(self._tokenizer, part) is not None]:
            raise DataError(
                f"tokenizer.json has {' and '.join(changing)}, which would change a text; each "
                "must be null"
            )
        # "<eos>" in a document is five characters, never the end of it.
        self._tokenizer.encode_special_tokens = True
        self._as_bytes = AS_BYTES.get(type(self._tokenizer.decoder))
        self._special = {"pad_token": pad, "eos_token": eos, "unk_token": unk}
        self.definition = definition
        self.size: int = self._tokenizer.get_vocab_size()
        self.pad_id, self.eos_id, self.unk_id = map(self._id_of, (pad, eos, unk))
        self.start_id = self.size if self.eos_id is None else self.eos_id
        added = self._tokenizer.get_added_tokens_decoder()
        named = (self.pad_id, self.eos_id, self.unk_id)
        self.special_ids = {id for id, token in added.items() if token.special}
        self.special_ids |= {id for id in named if id is not None}
        self.sha256 = hashlib.sha256(definition.encode()).hexdigest()

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            DataError: a file is missing or damaged.
        """
        definition, config = (
            small_text(folder / name) for name in ("tokenizer.json", "tokenizer_config.json")
        )
        try:
            values = json.loads(config)
            pad, eos, unk = (values[f"{name}_token"] for name in ("pad", "eos", "unk"))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(f"the tokenizer in {folder} is damaged: {error!r}") from error
        # Either both mark the end of a text, or nothing does.
        needed = {"pad": pad, "eos": eos} if (pad, eos) != (None, None) else {}
        for name, token in (needed | ({} if unk is None else {"unk": unk})).items():
            if not isinstance(token, str):
                raise DataError(
                    f"the tokenizer in {folder} is damaged: {name}_token must be a text "
                    f"(got {token!r})"
                )
        try:
            return cls(definition, pad=pad, eos=eos, unk=unk)
        except DataError as error:
            raise DataError(f"the tokenizer in {folder} is damaged: {error}") from error

    def save(self, folder: Path) -> None:
        """Write tokenizer.json and tokenizer_config.json, as transformers reads them."""
        with whole(folder / "tokenizer.json") as partial:
            partial.write_text(self.definition, encoding="utf-8")
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **self._special,
            "clean_up_tokenization_spaces": False,
            "split_special_tokens": True,
        }
        write_json(folder / "tokenizer_config.json", config)

    @property
    def is_of_characters(self) -> bool:
        """Whether each character is a token, as `train_char_tokenizer` has it."""
        parts = json.loads(self.definition)
        split = parts["pre_tokenizer"] or {}
        return (
            parts["model"]["type"] == "WordLevel"
            and split.get("pattern") == {"Regex": CHARACTER}
            and split["behavior"] == "Isolated"
            and all(token["special"] for token in parts["added_tokens"])
        )

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, no special token added; what is not in the vocabulary becomes unk.

        Special tokens spelled in `text` are text.
        """
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, on all cores."""
        if self.eos_id is None:
            for text in texts:
                self.check_known(text)
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(checked(texts))]

    def encode_known(self, text: str) -> list[int]:
        """Ids of `text`.

        Raises:
            DataError: `text` holds characters that are not in the vocabulary.
        """
        self.check_known(text)
        return self.encode(text)

    def check_known(self, text: str) -> None:
        """Refuse characters that are not in the vocabulary.

        Raises:
            DataError: `text` holds some.
        """
        unknown = self.unknown(text)
        if unknown:
            names = ", ".join(map(repr, dict.fromkeys(unknown)))
            raise DataError(f"the tokenizer does not know {names} (in {short(text)})")

    def unknown(self, text: str) -> list[str]:
        """The pieces of `text` that `encode` turns to unk, or cannot take, in order."""
        [text] = checked([text])
        if self.eos_id is None:
            return [
                character for character in text if self._tokenizer.token_to_id(character) is None
            ]
        if self.unk_id is None:
            return []
        encoding = self._tokenizer.encode(text)
        return [
            text[start:end]
            for id, (start, end) in zip(encoding.ids, encoding.offsets, strict=True)
            if id == self.unk_id
        ]

    def decode(self, ids: Iterable[int], mode: Mode = "pad") -> str:
        """The text of a block: before its first eos, else all of it, each eos visible.

        Other special tokens stay visible. Where tokens are bytes, those that are no UTF-8 become �
        (see `is_invalid_utf8`).
        """
        return self.decode_all(self._text_of(ids, mode))

    def num_chars(self, ids: Iterable[int], mode: Mode) -> int:
        """Characters of a block's text, an eos and an unknown character counted as one.

        One that the edge of a window cuts in two belongs to the window that it begins in.
        """
        ids = self._text_of(ids, mode)
        if self._as_bytes is None:
            return len(ids) + (mode == "pad")
        num_eos = 1 if mode == "pad" else sum(id == self.eos_id for id in ids)
        content = self._bytes_of(id for id in ids if id != self.eos_id)
        # The other bytes of a character in UTF-8 are 0b10xxxxxx.
        return num_eos + sum(byte & 0xC0 != 0x80 for byte in content)

    def byte_lengths(self) -> list[int]:
        """Bytes of a text that each id stands for, of a special one none."""
        return [
            0 if id in self.special_ids else len(self._bytes_of([id])) for id in range(self.size)
        ]

    def num_bytes(self, ids: Iterable[int], mode: Mode) -> int:
        """Bytes of a block's text in UTF-8: an end has none, an unknown character counts as one."""
        text = [id for id in self._text_of(ids, mode) if id != self.eos_id]
        known = [id for id in text if id != self.unk_id]
        return len(self._bytes_of(known)) + len(text) - len(known)

    def is_invalid_utf8(self, ids: Iterable[int], mode: Mode = "pad") -> bool:
        """Whether a block's text has bytes that `decode` had to replace by �."""
        ids = self._text_of(ids, mode)
        if self._as_bytes is None or REPLACEMENT not in self.decode_all(ids):
            return False
        try:
            self._bytes_of(ids).decode()
        except UnicodeDecodeError:
            return True
        return False

    def decode_all(self, ids: Iterable[int]) -> str:
        """The text of all `ids`, every special token visible.

        Raises:
            ValueError: an id is none of the tokenizer's (the mask is the graph's, see `show`).
        """
        ids = list(map(int, ids))
        for id in ids:
            if not 0 <= id < self.size:
                raise ValueError(f"{id} is no id of a tokenizer of size {self.size}")
        text: str = self._tokenizer.decode(ids, skip_special_tokens=False)
        return text

    def show(self, ids: Iterable[int]) -> str:
        """The text of `ids` with glyphs: ░ mask, ⏎ eos, · pad, � unk or bytes that are no UTF-8.

        Control characters appear as pictures; so a tokenizer of characters takes one cell an id.
        """
        glyphs: dict[int | None, str] = {
            self.size: MASK_GLYPH,
            self.pad_id: PAD_GLYPH,
            self.eos_id: EOS_GLYPH,
            self.unk_id: UNK_GLYPH,
        }
        # Together, since a character's bytes may be spread over several tokens.
        runs = groupby(map(int, ids), key=glyphs.get)
        return "".join(
            _visible(self.decode_all(run)) if glyph is None else glyph * len(list(run))
            for glyph, run in runs
        )

    def _text_of(self, ids: Iterable[int], mode: Mode) -> list[int]:
        ids = list(map(int, ids))
        if mode != "pad" or self.eos_id is None or self.eos_id not in ids:
            return ids
        return ids[: ids.index(self.eos_id)]

    def _bytes_of(self, ids: Iterable[int]) -> bytes:
        """The bytes of tokens, of a special one those of its name."""
        tokens = (self._tokenizer.id_to_token(id) or "" for id in ids)
        return b"".join(map(self._as_bytes or str.encode, tokens))

    def _id_of(self, token: str | None) -> int | None:
        id: int | None = None if token is None else self._tokenizer.token_to_id(token)
        if id is None and token is not None:
            raise DataError(f"tokenizer.json has no token {token!r}")
        return id


def parsed(definition: str, where: str) -> Tokenizer:
    """The library's tokenizer of the text of a tokenizer.json.

    Raises:
        DataError: it is none; the message begins with `where` it stands.
    """
    with read_by_library(f"{where} is no tokenizer", DataError):
        return Tokenizer.from_str(definition)


def small_text(path: Path) -> str:
    """Text of a small regular file of a tokenizer.

    Raises:
        DataError: it is missing, too large or no text.
    """
    # A pipe has no end, nor have some devices.
    if not path.is_file():
        raise DataError(f"{path} is missing: no tokenizer in {path.parent}")
    if path.stat().st_size > MOST_BYTES:
        raise DataError(f"{path} is damaged: no tokenizer has {path.stat().st_size:,} bytes")
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the tokenizer in {path.parent} is damaged: {error!r}") from None


def checked(texts: Sequence[str]) -> Sequence[str]:
    """The texts as they are.

    Raises:
        DataError: one holds half a surrogate pair.
    """
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise DataError(f"{short(text)} is not valid Unicode text") from None
    return texts


def _visible(text: str) -> str:
    """Control characters as their pictures (U+2400 and on), so that each takes one cell."""
    pictures = {code: 0x2400 + code for code in range(32)} | {127: 0x2421}
    # What terminals take for control characters too, and ends of lines, have none of their own.
    pictures |= dict.fromkeys([*range(0x80, 0xA0), 0x2028, 0x2029], 0x2426)
    return text.translate(pictures)


def short(text: str, longest: int = 40) -> str:
    """A text as it is written in code, the start of a long one."""
    return repr(text) if len(text) <= longest else repr(text[: longest - 1])[:-1] + "…'"
