"""What Oxen raises, as errors of ours, and who its commits are by."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.errors import BusyError, RepositoryError, panicked
from pipeline.files import store, whole
from pipeline.oxen.credentials import OURS, author


@contextmanager
def oxen_errors(where: str) -> Iterator[None]:
    """Turn what Oxen, or the file system, raises about the repository `where` into our errors.

    Raises:
        RepositoryError: with Oxen's own words, or the file that may not be read or written.
        BusyError: another process has the repository open.
        OSError: the disk is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            # The error of a copy names the file that was read.
            raise OSError(error.errno, error.strerror, where) from None
        raise RepositoryError(f"{error.filename or where}: {error.strerror or error}") from None
    except BaseException as error:
        if not isinstance(error, ValueError) and not panicked(error):
            raise
        if "No space left on device" in str(error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), where) from None
        kind = BusyError if "LOCK" in str(error) else RepositoryError
        raise kind(f"{where}: Oxen says: {error}") from None


def configure() -> None:
    """Give Oxen an author: the user's own configuration where there is one, else one of ours.

    Raises:
        RepositoryError: the configuration is damaged.
    """
    if author() != OURS:
        return
    folder = store() / "oxen" / "config"
    os.environ["OXEN_CONFIG_DIR"] = str(folder)
    with whole(folder / "user_config.toml") as partial:
        partial.write_text('name = "{}"\nemail = "{}"\n'.format(*OURS), encoding="utf-8")
