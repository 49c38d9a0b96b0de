"""A Hugging Face hub on this machine that takes what its client sends, as the real one does."""

import base64
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

TOKEN = "hf_of_a_test"


class Receiver(http.server.BaseHTTPRequestHandler):
    """Models by id; files that are committed land in `folder`, large ones by way of `objects`."""

    protocol_version = "HTTP/1.1"
    folder: Path
    objects: dict[str, bytes]
    made: list[str]
    drops: bool = False

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = urlsplit(self.path).path
        if self.headers.get("Authorization") != f"Bearer {TOKEN}" and "lfs" not in path:
            return self.answer(401, {"error": "Invalid credentials"})
        if path == "/api/repos/create":
            asked = json.loads(body)
            self.made.append(f"{asked['organization']}/{asked['name']}")
            return self.answer(200, {"url": self.address(self.made[-1]), "id": self.made[-1]})
        if path == "/api/validate-yaml":
            return self.answer(200, {"errors": [], "warnings": []})
        if "/preupload/" in path:
            return self.answer(200, {"files": [how(file) for file in json.loads(body)["files"]]})
        if path.endswith("/info/lfs/objects/batch"):
            objects = [self.place(each) for each in json.loads(body)["objects"]]
            return self.answer(200, {"transfer": "basic", "objects": objects})
        if "/commit/" in path:
            self.commit([json.loads(line) for line in body.splitlines()])
            url = f"{self.address(self.made[-1])}/commit/{'c' * 40}"
            return self.answer(200, {"success": True, "commitOid": "c" * 40, "commitUrl": url})
        return self.answer(404, {"error": path})

    def do_PUT(self) -> None:
        if self.drops:
            self.close_connection = True
            return
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.objects[hashlib.sha256(content).hexdigest()] = content
        self.answer(200, {})

    def do_GET(self) -> None:
        self.answer(404, {"error": self.path})

    def address(self, path: str) -> str:
        return f"http://{self.headers['Host']}/{path}"

    def place(self, asked: dict[str, str]) -> dict[str, object]:
        upload = {"href": self.address(f"objects/{asked['oid']}"), "header": {}}
        return asked | {"actions": {"upload": upload}}

    def commit(self, lines: list[dict[str, dict[str, str]]]) -> None:
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                continue
            is_large = line["key"] == "lfsFile"
            content = self.objects[value["oid"]] if is_large else base64.b64decode(value["content"])
            (self.folder / value["path"]).write_bytes(content)

    def answer(self, status: int, value: object) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def how(file: dict[str, str]) -> dict[str, object]:
    mode = "lfs" if file["path"].endswith(".safetensors") else "regular"
    return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": None}


@contextmanager
def receiving(folder: Path, *, drops: bool = False) -> Iterator[tuple[str, list[str]]]:
    """The address of a hub whose commits land in `folder`, and the models made there.

    One that drops ends large files in the middle.
    """
    folder.mkdir()
    own = {"folder": folder, "objects": {}, "made": [], "drops": drops}
    handler = type("Hub", (Receiver,), own)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", handler.made
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
