"""Fetching a dataset's files at a pinned revision, and what is recorded of them."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.config.data import Data, DataFiles, Patience
from pipeline.config.sections import Section
from pipeline.data.corpus import count_rows, format_of
from pipeline.data.labels import label_names
from pipeline.data.splits import count_overlap, files_of, is_pattern
from pipeline.errors import DataError, RepositoryError
from pipeline.files import read_as, sha256, write_json
from pipeline.oxen.address import Address, parse_repo
from pipeline.oxen.folders import resumed_in_place_of
from pipeline.oxen.opening import open_repository
from pipeline.oxen.repository import Repository, named
from pipeline.table import shown


class Fetched(Section):
    """A file as it came."""

    path: str
    split: str
    size: int
    sha256: str
    rows: int


class Overlap(Section):
    """How many documents are held out, and how many of these are training documents too."""

    num_held_out: int
    num_in_train: int

    def check(self, most: float) -> None:
        """Say how large a share that is.

        Raises:
            DataError: it is larger than `most`.
        """
        line = (
            f"{self.num_in_train:,} of {self.num_held_out:,} held-out documents are in the "
            "training split too: what is measured on them is memory"
        )
        if self.num_in_train > most * self.num_held_out:
            raise DataError(f"data.max_overlap: {line} (got {most:g}): raise it to go on anyway")
        if self.num_in_train:
            print(line, file=sys.stderr)


class Provenance(Section):
    """Where the documents come from: what `asked` names, as it is at a commit."""

    repo: str
    host: str | None
    revision: str
    commit: str
    asked: DataFiles
    column: str
    files: list[Fetched]
    overlap: Overlap


def fetch(params: Data, patience: Patience, data: Path, provenance: Path) -> None:
    """Write the files into the folder `data` and where they came from into `provenance`.

    Raises:
        RepositoryError: the repository, the revision or a file is missing or unusable.
        DataError: a file is damaged, a split has no rows, or shares too many with the other.
    """
    with named("data.repo"):
        address, repository = parse_repo(params.repo), open_repository(params.repo, patience)
    with named("data.revision"):
        commit = _pinned(repository, params.revision)
    files = _files(repository, commit, params)
    _check_formats(files)
    with resumed_in_place_of(data) as folder:
        repository.fetch(commit, _called(files), folder)
        _drop_all_but([path for paths in files.values() for path in paths], folder)
        described = [
            _described(folder, path, split) for split, paths in files.items() for path in paths
        ]
        for split, paths in files.items():
            if not any(file.rows for file in described if file.split == split):
                raise DataError(
                    f"data.files.{split}: {', '.join(paths)} has no rows, "
                    "and an empty dataset trains nothing"
                )
        with _named_as_there(folder):
            held_out, in_train = count_overlap(folder, params)
            if params.labels:
                label_names(folder, params)
        overlap = Overlap(num_held_out=held_out, num_in_train=in_train)
        overlap.check(params.max_overlap)
    fetched = Provenance(
        repo=params.repo,
        host=address.host if isinstance(address, Address) else None,
        revision=params.revision,
        commit=commit,
        asked=params.files,
        column=params.column,
        files=described,
        overlap=overlap,
    )
    write_json(provenance, fetched.model_dump())
    rows = ", ".join(f"{file.path} ({file.rows:,} rows)" for file in described)
    print(shown(f"fetched {rows} from {params.repo} at {commit}"))


def is_fetched(params: Data, data: Path, provenance: Path) -> bool:
    """Whether DATA holds exactly what PROVENANCE, of this very revision, says byte for byte.

    Raises:
        DataError: its splits share too many documents.
    """
    recorded = recorded_files(provenance, params)
    held = {path.relative_to(data).as_posix() for path in data.rglob("*") if path.is_file()}
    if recorded is None or held != recorded.keys():
        return False
    if not all(sha256(data / path) == recorded[path].sha256 for path in held):
        return False
    read_as(provenance, Provenance).overlap.check(params.max_overlap)
    return True


def _pinned(repository: Repository, revision: str) -> str:
    try:
        commit = repository.resolve(revision)
    except RepositoryError as error:
        raise type(error)(*error.args, "`sedd pin` takes the newest commit of main") from None
    if commit != revision:
        raise RepositoryError(
            f"a branch moves, so a full commit id is asked for (got {revision}, "
            f"which is at {commit} now): `sedd pin {revision}` writes it"
        )
    return commit


def _files(repository: Repository, commit: str, params: Data) -> dict[str, list[str]]:
    """Paths of each split; listing a repository is spared where all are named outright."""
    names = [name for name in params.files.model_dump().values() if name is not None]
    if any(map(is_pattern, names)):
        return files_of((entry.path for entry in repository.entries(commit)), params.files)
    return files_of(names, params.files)


def _check_formats(files: dict[str, list[str]]) -> None:
    """Before anything is fetched."""
    for split, paths in files.items():
        for path in paths:
            with _at(split):
                format_of(Path(path))


@contextmanager
def _at(split: str, folder: Path = Path()) -> Iterator[None]:
    """Put the key that is to blame before a DataError, and leave `folder` out of its path."""
    try:
        yield
    except DataError as error:
        said = str(error).removeprefix(f"{folder}/")
        raise DataError(f"data.files.{split}: {said}") from None


def _called(files: dict[str, list[str]]) -> dict[str, str]:
    """What a message calls a file -> its path."""
    return {
        f"data.files.{split}" if len(paths) == 1 else f"data.files.{split}: {path}": path
        for split, paths in files.items()
        for path in paths
    }


def _drop_all_but(paths: list[str], folder: Path) -> None:
    """Remove what a fetch that failed, of other files, has left."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
        elif path.is_file() and path.relative_to(folder).as_posix() not in paths:
            path.unlink()


@contextmanager
def _named_as_there(folder: Path) -> Iterator[None]:
    """Let a DataError call files as the repository does, and not by where they are fetched to."""
    try:
        yield
    except DataError as error:
        raise DataError(*(line.replace(f"{folder}/", "") for line in error.args)) from None


def _described(folder: Path, path: str, split: str) -> Fetched:
    with _at(split, folder):
        rows = count_rows(folder / path)
    size = (folder / path).stat().st_size
    content = sha256(folder / path)
    return Fetched(path=path, split=split, size=size, sha256=content, rows=rows)


def recorded_files(provenance: Path, data: Data) -> dict[str, Fetched] | None:
    """What is known of each fetched file, by path; None if they are not of what `data` asks for."""
    try:
        fetched = read_as(provenance, Provenance)
    except (FileNotFoundError, DataError):
        return None
    asked = (data.repo, data.revision, data.files, data.column)
    if (fetched.repo, fetched.revision, fetched.asked, fetched.column) != asked:
        return None
    return {file.path: file for file in fetched.files}
