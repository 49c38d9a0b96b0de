"""How the name of a repository becomes one."""

from pathlib import Path

from pipeline.config.data import Patience
from pipeline.errors import RepositoryError
from pipeline.oxen.address import Address, parse_repo
from pipeline.oxen.repository import Repository


def open_repository(repo: str, patience: Patience, *, create: bool = False) -> Repository:
    """The repository that an address, a path or `bundled` names; no server is asked anything yet.

    Args:
        repo: as `parse_repo` reads it.
        patience: patience with a server.
        create: whether the first commit may make it.
    Raises:
        RepositoryError: the name is none, or there is no Oxen repository at the path.
    """
    # Late: Oxen is slow to import.
    address = parse_repo(repo)
    if address == "bundled":
        from pipeline.oxen.bundled import BundledRepository

        if create:
            raise RepositoryError("bundled names can only be read: give the path of a repository")
        return BundledRepository()
    if isinstance(address, Address):
        from pipeline.oxen.server.repository import ServerRepository

        return ServerRepository(address, patience, create=create)
    from pipeline.oxen.local.repository import LocalRepository

    return LocalRepository(Path(address), create=create)
