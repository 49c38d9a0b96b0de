"""Fetch the dataset's files from their Oxen repository at the pinned revision."""

from pathlib import Path

import typer

from pipeline.errors import DataError, RepositoryError, reported
from pipeline.files import read_json, write_json
from pipeline.params import Data, load_params
from pipeline.remote.folders import count_rows, in_place_of, sha256
from pipeline.remote.repository import Repository, named, open_repository


@reported
def main(data: Path, provenance: Path) -> None:
    """Write the files into the folder DATA and where they came from into PROVENANCE."""
    values = load_params()
    network, params = values.network, values.data
    if _is_fetched(params, data, provenance):
        print(f"nothing to fetch: {data} has the files of {params.repo} at {params.revision}")
        return
    files = {f"data.files.{split}": path for split, path in params.files.model_dump().items()}
    with named("data.repo"):
        repository = open_repository(params.repo, network)
    with named("data.revision"):
        commit = _pinned(repository, params.revision)
    with in_place_of(data, replace=True) as folder:
        repository.fetch(commit, files, folder)
        described = [_described(folder, path, key) for key, path in files.items()]
    write_json(
        provenance,
        {
            "repo": params.repo,
            "revision": params.revision,
            "commit": commit,
            "files": described,
        },
    )
    rows = ", ".join(f"{file['path']} ({file['rows']:,} rows)" for file in described)
    print(f"fetched {rows} from {params.repo} at {commit}")


def _is_fetched(params: Data, data: Path, provenance: Path) -> bool:
    """Whether DATA holds exactly what PROVENANCE, of this very revision, says byte for byte."""
    if not provenance.is_file():
        return False
    fetched = read_json(provenance)
    if (fetched["repo"], fetched["revision"]) != (params.repo, params.revision):
        return False
    held = {path.relative_to(data).as_posix() for path in data.rglob("*") if path.is_file()}
    recorded = {file["path"]: file["sha256"] for file in fetched["files"]}
    if not held == recorded.keys() == set(params.files.model_dump().values()):
        return False
    return all(sha256(data / path) == recorded[path] for path in held)


def _pinned(repository: Repository, revision: str) -> str:
    commit = repository.resolve(revision)
    if commit != revision:
        raise RepositoryError(
            f"a branch moves, so a full commit id is asked for (got {revision}, "
            f"which is at {commit} now)"
        )
    return commit


def _described(folder: Path, path: str, key: str) -> dict[str, str | int]:
    try:
        rows = count_rows(folder / path)
    except DataError as error:
        raise DataError(f"{key}: {error}") from None
    if rows == 0:
        raise DataError(f"{key}: {path} has no rows, and an empty dataset trains nothing")
    size = (folder / path).stat().st_size
    return {"path": path, "size": size, "sha256": sha256(folder / path), "rows": rows}


if __name__ == "__main__":
    typer.run(main)
