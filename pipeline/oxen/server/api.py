"""What is asked of a repository on an Oxen server, by the HTTP interface that it documents."""

import re
import time
from collections.abc import Iterable, Iterator
from typing import Annotated
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field

from pipeline.config.data import Patience
from pipeline.errors import RepositoryError, ServerError
from pipeline.oxen.address import Address
from pipeline.oxen.repository import Entry
from pipeline.oxen.server.connection import Declined, Server

COMMIT = "[0-9a-f]{20,32}"
CommitId = Annotated[str, Field(pattern=f"^{COMMIT}$")]
Number = Annotated[int, Field(ge=0, lt=2**63)]
_PAGE = 1000
MOST_PAGES = 1000
"""Of one folder."""
LISTING = 5
"""How many times oxen.stall_seconds all folders of a listing may take."""


class Answer(BaseModel):
    """A JSON object of an Oxen server; keys that are of no use here are left alone."""

    model_config = ConfigDict(frozen=True, strict=True)


class _Branch(Answer):
    name: str
    commit_id: CommitId


class _Branches(Answer):
    branches: list[_Branch]


class _Commit(Answer):
    id: str
    message: str = ""


class _Found(Answer):
    commit: _Commit


class _Log(Answer):
    commits: list[_Commit]


class _Table(Answer):
    height: Number


class _Metadata(Answer):
    """`tabular` is of what Oxen takes for a table."""

    tabular: _Table | None = None


class _Listed(Answer):
    filename: Annotated[str, Field(pattern="^[^\\x00/]+$")]
    size: Number
    hash: str
    metadata: _Metadata | None
    is_dir: bool


class _Page(Answer):
    total_pages: Number
    entries: list[_Listed]


class Api:
    """Requests about one repository; every method may raise ServerError.

    Attributes:
        server: where it is.
        at: its path there.
    """

    def __init__(self, address: Address, patience: Patience) -> None:
        self.server = Server(address.scheme, address.host, patience, called=str(address))
        self._address = address
        self.at = f"/repos/{address.namespace}/{address.name}"

    def create(self) -> None:
        """Make the repository, empty and private, unless somebody just has."""
        body = {
            "namespace": self._address.namespace,
            "name": self._address.name,
            "is_public": False,
        }
        try:
            self.server.ask("POST", "/repos", dict, body)
        except Declined as declined:
            if declined.status != 409:
                raise self.server.error(f"it cannot be created: {declined}") from None
        except ServerError as error:
            raise ServerError(f"{error} (it does not exist, and was to be created)") from None

    def branches(self) -> dict[str, str] | None:
        """Name -> commit at its head; None where there is no such repository."""
        try:
            found = self.server.ask("GET", f"{self.at}/branches", _Branches.model_validate)
        except Declined:
            return None
        return {branch.name: branch.commit_id for branch in found.branches}

    def missing(self) -> RepositoryError:
        """The error that there is no such repository, to be raised."""
        return RepositoryError(
            f"{self._address} does not exist, or this account may not see it: "
            f"check its name, or sedd login {self._address.host}"
        )

    def has(self, commit: str) -> bool:
        """Whether the repository has a commit of this full id."""
        if not re.fullmatch(COMMIT, commit):
            return False
        path = f"{self.at}/commits/{commit}"
        try:
            return self.server.ask("GET", path, _Found.model_validate).commit.id == commit
        except Declined:
            return False

    def log(self, revision: str, count: int) -> list[tuple[str, str]]:
        """Ids and messages of the newest commits."""
        path = f"{self.at}/commits/history/{quote(revision)}?page=1&page_size={count}"
        try:
            found = self.server.ask("GET", path, _Log.model_validate)
        except Declined:
            return []
        return [(commit.id, commit.message) for commit in found.commits]

    def end_of_listing(self) -> float:
        """The time of `time.monotonic` at which a listing that begins now is given up."""
        return time.monotonic() + LISTING * self.server.patience.stall_seconds

    def listed(self, commit: str, folder: str, until: float) -> Iterator[tuple[Entry, bool]]:
        """What a folder, "" or a path, holds, and whether each is a folder; page by page.

        Raises:
            Declined: there is no such folder or commit.
            ServerError: it is later than `until`.
        """
        for page in range(1, MOST_PAGES + 1):
            if time.monotonic() > until:
                seconds = LISTING * self.server.patience.stall_seconds
                raise self.server.error(
                    f"the folders cannot be listed within {seconds:g} s "
                    f"(oxen.stall_seconds, {LISTING} times)"
                )
            path = f"{self.at}/dir/{commit}/{quote(folder)}?page={page}&page_size={_PAGE}"
            found = self.server.ask("GET", path, _Page.model_validate)
            for each in found.entries:
                path = f"{folder}/{each.filename}" if folder else each.filename
                table = each.metadata.tabular if each.metadata else None
                rows = None if table is None else table.height
                yield Entry(path, each.size, each.hash, rows), each.is_dir
            if page >= found.total_pages or not found.entries:
                return
        raise self.server.error(f"the folder {folder or '/'} has more than {MOST_PAGES:,} pages")

    def find(self, commit: str, files: Iterable[str]) -> dict[str, Entry]:
        """Those of `files` that the commit has; one request, or some pages, for each folder."""
        wanted, found, until = set(files), {}, self.end_of_listing()
        for folder in {folder_of(file) for file in wanted}:
            try:
                for entry, is_folder in self.listed(commit, folder, until):
                    if entry.path in wanted and not is_folder:
                        found[entry.path] = entry
            except Declined:
                continue  # Of that folder it has nothing.
        return found

    def source(self, commit: str, file: str) -> str:
        """Where the server has a file."""
        return f"{self.at}/file/{commit}/{quote(file)}"

    def content(self, commit: str, file: str) -> bytes:
        """All of a small file.

        Raises:
            Declined: there is none.
        """

        def read() -> bytes:
            with self.server.opened("GET", self.source(commit, file)) as response:
                return b"".join(self.server.pieces(response, 1 << 16))

        return self.server.tried(read)


def folder_of(file: str) -> str:
    """The folder that a file of a repository is in, "" at the top."""
    return file.rpartition("/")[0]
