"""What one experiment publishes: a table of samples, a row of results, and where all came from.

Each run, and each snapshot of a training, has files of its own, so that publishers never meet; all
files of samples/, of runs/ and of snapshots/*/ have one schema, and are read together as one table.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.files import write_json

# `params` and `metrics` are JSON texts, so that runs of different sweeps stay one table.
_HEADLINES = ("gen_ppl", "entropy")
_LIKELIHOODS = ("bound_nats_per_char", "bound_stderr", "baseline_nats_per_char")

SAMPLES = {
    "run": "string",
    "num_steps": "int32",
    "index": "int32",
    "text": "string",
    "ids": "ids",
    "nfe": "int32",
    "predictor": "string",
    "temperature": "double",
    "top_p": "double",
    "seed": "int64",
    "nats": "double",
    "scored_tokens": "int32",
    "well_formed": "bool",
    "in_train": "bool",
    "in_held_out": "bool",
}
"""Columns of samples/. `nats` is the scorer's negative log likelihood of `scored_tokens` tokens;
`in_train` and `in_held_out` say whether a split has the text, null for windows of running text."""

RUNS = {
    "run": "string",
    "publication_id": "string",
    "mlflow_fingerprint": "string",
    "training_fingerprint": "string",
    "checkpoint_sha256": "string",
    "data_repo": "string",
    "data_revision": "string",
    "data_commit": "string",
    "git_commit": "string",
    "git_dirty": "bool",
    "steps": "int32",
    "scorer": "string",
    **dict.fromkeys((*_HEADLINES, *_LIKELIHOODS), "double"),
    "params": "string",
    "metrics": "string",
}
"""Columns of runs/. One fingerprint names an experiment everywhere: `run` in the other files, the
publication, and the tag `fingerprint` of its MLflow run."""

SNAPSHOTS = {
    "training_fingerprint": "string",
    "step": "int32",
    "index": "int32",
    "text": "string",
    "ids": "ids",
    "loss": "double",
    "bound_integral_nats_per_position": "double",
}
"""Columns of snapshots/. `loss` is the mean training loss in nats a block since the last row that
was logged. The bound's integral is the held-out loss over the positions of a block, padding
included, from one draw of noise a block. With the raw score the bound's prior and reconstruction
terms and the integral's factor 1 - t_min are left out; with the conditional one there are none."""


def without_wall_clock(value: Any) -> Any:
    """`value` less every key that holds a time or a speed: the same work publishes the same."""
    if isinstance(value, Mapping):
        return {
            key: without_wall_clock(inner)
            for key, inner in value.items()
            if key != "seconds" and not key.endswith(("_seconds", "_per_second"))
        }
    if isinstance(value, list):
        return [without_wall_clock(inner) for inner in value]
    return value


def write_publication(
    folder: Path, provenance: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]
) -> dict[str, Path]:
    """Write the files of a publication.

    Args:
        provenance: what runs/ID.json holds; its `id`, `steps`, `data`, `git`, `params` and
            `metrics` also make the row in runs/ID.parquet.
        samples: rows of artifacts/samples/N.jsonl, each with its own scores.
    Returns:
        path in the repository -> path of the file written.
    """
    run = provenance["id"]
    files = {
        name: folder / name.replace("/", "-")
        for name in (f"samples/{run}.parquet", f"runs/{run}.parquet", f"runs/{run}.json")
    }
    table, row, document = files.values()
    _write(table, SAMPLES, ({**sample, "run": run} for sample in samples))
    _write(row, RUNS, [_run(provenance)])
    write_json(document, provenance)
    return files


def checkpoint_files(folder: Path, sha256: str, where: str = "checkpoints") -> dict[str, Path]:
    """Path in the repository -> file, of the checkpoint in `folder` as it is."""
    return {
        f"{where}/{sha256[:16]}/{path.relative_to(folder).as_posix()}": path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def write_snapshot(folder: Path, fingerprint: str, row: Mapping[str, Any]) -> dict[str, Path]:
    """Write the table of one snapshot of the training that `fingerprint` names.

    Args:
        row: step, loss, eval_loss, texts and ids, as training logs them.
    Returns:
        path in the repository -> path of the file written.
    """
    path = folder / f"{row['step']}.parquet"
    common = {
        "training_fingerprint": fingerprint,
        "step": row["step"],
        "loss": row["loss"],
        "bound_integral_nats_per_position": row["eval_loss"] / len(row["ids"][0]),
    }
    drawn = enumerate(zip(row["texts"], row["ids"], strict=True))
    _write(
        path,
        SNAPSHOTS,
        ({**common, "index": n, "text": text, "ids": ids} for n, (text, ids) in drawn),
    )
    return {f"snapshots/{fingerprint}/{path.name}": path}


def _run(provenance: Mapping[str, Any]) -> dict[str, Any]:
    data, git, metrics = provenance["data"], provenance["git"], provenance["metrics"]
    return {
        "run": provenance["id"],
        "publication_id": provenance["id"],
        "mlflow_fingerprint": provenance["id"],
        "training_fingerprint": provenance["training_fingerprint"],
        "checkpoint_sha256": provenance["checkpoint_sha256"],
        "data_repo": data["repo"],
        "data_revision": data["revision"],
        "data_commit": data["commit"],
        "git_commit": git["commit"],
        "git_dirty": git["dirty"],
        "steps": provenance["params"]["steps"],
        "scorer": metrics["scorer"],
        **{name: metrics[name] for name in _HEADLINES},
        **{name: metrics["likelihood"][name] for name in _LIKELIHOODS},
        "params": json.dumps(provenance["params"]),
        "metrics": json.dumps(metrics),
    }


def _write(path: Path, columns: Mapping[str, str], rows: Iterable[Mapping[str, Any]]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    kinds = {"ids": pa.list_(pa.int32())}
    schema = [(name, kinds.get(kind) or pa.type_for_alias(kind)) for name, kind in columns.items()]
    parquet.write_table(pa.Table.from_pylist(list(rows), schema=pa.schema(schema)), path)
