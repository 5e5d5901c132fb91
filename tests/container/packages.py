"""A private index of packages: wheels behind a password, on this machine."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import secrets
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.container.debian import BASE, CACHE, run
from tlserve.container.context import lock
from tlserve.container.index import from_machine

LOCKS = ("cpu", "openvino", "sbom")


def wheels(environment: Mapping[str, str], scratch: Path) -> Path:
    """Give the folder of all wheels that the image is made of, got by the base's own pip."""
    texts = [lock(name) for name in LOCKS]
    folder = CACHE / f"wheels-{hashlib.sha256(''.join(texts).encode()).hexdigest()[:12]}"
    if folder.is_dir():
        return folder
    part, mounted = folder.with_suffix(".part"), scratch / "secrets"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    mounted.mkdir()
    for name, path in from_machine(os.environ).secrets(mounted):
        place = mounted / {"pip": "pip.conf", "ca": "ca.pem"}[name]
        if path != place:
            shutil.copyfile(path, place)
    container = run(["buildah", "from", BASE], environment)
    for name, text in zip(LOCKS, texts, strict=True):
        (mounted / f"{name}.txt").write_text(text, "utf-8")
        volumes = [f"{mounted}:/run/secrets:ro", f"{part}:/wheels"]
        pip = "python3 -m pip download --require-hashes --no-deps --only-binary :all: --quiet"
        command = (
            f"PIP_CONFIG_FILE=/run/secrets/pip.conf {pip} -d /wheels -r /run/secrets/{name}.txt"
        )
        options = [option for volume in volumes for option in ("--volume", volume)]
        run(["buildah", "run", *options, container, "--", "sh", "-c", command], environment)
    run(["buildah", "rm", container], environment)
    part.rename(folder)
    return folder


@dataclass
class PrivateIndex:
    """An index that asks for a name and a password.

    Attributes:
        port: Of this machine's loopback.
        password: Of the user ``builder``.
        taken: The wheels that were fetched.
    """

    port: int = 0
    password: str = field(default_factory=lambda: secrets.token_hex(16))
    taken: set[str] = field(default_factory=set)

    @property
    def traces(self) -> Sequence[bytes]:
        """What must not be found in an image."""
        return (self.password.encode(), f"127.0.0.1:{self.port}".encode())

    def pip_config(self, path: Path) -> Path:
        """Write a configuration of pip that uses it."""
        url = f"http://builder:{self.password}@127.0.0.1:{self.port}/simple"
        path.write_text(f"[global]\nindex-url = {url}\n", "utf-8")
        return path


@contextmanager
def serving(folder: Path) -> Iterator[PrivateIndex]:
    """Serve the wheels of a folder, as PEP 503 says."""
    index = PrivateIndex()
    projects: dict[str, list[str]] = {}
    for wheel in folder.glob("*.whl"):
        name = re.sub(r"[-_.]+", "-", wheel.name.partition("-")[0]).lower()
        projects.setdefault(name, []).append(wheel.name)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            given = base64.b64encode(f"builder:{index.password}".encode()).decode()
            if self.headers["Authorization"] != f"Basic {given}":
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Basic realm="packages"')
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            place = self.path.strip("/").split("/")
            if place[0] == "simple" and place[-1] in projects:
                links = (f'<a href="/files/{w}">{w}</a>' for w in projects[place[-1]])
                self._answer("text/html", "".join(links).encode())
            elif place[0] == "files" and (folder / place[-1]).is_file():
                index.taken.add(place[-1])
                self._answer("application/zip", (folder / place[-1]).read_bytes())
            else:
                self.send_error(404)

        def _answer(self, kind: str, content: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        index.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield index
        finally:
            server.shutdown()
            thread.join()
