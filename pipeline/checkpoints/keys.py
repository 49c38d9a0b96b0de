"""What a config.json holds, read with a limit: it may be anybody's."""

import json
from pathlib import Path
from typing import Any

from pipeline.errors import CheckpointError

MOST_BYTES = 2**25
"""Of a config.json: with numbers of texts of the longest block it has less."""


def read_keys(path: Path) -> dict[str, Any]:
    """What a config.json holds, of whatever model.

    Raises:
        CheckpointError: it is missing, no small file, or holds no keys.
    """
    # A pipe has no end.
    if not path.is_file():
        raise CheckpointError(f"{path} is missing")
    if path.stat().st_size > MOST_BYTES:
        raise CheckpointError(f"{path} is no config: it has more than {MOST_BYTES:,} bytes")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} is not a config of this project: it holds no keys")
    return config
