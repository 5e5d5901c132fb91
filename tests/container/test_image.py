"""The CPU image: built without a daemon, run as the documents say, and searched."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.container.conftest import Built, Workshop
from tests.container.debian import BASE
from tests.container.runtime import Container, Root, running
from tlserve.bundle import Bundle
from tlserve.container.builders import BUILDERS, inspect
from tlserve.errors import ExportError

pytestmark = [pytest.mark.container, pytest.mark.timeout(1800)]

_MOST_BYTES = 350_000_000
"""Of the image, beyond its base."""

_BUILD_TOOLS = re.compile(r"(pip|easy_install|gcc|cc|g\+\+|c\+\+|clang|ld|make|uv)[-0-9.]*")


def test_it_is_small_and_starts_soon(
    workshop: Workshop, root: Root, built: Built, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layers = workshop.layer_sizes(built.tag)
    beyond = sum(layers) - sum(workshop.layer_sizes(BASE))
    with running(root, tmp_path) as container:
        seconds = container.seconds
    with capsys.disabled():
        print(f"\nimage: {beyond / 1e6:.0f} MB beyond its base, ready in {seconds:.1f} s")  # noqa: T201
    assert beyond < _MOST_BYTES
    assert built.report["image"]["bytes"] == sum(layers)


def test_it_answers_photographs_as_predict_does(
    container: Container, exported: Path, photographs: list[Path]
) -> None:
    some = photographs[::10]
    lines = subprocess.run(
        [sys.executable, "-m", "tlserve", "predict", str(exported), *map(str, some), "--json"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    expected = [json.loads(line)["predictions"] for line in lines]
    with container.client() as client:
        for photograph, predictions in zip(some, expected, strict=True):
            answer = client.post("/predict", files={"image": photograph.read_bytes()}).json()
            found = {p["label"]: p["probability"] for p in answer["predictions"]}
            assert found == pytest.approx({p["label"]: p["probability"] for p in predictions}, 1e-5)
        assert client.get("/model").json()["backend"] == "onnx"


def test_it_runs_without_rights(container: Container, root: Root) -> None:
    assert root.config["User"] == "10001:10001"
    status = dict(
        line.split(":\t", 1)
        for line in container.python("print(open('/proc/1/status').read())").splitlines()
        if ":\t" in line
    )
    assert status["Uid"].split() == status["Gid"].split() == ["10001"] * 4
    assert status["NoNewPrivs"] == "1"
    kinds = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
    assert {int(status[kind], 16) for kind in kinds} == {0}


def test_nothing_but_tmp_can_be_written(container: Container, root: Root) -> None:
    tried = container.python(
        "import errno\n"
        "for place in ('/x', '/opt/bento/x', '/opt/venv/x', '/etc/x', '/tmp/x'):\n"
        "    try:\n"
        "        open(place, 'w').close()\n"
        "    except OSError as error:\n"
        "        print(place, errno.errorcode[error.errno])\n"
    )
    assert tried.splitlines() == [
        f"{p} EROFS" for p in ("/x", "/opt/bento/x", "/opt/venv/x", "/etc/x")
    ]
    # Where the file system is not read-only, it is the owners that hinder.
    for folder in (root.path / "opt/venv", root.path / "opt/bento"):
        for path in [folder, *folder.rglob("*")]:
            found = path.lstat()
            assert found.st_uid == found.st_gid == 0, path
            assert path.is_symlink() or not found.st_mode & 0o022, path
            assert path.is_symlink() or found.st_mode & 0o004, path


def test_a_start_compiles_nothing(container: Container) -> None:
    program = (
        "import os, sys, service.main, tlserve.cli.serve\n"
        "found = [m.__cached__ for m in sys.modules.values() if getattr(m, '__cached__', None)]\n"
        "print(len(found), [path for path in found if not os.path.exists(path)])"
    )
    count, missing = container.python(program).split(" ", 1)
    assert int(count) > 500
    assert missing == "[]"


def test_there_is_nothing_to_build_or_install_with(container: Container, root: Root) -> None:
    program = "import importlib.util as u; print([n for n in {} if u.find_spec(n)])"
    absent = ["torch", "torchvision", "safetensors", "onnx", "pip", "setuptools", "ensurepip"]
    assert container.python(program.format(absent)) == "[]"
    assert container.python(program.format(["onnxruntime", "bentoml"])) != "[]"
    folders = [root.path / part for part in ("usr/bin", "usr/local/bin", "opt/venv/bin")]
    tools = [p for f in folders for p in f.iterdir() if _BUILD_TOOLS.fullmatch(p.name)]
    assert tools == []
    for place in ("usr/lib", "usr/local/lib", "opt"):
        assert [*(root.path / place).rglob("pip/__init__.py")] == []


def test_only_what_it_runs_of_the_bundle_is_in_it(root: Root, exported: Path) -> None:
    inside = Bundle.read(root.path / "opt/bento/model")
    inside.verify()
    assert {name for name in inside.manifest.files if name.startswith("model")} == {"model.onnx"}
    names = {path.name for path in inside.path.rglob("*")}
    assert not names & {"weights.safetensors", "split.json", "model.pt2"}
    assert inside.manifest.version == Bundle.read(exported).manifest.version


def test_no_layer_says_where_packages_came_from(
    workshop: Workshop, built: Built, tmp_path: Path
) -> None:
    assert {name.split("-")[0] for name in workshop.index.taken} >= {"bentoml", "onnxruntime"}
    workshop.buildah("push", "--disable-compression", built.tag, f"dir:{tmp_path}")
    searched = 0
    for blob in tmp_path.iterdir():
        if not tarfile.is_tarfile(blob):
            # The configuration, with the history of its making.
            _has_no_trace(workshop, blob.read_bytes(), blob.name)
            continue
        with tarfile.open(blob) as layer:
            for member in layer:
                _has_no_trace(workshop, member.name.encode(), member.name)
                file = layer.extractfile(member) if member.isfile() else None
                if file is not None:
                    _has_no_trace(workshop, file.read(), member.name)
                    searched += 1
    assert searched > 3000
    for path in built.context.rglob("*"):
        if path.is_file():
            _has_no_trace(workshop, path.read_bytes(), path.name)
    _has_no_trace(workshop, built.log.encode(), "the log")


def test_what_it_says_of_itself(root: Root, built: Built, exported: Path) -> None:
    bundle = Bundle.read(exported)
    said = root.config["Labels"]
    expected = {
        "org.opencontainers.image.title": "colours",
        "org.opencontainers.image.version": bundle.manifest.version,
        "org.opencontainers.image.created": "2023-11-14T22:13:20Z",
        "org.opencontainers.image.base.name": BASE,
        "org.opencontainers.image.revision": "0123abc",
        "tlserve.bundle.sha256": hashlib.sha256(
            (exported / "bundle.json").read_bytes()
        ).hexdigest(),
        "tlserve.model.architecture": bundle.manifest.architecture,
        "tlserve.flavour": "cpu",
        "tlserve.backend": "onnx",
    }
    assert said.items() >= expected.items()
    assert built.report["labels"].items() <= said.items()
    assert root.config["ExposedPorts"] == {"3000/tcp": {}}
    assert root.config["Entrypoint"][0] == "/opt/venv/bin/python"
    assert root.config["StopSignal"] == "SIGTERM"


def test_podman_describes_it_as_buildah_does(workshop: Workshop, built: Built) -> None:
    if not shutil.which("podman"):
        pytest.skip("needs podman, too")
    environment = {**os.environ, **workshop.environment}
    found = inspect(BUILDERS["podman"], built.tag, environment)
    assert found["Config"]["User"] == "10001:10001"
    assert abs(found["Size"] - built.report["image"]["bytes"]) < 1_000_000


def test_an_image_that_is_not_there_is_said(workshop: Workshop) -> None:
    environment = {**os.environ, **workshop.environment}
    with pytest.raises(ExportError, match="buildah does not know the image localhost/nobody"):
        inspect(BUILDERS["buildah"], "localhost/nobody", environment)


def test_its_health_check_is_the_service_s_word(container: Container, root: Root) -> None:
    kind, *command = root.config["Healthcheck"]["Test"]
    assert kind == "CMD"
    healthy = container.execute(*command)
    assert (healthy.returncode, healthy.stdout) == (0, "ready")
    other = container.execute("/usr/bin/env", "TLSERVE_HTTP_PORT=1", *command)
    assert other.returncode == 1
    assert "does not answer on port 1" in other.stdout


def test_keys_come_by_the_environment(root: Root, tmp_path: Path) -> None:
    line = f"phone:{hashlib.sha256(b'tlserve_a').hexdigest()}"
    with (
        running(root, tmp_path, {"TLSERVE_API_KEYS": line}) as container,
        container.client() as client,
    ):
        assert client.get("/model").status_code == 401
        assert client.get("/model", headers={"X-API-Key": "tlserve_a"}).status_code == 200
        assert client.get("/readyz").status_code == 200
    assert not any("no API keys" in line for line in container.log)


def test_sigterm_finishes_what_was_begun(
    root: Root, tmp_path: Path, photographs: list[Path]
) -> None:
    image = photographs[0].read_bytes()
    with running(root, tmp_path) as container:
        head = (
            f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\n"
            f"Content-Length: {len(image)}\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", container.port), timeout=30) as connection:
            connection.sendall(head.encode() + image[:100])
            with container.client() as client:
                # Its answer comes after the begun request was read.
                assert client.get("/readyz").status_code == 200
            ending = subprocess.Popen(
                ["runc", "--root", container.state, "kill", container.name, "TERM"]
            )
            ending.wait(30)
            connection.sendall(image[100:])
            answer = connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 200")
        assert container.process.wait(60) == 0


def test_the_list_of_packages_is_what_is_installed(root: Root, built: Built) -> None:
    listed = json.loads((built.context / "sbom.cdx.json").read_text("utf-8"))
    assert (listed["bomFormat"], listed["specVersion"]) == ("CycloneDX", "1.6")
    found = {(c["name"].lower(), c["version"]) for c in listed["components"]}
    (site,) = (root.path / "opt/venv/lib").glob("python3*/site-packages")
    installed = importlib.metadata.distributions(path=[str(site), str(root.path / "opt/bento")])
    assert found == {(d.name.lower(), d.version) for d in installed}
    assert "onnxruntime" in {name for name, _ in found}
    assert not [*root.path.rglob("sbom.cdx.json")]


def _has_no_trace(workshop: Workshop, content: bytes, where: str) -> None:
    for trace in workshop.index.traces:
        assert trace not in content, where
