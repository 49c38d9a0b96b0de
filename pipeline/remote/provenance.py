"""What an earlier fetch has recorded of the files it brought."""

from pathlib import Path
from typing import Any

from pipeline.files import read_json
from pipeline.params import Data


def recorded_files(provenance: Path, data: Data) -> dict[str, dict[str, Any]] | None:
    """What is known of each fetched file, by path; None if they are not of what `data` asks for."""
    if not provenance.is_file():
        return None
    fetched = read_json(provenance)
    asked = (data.repo, data.revision, data.files.model_dump())
    if (fetched["repo"], fetched["revision"], fetched.get("asked")) != asked:
        return None
    return {file["path"]: file for file in fetched["files"]}
