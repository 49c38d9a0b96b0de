"""What an experiment publishes: samples, results and provenance, as one commit."""

import json
from pathlib import Path
from typing import Any

from pipeline.config.identity import (
    experiment_id,
    file_sha256,
    git_state,
    operational_params,
    result_params,
    sample_paths,
)
from pipeline.config.params import Params
from pipeline.errors import DataError, ServerError
from pipeline.files import read_jsonl, read_object, scratch_folder
from pipeline.oxen.opening import open_repository
from pipeline.oxen.repository import Repository, named
from pipeline.publishing.exporting import write_beside
from pipeline.publishing.publication import checkpoint_files, without_wall_clock, write_publication
from pipeline.publishing.spool import Failure, Flushed, Item, Spool, refusal, spool_for, waits
from pipeline.table import shown


def publish(params: Params, artifacts: Path, reports: Path) -> None:
    """Publish ARTIFACTS and REPORTS to `publish.repo`, once for each experiment.

    What waits for it is sent first. What cannot be sent now, or is refused by a server, is left to
    wait, and said.

    Raises:
        RepositoryError: it is none that could be sent, or was not and `publish.strict` is set.
        DataError: what other stages wrote is missing, or does not fit together.
    """
    provenance = provenance_of(params, artifacts, reports)
    run = provenance["id"]
    with named("publish.repo"):
        repository = open_repository(params.publish.repo, params.oxen, create=True)
        spool = spool_for(str(repository))
        away = _send_earlier(spool, params)
        try:
            if away is None and _is_published(repository, provenance, params):
                print(shown(f"nothing new to publish: {repository} has {run}"))
                return
        except ServerError as error:
            away = error
        samples = _samples(artifacts, params)
        with scratch_folder() as folder:
            files = write_publication(folder, provenance, samples)
            if params.publish.checkpoint:
                weights = provenance["checkpoint_sha256"]
                files |= checkpoint_files(artifacts / "checkpoint", weights)
                if params.publish.huggingface is not None:
                    export = write_beside(folder, params, artifacts / "checkpoint", provenance)
                    files |= checkpoint_files(export, weights, "huggingface")
            item = spool.put(str(repository), files, f"Samples and results of {run[:12]}")
        what = f"{len(samples)} samples as {run}"
        flushed = Flushed(failure=away) if away else spool.flush(params.oxen)
        if problem := _problem(spool, item, flushed):
            if params.publish.strict:
                raise ServerError(f"{what}: {problem}")
            print(shown(f"{what}: {problem}"))
            return
        # None: the head has it all, or another process has just sent it.
        commit = flushed.sent.get(item.folder.name)
        where = f"commit {shown(commit)} of {repository}" if commit else repository
        print(shown(f"published {what} in {where}"))


def _problem(spool: Spool, item: Item, flushed: Flushed) -> str:
    """Why `item` waits; nothing where it does not.

    Raises:
        PipelineError: no server was asked; it is dropped.
    """
    if refused := flushed.refused.get(item.folder):
        if not isinstance(refused, ServerError):
            spool.drop(item)
            raise refused
        return refusal(item.folder, refused)
    return waits(spool, flushed.failure) if flushed.failure else ""


def _send_earlier(spool: Spool, params: Params) -> Failure | None:
    """Send what waits from before; why not, where that may pass."""
    flushed = spool.flush(params.oxen)
    if flushed.sent:
        print(shown(f"sent {len(flushed.sent)} that waited in {spool.folder}"))
    for line in flushed.refusals():
        print(line)
    return flushed.failure


def _is_published(repository: Repository, provenance: dict[str, Any], params: Params) -> bool:
    published = repository.read(f"runs/{provenance['id']}.json")
    if published is None or json.loads(published)["metrics"] != provenance["metrics"]:
        return False
    if not params.publish.checkpoint:
        return True
    names = ["checkpoints"]
    if params.publish.huggingface is not None:
        names.append("huggingface")
    weights = provenance["checkpoint_sha256"][:16]
    return all(repository.read(f"{name}/{weights}/config.json") is not None for name in names)


def _samples(artifacts: Path, params: Params) -> list[dict[str, Any]]:
    """Every sample with what is known of it by itself, in the order of their files.

    Raises:
        DataError: scores are missing, or of other samples.
    """
    rows = []
    for path in sample_paths(artifacts, params):
        drawn = read_jsonl(path)
        scores = path.parents[1] / "scores" / f"{path.stem}.json"
        known = read_object(scores, "by_sample")["by_sample"]
        if known["index"] != [row["index"] for row in drawn]:
            raise DataError(f"{scores} is of other samples than {path}: run dvc repro")
        each = zip(*known.values(), strict=True)
        rows += [
            row | dict(zip(known, values, strict=True))
            for row, values in zip(drawn, each, strict=True)
        ]
    return rows


def provenance_of(params: Params, artifacts: Path, reports: Path) -> dict[str, Any]:
    """What runs/ID.json holds; addresses of servers and repositories to write to stay out."""
    checkpoint = file_sha256(artifacts / "checkpoint" / "model.safetensors")
    git = git_state()
    training = read_object(artifacts / "runs" / "train.json", "fingerprint", "device")
    return {
        "id": experiment_id(params, checkpoint, sample_paths(artifacts, params)),
        "data": read_object(artifacts / "provenance.json", "repo", "revision", "commit"),
        "params": {
            **result_params(params),
            **{
                key: value
                for key, value in operational_params(params).items()
                if not key.startswith(("tracking.", "publish."))
            },
        },
        "git": {"commit": git.commit, "dirty": git.dirty},
        "checkpoint_sha256": checkpoint,
        "training_fingerprint": training["fingerprint"],
        "device": training["device"],
        "lock_sha256": training.get("lock_sha256"),
        "metrics": without_wall_clock(
            read_object(reports / "results.json", "scorer", "likelihood")
        ),
    }
