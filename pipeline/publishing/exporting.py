"""The model of an experiment for transformers: a folder, on the hub, or beside its samples."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.config.params import Params
from pipeline.files import from_root, scratch_folder
from pipeline.hub import HUB_ID, to_hub
from pipeline.huggingface.card import Card, Data, Results
from pipeline.huggingface.export import write_export
from pipeline.table import shown


def publish_export(params: Params, checkpoint: Path, provenance: Mapping[str, Any]) -> None:
    """Write the model to the folder `publish.huggingface`, or send it there on the hub.

    It must be given.

    Raises:
        PipelineError: the folder holds other things, or the hub is away or refuses.
    """
    where = str(params.publish.huggingface)
    if HUB_ID.fullmatch(where):
        with scratch_folder() as scratch:
            folder = write_beside(scratch, params, checkpoint, provenance)
            print(shown(f"sent the model to {to_hub(folder, where, key='publish.huggingface')}"))
        return
    folder = from_root(where)
    write_export(checkpoint, folder, _card(params, provenance), replace=True)
    print(shown(f"wrote the model for transformers to {folder}"))


def write_beside(
    scratch: Path, params: Params, checkpoint: Path, provenance: Mapping[str, Any]
) -> Path:
    """The export's folder in `scratch`."""
    folder = scratch / "huggingface"
    write_export(checkpoint, folder, _card(params, provenance))
    return folder


def _card(params: Params, provenance: Mapping[str, Any]) -> Card:
    where, license = params.publish.huggingface, params.publish.license
    if where is None or license is None:
        raise ValueError("without publish.huggingface and publish.license there is no card")
    data, results = provenance["data"], provenance["metrics"]
    return Card(
        from_root(where).name, license, Data.model_validate(data), Results.model_validate(results)
    )
