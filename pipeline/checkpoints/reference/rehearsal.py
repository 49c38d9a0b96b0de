"""A stranger's pickle, unpickled without effect: `python rehearsal.py FILE`.

In a process of its own, since a few bytes can take all memory, all time, or the process with them.
What it asks for beyond tensors and parameters of a model is refused by name; nothing that it names
is imported or called.
"""

import pickle
import re
import resource
import sys
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO

STORAGES = r"torch\.(storage\.)?\w+Storage"
TENSORS = (
    r"collections\.OrderedDict|torch\._utils\._rebuild_(tensor(_v2)?|parameter)"
    rf"|{STORAGES}"
)
# Of OmegaConf, and a tokenizer, which Lightning stores beside weights; they are read as `Inert`.
PARAMETERS = (
    r"omegaconf\.(base|dictconfig|listconfig|nodes)\.\w+|typing\.(Any|Union)"
    r"|collections\.defaultdict|builtins\.(bool|bytes|dict|float|int|list|set|str|tuple)"
    r"|transformers\.(models\.\w+\.)?tokenization_\w+\.\w+|tokenizers\.(models\.)?\w+"
    r"|_codecs\.encode"
)
ALLOWED = f"{TENSORS}|{PARAMETERS}"
MEMORY = 2**30
STACK = 2**20
"""Less than what this process's parent has left, where nested keys are hashed again."""
NUM_LEGACY = 5
"""Pickles in a file that is no zip: magic number, protocol, sizes, values, names of storages."""


class Refused(Exception):
    """What is wrong with a file that may be sound."""


class Inert:
    """Takes the place of whatever is no plain value."""

    def __init__(self, *args: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def empty(*_: Any) -> dict[Any, Any]:
    """In place of a dictionary with defaults."""
    return {}


def encoded(text: str, codec: str) -> Inert:
    """In place of bytes, which are stored as text in the one codec that has every byte."""
    if codec != "latin1":
        raise Refused(f"it asks for the codec {codec!r:.80}")
    return Inert()


STORAGE = object()
INSTEAD = {
    "collections.OrderedDict": OrderedDict,
    "collections.defaultdict": empty,
    # torch makes one, whose members are hashed.
    "builtins.set": set,
    "_codecs.encode": encoded,
}


class Rehearsal(pickle.Unpickler):
    """Unpickles plain values, and `Inert` for tensors."""

    def find_class(self, module: str, name: str) -> Any:
        """See pickle.Unpickler."""
        # As they are called since Python 3.
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        asked = f"{module}.{name}"
        if not re.fullmatch(ALLOWED, asked):
            raise Refused(
                f"it asks for {asked}, and only tensors, plain values and parameters are read from "
                "a pickle, since anything else could run code"
            )
        # A storage that is called is of any size; what a file stores only names its class.
        return STORAGE if re.fullmatch(STORAGES, asked) else INSTEAD.get(asked, Inert)

    def persistent_load(self, pid: Any) -> Inert:
        """See pickle.Unpickler; torch keeps storages by parts of this."""
        hash(pid)
        return Inert()


def rehearse(file: BinaryIO) -> None:
    """Unpickle what torch.load would; like torch, take for a zip what starts as one.

    Raises:
        Refused: it asks for what is no tensor, or is stored as it may not be.
    """
    if file.read(4) != b"PK\x03\x04":
        file.seek(0)
        for _ in range(NUM_LEGACY):
            Rehearsal(file).load()
        return
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if entries and all(entry.header_offset for entry in entries):
            # torch would look for the entries that the file's start says, zipfile for the last.
            raise Refused("something stands before its first entry, as torch.save leaves none")
        for entry in entries:
            if entry.compress_type != zipfile.ZIP_STORED:
                # Mapped memory would hold the compressed bytes.
                raise Refused(
                    f"its entry {entry.filename} is compressed, as torch.save leaves none"
                )
            # torch finds entries whatever the case.
            name = entry.filename.lower()
            if "/data/" not in name and entry.file_size > MEMORY // 16:
                raise Refused(f"its entry {entry.filename} is too large")
            if name.endswith("data.pkl"):
                with archive.open(entry) as stored:
                    Rehearsal(stored).load()


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_STACK, (STACK, STACK))
    with Path(sys.argv[1]).open("rb") as opened:
        try:
            rehearse(opened)
        except Refused as error:
            print(error, end="")
            sys.exit(1)
