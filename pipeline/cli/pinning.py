"""`sedd pin`: move `data.revision` to the head of a branch, having shown what that changes."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.errors import RepositoryError, ServerError, reported
from pipeline.table import shown

if TYPE_CHECKING:
    from pipeline.config.data import DataFiles
    from pipeline.config.params import Params
    from pipeline.oxen.repository import Entry, Repository

PARAMS = Path("params.yaml")
MOST = 20
"""Files of each kind of change that are named."""


@reported
def pin(
    branch: Annotated[str, typer.Argument(help="Whose newest commit is pinned.")] = "main",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what changed.")] = False,
) -> None:
    """Pin data.revision in params.yaml to a branch's newest commit, and show what that changes.

    What train.init and score.scorer name is pinned too, as it is.
    """
    from pipeline.config.edits import edit_yaml
    from pipeline.config.params import load_params
    from pipeline.data.splits import files_of
    from pipeline.oxen.opening import open_repository
    from pipeline.oxen.repository import named

    params = load_params(PARAMS)
    _pin_models(params, dry_run)
    data = params.data
    with named("data.repo"):
        repository = open_repository(data.repo, params.oxen)
        head = _head(repository, data.repo, branch)
        if head == data.revision:
            print(shown(f"{data.repo}: {head} is pinned, and the newest commit of {branch}"))
            return
        entries = repository.entries(head)
        files_of((entry.path for entry in entries), data.files)
        pinned = _resolved(repository, data.revision)
        before = [] if pinned is None else repository.entries(pinned)
    if pinned is None:
        print(shown(f"{data.repo} has no commit {data.revision}, which was pinned: it is replaced"))
    elif pinned != data.revision:
        print(shown(f"{data.revision} is a branch, which moves: a commit of it is pinned instead"))
    for line in changes(before, entries, data.files):
        print(shown(line))
    if dry_run:
        print(shown(f"the newest commit of {branch} is {head}; without --dry-run it is pinned"))
        return
    edit_yaml(PARAMS, {"data.revision": head})
    print(shown(f"pinned {head}, the newest commit of {branch} of {data.repo}; now run dvc repro"))


def _pin_models(params: "Params", dry_run: bool) -> None:
    from pipeline.config.edits import edit_yaml
    from pipeline.evaluation.scorer import scorer_revision
    from pipeline.files import folder_revision, from_root

    train, score, zero_shot = params.train, params.score, params.zero_shot
    against, key = zero_shot.against, "zero_shot.against"
    weights = None
    if train.init is not None and (folder := from_root(train.init)).is_dir():
        weights = folder_revision(folder)
    pins = {
        "train.init_revision": (train.init, weights, train.init_revision),
        "score.scorer_revision": (
            score.scorer, scorer_revision(score.scorer), score.scorer_revision
        ),
        "zero_shot.against_revision": (
            against, against and scorer_revision(against, key=key), zero_shot.against_revision
        ),
    }  # fmt: skip
    for key, (name, found, pinned) in pins.items():
        if found in (None, pinned):
            continue
        was = "is" if dry_run else "was"
        print(shown(f"{key}: {name} is at {found}, pinned {was} {pinned}"))
        if not dry_run:
            edit_yaml(PARAMS, {key: found})


def _head(repository: "Repository", repo: str, branch: str) -> str:
    if repo == "bundled":
        from pipeline.oxen.bundled import shipped_revision

        return shipped_revision()
    head = repository.resolve(branch)
    if head == branch:
        raise RepositoryError(f"a branch is asked for, such as main (got the commit {branch})")
    return head


def _resolved(repository: "Repository", revision: str) -> str | None:
    """The commit of `data.revision` as it is; None where the repository has none."""
    try:
        return repository.resolve(revision)
    except ServerError:
        raise
    except RepositoryError:
        return None


def changes(before: "Iterable[Entry]", after: "Iterable[Entry]", files: "DataFiles") -> list[str]:
    """Lines that say which files were added, removed and changed; those of a split name it."""
    from pipeline.data.splits import matching

    old = {entry.path: entry for entry in before}
    new = {entry.path: entry for entry in after}
    kinds = {
        "added": [path for path in new if path not in old],
        "removed": [path for path in old if path not in new],
        "changed": [path for path in new if path in old and new[path].hash != old[path].hash],
    }
    split_of = {
        path: split
        for split, name in files.model_dump().items()
        if name is not None
        for path in matching({*old, *new}, name)
    }
    lines = []
    for kind, paths in kinds.items():
        ordered = sorted(paths, key=lambda path: (path not in split_of, path))
        for path in ordered[:MOST]:
            used = f"  ({split_of[path]})" if path in split_of else ""
            lines.append(f"{kind:8} {path}{_rows(old.get(path), new.get(path))}{used}")
        if len(ordered) > MOST:
            lines.append(f"{kind:8} and {len(ordered) - MOST:,} more")
    for split in dict.fromkeys(split_of.values()):
        before_all, after_all = (
            _total(entry for path, entry in side.items() if split_of.get(path) == split)
            for side in (old, new)
        )
        if before_all is not None and after_all is not None and before_all != after_all:
            lines.append(f"{split}: {before_all:,} -> {after_all:,} rows in all")
    if split_of.keys().isdisjoint(path for paths in kinds.values() for path in paths):
        lines.append("no file of data.files changes: what was trained on them stays as it is")
    return lines


def _total(entries: "Iterable[Entry]") -> int | None:
    """Rows of all files; None where one's are not known."""
    rows = [entry.rows for entry in entries]
    known = [number for number in rows if number is not None]
    return sum(known) if len(known) == len(rows) else None


def _rows(old: "Entry | None", new: "Entry | None") -> str:
    counts = [f"{entry.rows:,}" for entry in (old, new) if entry and entry.rows is not None]
    return f"  {' -> '.join(counts)} rows" if counts else ""
