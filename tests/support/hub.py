"""A local server that answers as the hub of Hugging Face does, and a process that uses it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
REVISION = "0123456789abcdef0123456789abcdef01234567"
CONTENT = b"weights" * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Hub:
    """What the server has and how it answers; `requests` is what it was asked.

    `refusal` is a status, the hub's name of the error, and its message; `served` is what it sends,
    if that is not what it states.
    """

    endpoint: str = ""
    repository: str = "publisher/encoder"
    revision: str = REVISION
    file: str = "model.safetensors"
    content: bytes = CONTENT
    served: bytes | None = None
    size: int | None = None
    token: str | None = None
    refusal: tuple[int, str, str] | None = None
    is_hub: bool = True
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)

    def find_refusal(self, path: str, authorization: str | None) -> tuple[int, str, str] | None:
        """Return why a request is refused, as the hub says it."""
        if self.refusal is not None:
            return self.refusal
        if not path.startswith(f"/{self.repository}/resolve/"):
            return 401, "RepoNotFound", "Invalid username or password."
        if self.token is not None and authorization is None:
            return 401, "GatedRepo", "Access to this model is restricted."
        if self.token is not None and authorization != f"Bearer {self.token}":
            return 403, "GatedRepo", "You are not in the authorized list."
        if path.split("/resolve/")[1].partition("/")[0] not in (self.revision, "main"):
            return 404, "RevisionNotFound", "Invalid rev id"
        if not path.endswith(f"/{self.file}"):
            return 404, "EntryNotFound", "Entry not found"
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        self.answer(b"")

    def do_GET(self) -> None:
        self.answer(self.hub.content if self.hub.served is None else self.hub.served)

    def answer(self, body: bytes) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.hub.requests.append((self.command, self.path, headers))
        refusal = self.hub.find_refusal(self.path, self.headers.get("Authorization"))
        if refusal is not None:
            self.refuse(*refusal)
            return
        self.send_response(200)
        if self.hub.is_hub:
            self.state_file()
        length = len(body) if self.command == "GET" else len(self.hub.content)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body)

    def refuse(self, status: int, name: str, message: str) -> None:
        self.send_response(status)
        if name:
            self.send_header("X-Error-Code", name)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def state_file(self) -> None:
        digest = hashlib.sha256(self.hub.content).hexdigest()
        self.send_header("X-Repo-Commit", self.hub.revision)
        self.send_header("X-Linked-Size", str(self.hub.size or len(self.hub.content)))
        self.send_header("X-Linked-Etag", f'"{digest}"')
        self.send_header("ETag", f'"{digest}"')

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Answer as the hub does, at `hub.endpoint`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def make_environment(home: Path, endpoint: str, **more: str) -> dict[str, str]:
    """Return an environment in which the hub is at `endpoint` and its cache in `home`."""
    foreign = ("HF_", "HUGGING", "TRANSFORMERS_", "XDG_", "DISABLE_TELEMETRY", "DO_NOT_TRACK")
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(foreign) and not name.lower().endswith("_proxy")
    }
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    own = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HOME": str(home), "PYTHONPATH": paths}
    return kept | own | more


def run_child(
    code: str, environment: dict[str, str], *arguments: str
) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process: `huggingface_hub` reads its environment on import."""
    return subprocess.run(
        [sys.executable, "-P", "-W", "error", "-c", code, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


LOCATE = """
import json, sys
from pathlib import Path
from dataclasses import replace
from milpath.errors import MilpathError
from milpath.registry import ENCODERS
from milpath.registry.weights import locate_weights

encoder = replace(ENCODERS["virchow"], **json.loads(sys.argv[1]))
weights = Path(sys.argv[2]) if sys.argv[2] else None
try:
    print(locate_weights(encoder, weights, download=True))
except MilpathError as error:
    print(f"{type(error).__name__}: {error}")
"""


def locate_in_child(
    environment: dict[str, str], *, prelude: str = "", weights: str = "", **fields: Any
) -> str:
    """Locate weights in a process; return the path, or the class of the error and its text.

    `prelude` is code that runs before, and `fields` are the encoder's.
    """
    encoder = {
        "name": "encoder-1", "repository": "publisher/encoder", "revision": REVISION,
        "file": "model.safetensors", "sha256": None, "gate": "terms",
    } | fields  # fmt: skip
    done = run_child(prelude + LOCATE, environment, json.dumps(encoder), weights)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", done.stderr
    return done.stdout.strip()
