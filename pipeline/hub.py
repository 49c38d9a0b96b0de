"""Files from the Hugging Face hub, or from its cache on this machine; and a folder to it."""

import re
from pathlib import Path

from pipeline.errors import PipelineError

HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
"""ORG/NAME."""


def from_hub(
    name: str, files: list[str], *, key: str, instead: str, revision: str | None = None
) -> Path:
    """The folder that holds those of `files` (glob patterns) that the model `name` has.

    Args:
        key: the parameter or argument that named it, for the message.
        instead: what the user can give in its place.
        revision: branch, tag or commit; the main branch if None.
    Raises:
        PipelineError: there is no such model, or it is neither cached nor within reach.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(snapshot_download(name, allow_patterns=files, revision=revision))
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        reason = str(error).splitlines()[0]
        what = f"{name} at {revision}" if revision else name
        raise PipelineError(
            f"{key}: {what} is neither on this machine nor can it be fetched ({reason}); {instead}"
        ) from error


def to_hub(folder: Path, name: str, *, key: str) -> str:
    """Commit the files of `folder` to the model `name`, which is made if missing; its address.

    Args:
        key: the parameter or argument that named it, for the message.
    Raises:
        PipelineError: there is no token, or the hub is away or refuses.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    if get_token() is None:
        raise PipelineError(
            f"{key}: there is no token for the Hugging Face hub: make one that may write at "
            "https://huggingface.co/settings/tokens, then `hf auth login`, or set HF_TOKEN"
        )
    # Of the library that its client speaks HTTP with, for servers that are away.
    http_error: type[Exception] = HfHubHTTPError.__bases__[0]
    api = HfApi()
    try:
        address = str(api.create_repo(name, exist_ok=True))
        api.upload_folder(repo_id=name, folder_path=folder, commit_message=f"Export of {name}")
    # A large file that ends in the middle is a RuntimeError of the client, whose cause says why.
    except (OSError, ValueError, RuntimeError, http_error, HFValidationError) as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise PipelineError(f"{key}: {name} cannot be sent to the hub ({reason})") from error
    return address
