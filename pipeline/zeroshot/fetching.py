"""A declared set's file, from its Oxen repository at the pinned revision."""

from pathlib import Path

from pipeline.config.data import Patience
from pipeline.config.zero_shot import ZeroShotSet
from pipeline.data.corpus import format_of
from pipeline.errors import DataError, RepositoryError
from pipeline.oxen.folders import resumed_in_place_of
from pipeline.oxen.opening import open_repository
from pipeline.oxen.repository import named
from pipeline.table import shown


def fetch_set(name: str, declared: ZeroShotSet, patience: Patience, folder: Path) -> None:
    """Write the file of the set `name` under `folder`, by its path in the repository.

    Raises:
        RepositoryError: the repository, the revision or the file is missing or unusable.
        DataError: the file is of a format that cannot be read.
    """
    key = f"zero_shot.sets.{name}"
    try:
        format_of(Path(declared.file))
    except DataError as error:
        raise DataError(f"{key}.file: {error}") from None
    with named(f"{key}.repo"):
        repository = open_repository(declared.repo, patience)
    with named(f"{key}.revision"):
        commit = repository.resolve(declared.revision)
        if commit != declared.revision:
            raise RepositoryError(
                f"a branch moves, so a full commit id is asked for (got {declared.revision}, "
                f"which is at {commit} now)"
            )
    with resumed_in_place_of(folder) as partial:
        repository.fetch(commit, {f"{key}.file": declared.file}, partial)
    print(shown(f"fetched {declared.file} from {declared.repo} at {commit}"))
