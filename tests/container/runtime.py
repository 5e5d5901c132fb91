"""Running an image with runc, the runtime of Docker and Kubernetes, locked as the documents say."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.container.debian import run

_START_SECONDS = 60
_HOST_CGROUPS = "/sys/fs/cgroup"


@dataclass(frozen=True)
class Root:
    """An image's files and configuration, as they were stored.

    Attributes:
        path: Its file system.
        config: What it says of user, command, variables, labels.
    """

    path: Path
    config: dict[str, Any]


@dataclass
class Container:
    """A running one."""

    name: str
    state: Path
    process: subprocess.Popen[str]
    port: int
    seconds: float = 0.0
    log: list[str] = field(default_factory=list)

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=60, trust_env=False)

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in it, as its user."""
        return subprocess.run(
            ["runc", "--root", self.state, "exec", self.name, *command],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def python(self, program: str) -> str:
        done = self.execute("/opt/venv/bin/python", "-c", program)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def terminate(self) -> int:
        """Send SIGTERM, as `docker stop` does, and give the exit code."""
        run(["runc", "--root", self.state, "kill", self.name, signal.SIGTERM.name])
        return self.process.wait(60)


def specification(root: Root, environment: Mapping[str, str], folder: Path) -> None:
    """Write what `docker run --read-only --tmpfs /tmp --cap-drop ALL …` tells the runtime."""
    run(["runc", "spec", "--bundle", folder])
    path = folder / "config.json"
    spec: dict[str, Any] = json.loads(path.read_text("utf-8"))
    user, _, group = root.config["User"].partition(":")
    given = [f"{name}={value}" for name, value in environment.items()]
    spec["process"] |= {
        "terminal": False,
        "user": {"uid": int(user), "gid": int(group)},
        "args": [*root.config["Entrypoint"], *root.config["Cmd"]],
        "env": [*root.config["Env"], *given],
        "cwd": root.config["WorkingDir"] or "/",
        "capabilities": {kind: [] for kind in spec["process"]["capabilities"]},
        "noNewPrivileges": True,
        "rlimits": [],
    }
    spec["root"] = {"path": str(root.path), "readonly": True}
    options = ["nosuid", "nodev", "noexec", "mode=1777", "size=64m"]
    temporary = {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": options}
    mounts = [m for m in spec["mounts"] if m["destination"] != _HOST_CGROUPS]
    spec["mounts"] = [*mounts, temporary]
    # The host's network, for there is no daemon to make another.
    namespaces = [n for n in spec["linux"]["namespaces"] if n["type"] not in ("network", "cgroup")]
    spec["linux"]["namespaces"] = namespaces
    spec["linux"].pop("resources", None)
    path.write_text(json.dumps(spec), "utf-8")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def running(
    root: Root, folder: Path, environment: Mapping[str, str] | None = None
) -> Iterator[Container]:
    """Start the image's own command; the block begins when it says that it is ready."""
    bundle, state, port = folder / "bundle", folder / "state", free_port()
    bundle.mkdir(parents=True)
    specification(root, {"TLSERVE_HTTP_PORT": str(port), **(environment or {})}, bundle)
    name = f"tlserve-test-{os.getpid()}-{port}"
    started = time.perf_counter()
    process = subprocess.Popen(
        ["runc", "--root", state, "run", "--bundle", bundle, name],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    container = Container(name, state, process, port)
    errors = process.stderr
    reader = threading.Thread(target=lambda: container.log.extend(errors))
    reader.start()
    # A start that hangs ends here, and the empty line below fails the test.
    watchdog = threading.Timer(_START_SECONDS, process.kill)
    watchdog.start()
    try:
        line = process.stdout.readline()
        watchdog.cancel()
        container.seconds = time.perf_counter() - started
        assert "is ready" in line, f"{line}{''.join(container.log)}"
        yield container
    finally:
        watchdog.cancel()
        if process.poll() is None:
            subprocess.run(["runc", "--root", state, "kill", name, "KILL"], check=False)
        process.wait(60)
        reader.join()
        process.stdout.close()
        process.stderr.close()
