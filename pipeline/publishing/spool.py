"""What is to be committed to a repository waits here until it is there, whatever dies meanwhile.

`.store/spool/<key of the repository>/<number>-<digest>/` holds one commit: `item.json`, with its
message and the repository it is for, and `files/`. Commits are sent in the order of their numbers.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from filelock import FileLock

from pipeline.config.data import Patience
from pipeline.config.sections import Section
from pipeline.errors import BusyError, DataError, PipelineError, RefusedError, ServerError
from pipeline.files import copy_whole, locked, read_as, sha256, store, write_json
from pipeline.oxen.folders import in_place_of, inside
from pipeline.oxen.opening import open_repository
from pipeline.table import shown

Failure = ServerError | BusyError


class Described(Section):
    """item.json."""

    repository: str
    message: str
    paths: list[str]


@dataclass(frozen=True)
class Item:
    """A commit that waits.

    Attributes:
        folder: where.
        repository: the name of the one it is for.
        message: of the commit.
        paths: of its files in the repository.
    """

    folder: Path
    repository: str
    message: str
    paths: tuple[str, ...]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """What `Spool.put` kept.

        Raises:
            FileNotFoundError: it has just been sent.
            PipelineError: it is damaged.
        """
        kept = read_as(folder / "item.json", Described)
        item = cls(folder, kept.repository, kept.message, tuple(map(inside, kept.paths)))
        if missing := [path for path, file in item.files.items() if not file.is_file()]:
            raise DataError(f"{folder} is damaged: it lacks {', '.join(missing)}")
        return item

    @property
    def digest(self) -> str:
        """Of all that it is."""
        return self.folder.name.partition("-")[2]

    @property
    def files(self) -> dict[str, Path]:
        """Path in the repository -> the file."""
        return {path: self.folder / "files" / path for path in self.paths}


@dataclass(frozen=True)
class Flushed:
    """What came of sending.

    Attributes:
        sent: name of each item's folder -> the commit made, None where the head had it all.
        refused: folder of each one that cannot be sent as it is -> why.
        failure: why the next one could not be sent now; None when all others are.
    """

    sent: dict[str, str | None] = field(default_factory=dict)
    refused: dict[Path, PipelineError] = field(default_factory=dict)
    failure: Failure | None = None

    def refusals(self) -> list[str]:
        """A line for each that cannot be sent as it is."""
        return [refusal(folder, why) for folder, why in self.refused.items()]


class Spool:
    """Commits that wait for one repository."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def items(self) -> list[Item]:
        """What waits, oldest first."""
        return [item for item in self._kept().values() if isinstance(item, Item)]

    @property
    def repository(self) -> str:
        """Whose they are."""
        return next((item.repository for item in self.items()), "a repository")

    def _kept(self) -> dict[Path, Item | PipelineError]:
        """Each folder, oldest first -> the item, or what is wrong with it."""
        found: dict[Path, Item | PipelineError] = {}
        for folder in sorted(self.folder.glob("[0-9]*-*")):
            try:
                found[folder] = Item.read(folder)
            except FileNotFoundError:
                continue
            except PipelineError as error:
                found[folder] = error
        return found

    def put(self, repository: str, files: Mapping[str, Path], message: str) -> Item:
        """Keep copies of local files, to be committed under the paths they are keyed by.

        The same commit waits once, unless one that waits behind it has a file of its paths.

        Raises:
            OSError: the disk is full; nothing is kept then.
        """
        sources = {inside(path): source for path, source in sorted(files.items())}
        described = {"repository": repository, "message": message, "paths": list(sources)}
        digest = _digest(described, sources)
        with self._changing():
            for item in reversed(self.items()):
                if item.digest == digest:
                    return item
                if sources.keys() & set(item.paths):
                    break
            last = max(self.folder.glob("[0-9]*-*"), default=Path("0"))
            folder = self.folder / f"{int(last.name.partition('-')[0]) + 1:08d}-{digest}"
            with in_place_of(folder) as partial:
                for path, source in sources.items():
                    copy_whole(source, partial / "files" / path)
                write_json(partial / "item.json", described)
        return Item(folder, repository, message, tuple(sources))

    def flush(self, patience: Patience) -> Flushed:
        """Commit what waits, in order, each once, until a server fails or nothing waits.

        What is refused stays, and holds nothing up; the next flush tries it again.
        """
        flushed = Flushed()
        try:
            # Not the lock of `put`: what is new need not wait for a slow server.
            with locked(f"spool {self.folder.name}"):
                while left := self._kept().keys() - flushed.refused.keys():
                    self._send(min(left), flushed, patience)
        except (ServerError, BusyError) as error:
            return replace(flushed, failure=error)
        return flushed

    def _send(self, folder: Path, flushed: Flushed, patience: Patience) -> None:
        """Commit one item, or note why it cannot be as it is.

        Raises:
            ServerError, BusyError: it may be tried again.
        """
        try:
            item = Item.read(folder)
            repository = open_repository(item.repository, patience, create=True)
            flushed.sent[folder.name] = repository.commit(item.files, item.message)
            self.drop(item)
        except FileNotFoundError:
            return  # Whoever put it has given it up.
        except PipelineError as error:
            if isinstance(error, ServerError | BusyError) and not isinstance(error, RefusedError):
                raise
            flushed.refused[folder] = error

    def drop(self, item: Item) -> None:
        """Forget an item."""
        with self._changing():
            if not item.folder.exists():
                return
            gone = item.folder.with_name(f".{item.folder.name}.partial")
            item.folder.rename(gone)
            shutil.rmtree(gone)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """One process at a time; what killed ones left behind is removed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".lock"):
            for left in self.folder.glob(".*.partial"):
                shutil.rmtree(left)
            yield


def spool_for(repository: str) -> Spool:
    """The spool of the repository of this name."""
    key = hashlib.sha256(repository.encode()).hexdigest()[:16]
    return Spool(store() / "spool" / key)


def waiting_spools() -> list[Spool]:
    """Spools in which something waits."""
    spools = [Spool(folder) for folder in sorted((store() / "spool").glob("*"))]
    return [spool for spool in spools if spool._kept()]


def refusal(folder: Path, why: PipelineError) -> str:
    """The line that tells a user which commit is refused, why, and how to give it up."""
    return shown(f"never to be sent ({why}): remove {folder} to give it up")


def waits(spool: Spool, reason: Exception) -> str:
    """The line that tells a user what waits where, why, and what sends it."""
    num = len(spool.items())
    which = "1 commit waits" if num == 1 else f"{num} commits wait"
    return f"{which} in {spool.folder} ({reason}): `sedd publish --flush` sends what waits"


def _digest(described: Mapping[str, Any], sources: Mapping[str, Path]) -> str:
    content = [described, {path: sha256(source) for path, source in sources.items()}]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
