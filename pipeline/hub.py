"""Files from the Hugging Face hub, or from its cache on this machine."""

from pathlib import Path

from pipeline.errors import PipelineError


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
