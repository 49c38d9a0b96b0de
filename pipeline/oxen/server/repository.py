"""An Oxen repository on a server.

Oxen's own client holds the interpreter's lock, preallocates what it downloads, and may block for
ever, so it has no part in this.
"""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath

from pipeline.config.data import Patience
from pipeline.errors import RepositoryError
from pipeline.oxen.address import Address
from pipeline.oxen.folders import inside
from pipeline.oxen.repository import Entry, named, no_such_revision
from pipeline.oxen.server import sending
from pipeline.oxen.server.api import Api, folder_of
from pipeline.oxen.server.connection import Declined
from pipeline.oxen.server.transfer import fetch_files

BRANCH = "main"
"""The branch that is read and committed to where none is named."""
MOST_FILES, MOST_FOLDERS, MOST_LEVELS = 10**6, 5000, 64
"""Of a commit."""


class ServerRepository:
    """Implements Repository. Nothing is asked of the server before the first call."""

    def __init__(self, address: Address, patience: Patience, *, create: bool = False) -> None:
        self._address, self._create = address, create
        self._api = Api(address, patience)

    def __str__(self) -> str:
        return str(self._address)

    def resolve(self, revision: str) -> str:
        """See Repository; where a branch is named as a commit, the commit is meant."""
        branches = self._branches()
        if self._api.has(revision):
            return revision
        if revision in branches:
            return branches[revision]
        raise no_such_revision(str(self), revision, branches, self._api.log(BRANCH, 5))

    def entries(self, commit: str) -> list[Entry]:
        """See Repository; `rows` of what Oxen shows as a table. One request for each folder."""
        found, folders, until = [], [""], self._api.end_of_listing()
        try:
            for folder in folders:
                for entry, is_folder in self._api.listed(commit, folder, until):
                    if is_folder:
                        folders.append(entry.path)
                    else:
                        found.append(entry)
                if (
                    len(folders) > MOST_FOLDERS
                    or len(found) > MOST_FILES
                    or folder.count("/") > MOST_LEVELS
                ):
                    raise self._api.server.error("no data set has so many files, folders or levels")
        except Declined:
            raise self._no_commit(commit) from None
        return sorted(found, key=lambda entry: PurePosixPath(entry.path))

    def fetch(self, commit: str, files: Mapping[str, str], folder: Path) -> None:
        """See Repository; four files at once, with a mebibyte of each in memory."""
        paths = {}
        for called, file in files.items():
            with named(called):
                paths[called] = inside(file)
        held = self._api.find(commit, paths.values())
        for called, path in paths.items():
            if path not in held:
                with named(called):
                    raise self._no_file(commit, path)
        fetch_files(
            self._api.server,
            {self._api.source(commit, path): entry for path, entry in held.items()},
            folder,
        )

    def read(self, path: str) -> str | None:
        """See Repository; None also while the repository is still to be made."""
        branches = self._api.branches()
        if branches is None and not self._create:
            raise self._api.missing()
        if not branches or BRANCH not in branches:
            return None
        try:
            return self._api.content(branches[BRANCH], inside(path)).decode()
        except Declined:
            return None
        except UnicodeDecodeError:
            raise RepositoryError(f"{path} of {self} is no text") from None

    def commit(self, files: Mapping[str, Path], message: str) -> str | None:
        """See Repository; the branch is `main`. Of one file, ten mebibytes are in memory."""
        if not self._create:
            self._branches()
        return sending.commit(self._api, BRANCH, files, message)

    def _branches(self) -> dict[str, str]:
        branches = self._api.branches()
        if branches is None:
            raise self._api.missing()
        return branches

    def _no_commit(self, commit: str) -> RepositoryError:
        self._branches()  # Or else there is no repository.
        return RepositoryError(f"{self} has no commit {commit}")

    def _no_file(self, commit: str, file: str) -> RepositoryError:
        if not self._api.has(commit):
            return self._no_commit(commit)
        listed, until = {}, self._api.end_of_listing()
        with suppress(Declined):
            held = self._api.listed(commit, folder_of(file), until)
            listed = {entry.path: is_folder for entry, is_folder in held}
        if listed.get(file):
            return RepositoryError(f"{file} of {self} is a folder: name a file")
        return RepositoryError(
            f"{self} has no file {file} at commit {commit}; "
            f"its folder has {', '.join(sorted(listed)) or 'nothing'}"
        )
