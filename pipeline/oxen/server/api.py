"""What is asked of a repository on an Oxen server, by the HTTP interface that it documents."""

import re
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote

from pipeline.config.params import Patience
from pipeline.errors import RepositoryError, ServerError
from pipeline.oxen.address import Address
from pipeline.oxen.repository import Entry
from pipeline.oxen.server.connection import Declined, Server

COMMIT = "[0-9a-f]{20,32}"
_PAGE = 1000


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

        def read(answer: Any) -> dict[str, str]:
            branches = {str(each["name"]): str(each["commit_id"]) for each in answer["branches"]}
            if not all(re.fullmatch(COMMIT, commit) for commit in branches.values()):
                raise ValueError
            return branches

        try:
            return self.server.ask("GET", f"{self.at}/branches", read)
        except Declined:
            return None

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
            return self.server.ask("GET", path, lambda answer: answer["commit"]["id"] == commit)
        except Declined:
            return False

    def log(self, revision: str, count: int) -> list[tuple[str, str]]:
        """Ids and messages of the newest commits."""
        path = f"{self.at}/commits/history/{quote(revision)}?page=1&page_size={count}"

        def read(answer: Any) -> list[tuple[str, str]]:
            return [(str(commit["id"]), str(commit["message"])) for commit in answer["commits"]]

        try:
            return self.server.ask("GET", path, read)
        except Declined:
            return []

    def listed(self, commit: str, folder: str) -> Iterator[tuple[Entry, bool]]:
        """What a folder, "" or a path, holds, and whether each is a folder; page by page.

        Raises:
            Declined: there is no such folder or commit.
        """
        pages, page = 1, 1
        while page <= pages:
            path = f"{self.at}/dir/{commit}/{quote(folder)}?page={page}&page_size={_PAGE}"
            pages, entries = self.server.ask("GET", path, lambda answer: _read_page(answer, folder))
            yield from entries
            page += 1

    def find(self, commit: str, files: Iterable[str]) -> dict[str, Entry]:
        """Those of `files` that the commit has; one request, or some pages, for each folder."""
        wanted, found = set(files), {}
        for folder in {folder_of(file) for file in wanted}:
            try:
                for entry, is_folder in self.listed(commit, folder):
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


def _read_page(answer: Any, folder: str) -> tuple[int, list[tuple[Entry, bool]]]:
    """How many pages a listing has, and what this one of them lists."""
    return int(answer["total_pages"]), [
        (
            Entry(
                path=f"{folder}/{entry['filename']}" if folder else str(entry["filename"]),
                size=int(entry["size"]),
                hash=str(entry["hash"]),
                rows=_rows(entry["metadata"]),
            ),
            bool(entry["is_dir"]),
        )
        for entry in answer["entries"]
    ]


def _rows(metadata: Any) -> int | None:
    """Rows of what Oxen takes for a table."""
    table = (metadata or {}).get("tabular")
    return None if table is None else int(table["height"])
