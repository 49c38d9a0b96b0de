"""Committing to a repository on an Oxen server, through a workspace there."""

import hashlib
import json
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from io import BytesIO
from math import ceil
from pathlib import Path, PurePosixPath
from typing import Annotated, Any
from urllib.parse import quote

from pydantic import Field
from urllib3 import encode_multipart_formdata

from pipeline.errors import RefusedError, ServerError
from pipeline.files import locked
from pipeline.oxen.credentials import author
from pipeline.oxen.folders import inside, oxen_hash
from pipeline.oxen.server.api import Answer, Api, CommitId
from pipeline.oxen.server.connection import Declined, PassingFault
from pipeline.progress import progress

_TRIES = 20


class _Made(Answer):
    id: CommitId


class _Merged(Answer):
    commit: _Made


class _Begun(Answer):
    """An upload, whose parts are in memory one at a time; or that none is needed."""

    file: Any
    upload_id: str = ""
    part_size: Annotated[int, Field(ge=1, le=2**27)] = 1
    num_parts: Annotated[int, Field(le=10_000)] = 0


def commit(api: Api, branch: str, files: Mapping[str, Path], message: str) -> str | None:
    """Commit local files to a branch, made with its repository where there is none.

    Others may commit meanwhile: this is then done again on their head, and both stay.

    Returns:
        the commit's id, or None when the head already has all of them as they are.
    Raises:
        ServerError: the server is away or refuses; nothing is half done. RefusedError: it refuses
            these files, or declines them again and again though nobody else commits.
    """
    sources = {inside(path): source for path, source in files.items()}
    hashes = {path: oxen_hash(source) for path, source in sources.items()}
    # The next try of the same work finds, and replaces, what a killed one left on the server.
    work = json.dumps([message, sorted(hashes.items())]).encode()
    name = f"pipeline-{hashlib.sha256(work).hexdigest()[:32]}"
    with locked(f"{api.server.called}/{name}"):
        asked, heads = False, set()
        for number in range(_TRIES):
            head = _head(api, branch)
            heads.add(head)
            held = api.find(head, sources) if head else {}
            changed = {
                path: source for path, source in sources.items()
                if path not in held or held[path].hash != hashes[path]
            }  # fmt: skip
            if not changed:
                return _ours(api, branch, message) if asked else None
            try:
                workspace = _Workspace(api, name, branch)
                for path, source in changed.items():
                    workspace.add(path, source, hashes[path])
                asked = True
                return workspace.commit(message)
            except Declined as declined:  # Another was faster, or an earlier answer was lost.
                words = str(declined)
                time.sleep(0.1 * number)
        kind = RefusedError if len(heads) == 1 else ServerError
        said = f"{_TRIES} tries to commit were declined, the last: {words}"
        raise kind(f"{api.server.called}: {said}")


def _head(api: Api, branch: str) -> str | None:
    branches = api.branches()
    if branches is None:
        api.create()
        return None
    return branches.get(branch)


def _ours(api: Api, branch: str, message: str) -> str | None:
    """The newest commit of this message: it was made, though no answer said so."""
    return next((id_ for id_, text in api.log(branch, 100) if text == message), None)


class _Taken(Exception):
    """There is a workspace of this name."""


class _Workspace:
    """Changes to a branch that wait on the server; committing ends it."""

    def __init__(self, api: Api, name: str, branch: str) -> None:
        """Make it at the branch's head, in place of one of the same name."""
        self._server, self._repository, self._branch = api.server, api.at, branch
        self._name = self._made(name)
        self._at = f"{api.at}/workspaces/{self._name}"

    def _made(self, name: str) -> str:
        """Make a workspace; one that a killed server half made can neither be had nor deleted."""
        for number in range(_TRIES):
            numbered = f"{name}-{number}" if number else name
            with suppress(Declined):  # There may be none.
                self._server.ask("DELETE", f"{self._repository}/workspaces/{numbered}", dict)
            with suppress(_Taken):
                self._server.tried(partial(self._make, numbered))
                return numbered
        raise self._server.error(f"workspaces up to {numbered} cannot be deleted there")

    def _make(self, name: str) -> None:
        body = json.dumps({"workspace_id": name, "branch_name": self._branch}).encode()
        path = f"{self._repository}/workspaces"
        try:
            self._server.send("PUT", path, dict, body, "application/json")
        except PassingFault as fault:
            if "already exists" in str(fault):
                raise _Taken from None
            raise

    def add(self, path: str, source: Path, content: str) -> None:
        """Send a file whose `oxen_hash` is `content`, unless the server has such bytes."""
        size = source.stat().st_size
        if not size:
            self._add_empty(PurePosixPath(path))
            return
        destination = {"workspace_id": self._name, "path": path}
        begun = self._server.ask(
            "POST", f"{self._repository}/versions/uploads", _Begun.model_validate,
            {"hash": content, "size": size, "destination": destination},
        )  # fmt: skip
        if begun.file == "already_stored":
            return
        if begun.num_parts != ceil(size / begun.part_size):
            raise self._server.no_answer()
        parts = f"{self._repository}/versions/uploads/{quote(begun.upload_id, safe='')}/parts"
        with (
            source.open("rb") as file,
            progress(total=size, desc="send", unit="B", delay=1) as bar,
        ):
            for number in range(1, begun.num_parts + 1):
                part = file.read(begun.part_size)
                self._send("PUT", f"{parts}/{number}", part, "application/octet-stream")
                bar.update(len(part))

    def _add_empty(self, path: PurePosixPath) -> None:
        """Add a file of no bytes, which cannot be sent in parts."""
        body, kind = encode_multipart_formdata({"file[]": (path.name, b"")})
        self._send("POST", f"{self._at}/files/{quote(path.parent.as_posix())}", body, kind)

    def _send(self, method: str, path: str, body: bytes, kind: str) -> None:
        server = self._server
        server.tried(lambda: server.send(method, path, dict, BytesIO(body), kind))

    def commit(self, message: str) -> str:
        """Commit what was added; the commit's id.

        Raises:
            Declined: the branch has moved on, nothing differs from it, or this is gone.
        """
        name, email = author()
        body = {"message": message, "author": name, "email": email}
        path = f"{self._at}/merge/{self._branch}"
        return self._server.ask("POST", path, _Merged.model_validate, body).commit.id
