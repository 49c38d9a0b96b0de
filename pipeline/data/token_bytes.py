"""The bytes that a token stands for, where tokens are no whole characters."""

import re
from collections.abc import Callable

from tokenizers.decoders import ByteLevel
from tokenizers.decoders import Sequence as ByteFallback


def _bytes_of_characters() -> dict[str, int]:
    """The byte that each character of a byte-level token stands for.

    Printable Latin-1 stands for itself; the other bytes, in order, for U+0100 and on.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    shifted = {chr(0x100 + place): byte for place, byte in enumerate(others)}
    return {chr(byte): byte for byte in printable} | shifted


BYTES = _bytes_of_characters()


def _letters_as_bytes(token: str) -> bytes:
    return bytes(BYTES[character] for character in token)


def _piece_as_bytes(piece: str) -> bytes:
    is_byte = re.fullmatch("<0x[0-9A-F]{2}>", piece)
    return bytes.fromhex(piece[3:5]) if is_byte else piece.encode()


# By the decoder of a tokenizer some of whose tokens are no whole characters.
AS_BYTES: dict[type, Callable[[str], bytes]] = {
    ByteLevel: _letters_as_bytes,
    ByteFallback: _piece_as_bytes,
}
