"""What one experiment publishes: a table of samples, a row of results, and where all came from."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.files import write_json

# `params` and `metrics` are JSON texts, so that runs of different sweeps stay one table.
_HEADLINES = ("gen_ppl", "entropy")
_LIKELIHOODS = ("bound_nats_per_char", "bound_stderr", "baseline_nats_per_char")


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
    """Write the files of a publication: one of each kind a run, so publishers never meet.

    Args:
        provenance: what runs/ID.json holds; its `id`, `steps`, `data`, `git`, `params` and
            `metrics` also make the row in runs/ID.parquet.
        samples: rows of artifacts/samples/N.jsonl.
    Returns:
        path in the repository -> path of the file written.
    """
    run = provenance["id"]
    files = {
        name: folder / name.replace("/", "-")
        for name in (f"samples/{run}.parquet", f"runs/{run}.parquet", f"runs/{run}.json")
    }
    table, row, document = files.values()
    _write_samples(table, run, samples)
    _write_run(row, provenance)
    write_json(document, provenance)
    return files


def _write_samples(path: Path, run: str, samples: Sequence[Mapping[str, Any]]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    schema = pa.schema(
        [
            ("run", pa.string()),
            ("num_steps", pa.int32()),
            ("index", pa.int32()),
            ("text", pa.string()),
            ("ids", pa.list_(pa.int32())),
            ("nfe", pa.int32()),
            ("predictor", pa.string()),
            ("temperature", pa.float64()),
            ("top_p", pa.float64()),
            ("seed", pa.int64()),
        ]
    )
    rows = [{**sample, "run": run} for sample in samples]
    parquet.write_table(pa.Table.from_pylist(rows, schema=schema), path)


def _write_run(path: Path, provenance: Mapping[str, Any]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    metrics = provenance["metrics"]
    row = {
        "run": provenance["id"],
        "data_repo": provenance["data"]["repo"],
        "data_commit": provenance["data"]["commit"],
        "git_commit": provenance["git"]["commit"],
        "git_dirty": provenance["git"]["dirty"],
        "checkpoint_sha256": provenance["checkpoint_sha256"],
        "steps": provenance["params"]["steps"],
        "scorer": metrics["scorer"],
        **{name: metrics[name] for name in _HEADLINES},
        **{name: metrics["likelihood"][name] for name in _LIKELIHOODS},
        "params": json.dumps(provenance["params"]),
        "metrics": json.dumps(metrics),
    }
    texts = ("run", "data_repo", "data_commit", "git_commit", "checkpoint_sha256", "scorer")
    kinds = {
        **dict.fromkeys((*texts, "params", "metrics"), pa.string()),
        **dict.fromkeys((*_HEADLINES, *_LIKELIHOODS), pa.float64()),
        "git_dirty": pa.bool_(),
        "steps": pa.int32(),
    }
    schema = pa.schema([(name, kinds[name]) for name in row])
    parquet.write_table(pa.Table.from_pylist([row], schema=schema), path)
