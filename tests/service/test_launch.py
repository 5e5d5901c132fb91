from __future__ import annotations

import os
import re
import signal
import socket
import time
from pathlib import Path

import psutil
import pytest

from tests.service import bundle as bundles
from tests.service.server import Server, failing, running
from tlserve.bundle import Bundle

BLOCK_TORCH = """
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "safetensors"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NoTorch())
"""


def torchless(folder: Path) -> dict[str, str]:
    """The environment of a machine where torch is not installed."""
    (folder / "sitecustomize.py").write_text(BLOCK_TORCH)
    before = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": os.pathsep.join([str(folder), *([before] if before else [])])}


def test_it_says_what_is_ready_and_ends_without_a_trace(bundle: Bundle, tmp_path: Path) -> None:
    with running(bundle.path, environment={"TMPDIR": str(tmp_path)}) as server:
        version = bundle.manifest.version
        assert re.fullmatch(
            rf"insects {version} is ready on http://127\.0\.0\.1:\d+ \(onnx on cpu\) "
            r"in \d+\.\d s\n",
            server.ready_line,
        )
        children = server.children()
        assert children
        with server.client() as client:
            assert client.get("/readyz").status_code == 200
        assert server.end() == 0
    assert server.log == []
    assert not any(child.is_running() for child in children)
    assert list(tmp_path.iterdir()) == []


def test_a_request_that_was_begun_is_finished_and_new_ones_are_refused(bundle: Bundle) -> None:
    image = bundles.image(0)
    head = f"POST /predict HTTP/1.1\r\nHost: here\r\nContent-Length: {len(image)}\r\n\r\n".encode()
    with running(bundle.path) as server, server.client() as client:
        address = (client.base_url.host, client.base_url.port or 0)
        with socket.create_connection(address, timeout=30) as begun:
            begun.sendall(head + image[:100])
            # Answered on another connection: the one above was accepted before it.
            assert client.get("/livez").status_code == 200
            server.process.send_signal(signal.SIGINT)
            assert refused_within(address, 10)
            begun.sendall(image[100:])
            assert begun.recv(65536).startswith(b"HTTP/1.1 200 OK")
        assert server.process.wait(30) == 0


def test_a_service_module_of_the_user_is_not_taken_for_ours(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "service.py").write_text("raise SystemExit('the wrong service')")
    with (
        running(bundle.path, directory=tmp_path) as server,
        server.client() as client,
    ):
        assert client.get("/readyz").status_code == 200


def test_it_runs_where_torch_is_not_installed(bundle: Bundle, tmp_path: Path) -> None:
    environment = torchless(tmp_path)
    with running(bundle.path, environment=environment) as server, server.client() as client:
        assert client.post("/predict", content=bundles.image(0)).status_code == 200
    failed = failing(bundle.path, "--port", "0", "--backend", "eager", environment=environment)
    assert failed.returncode == 1
    assert "'eager' needs the library 'torch'" in failed.stderr
    assert "tlserve[train]" in failed.stderr


def test_the_eager_backend_serves_too(bundle: Bundle, tmp_path: Path) -> None:
    target = tmp_path / "plain"
    bundles.write_without_onnx(bundle, target)
    failed = failing(target, "--port", "0")
    assert failed.returncode == 1
    assert f"tlserve export {target} --onnx" in failed.stderr
    with running(target, "--backend", "eager") as server, server.client() as client:
        assert "(eager on cpu)" in server.ready_line
        assert client.post("/predict", content=bundles.image(0)).status_code == 200


def test_a_model_that_answers_differently_is_not_served(bundle: Bundle, tmp_path: Path) -> None:
    bundles.write_copy(bundle, tmp_path / "other", golden_shift=0.5)
    failed = failing(tmp_path / "other", "--port", "0")
    assert failed.returncode == 1
    assert "does not answer as the trained model did" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert failed.stdout == ""


def test_a_damaged_file_is_not_served(bundle: Bundle, tmp_path: Path) -> None:
    target = tmp_path / "damaged"
    bundles.write_copy(bundle, target)
    weights = target / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.unlink()
    weights.write_bytes(data)
    failed = failing(target, "--port", "0")
    assert failed.returncode == 1
    assert "The file weights.safetensors of the bundle" in failed.stderr
    assert "Traceback" not in failed.stderr


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="there is a GPU here")
def test_a_device_that_is_not_there_is_an_error(bundle: Bundle) -> None:
    failed = failing(bundle.path, "--port", "0", "--device", "cuda")
    assert failed.returncode == 1
    assert "CUDAExecutionProvider" in failed.stderr
    assert "--device cpu" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_a_port_in_use_is_an_error_before_anything_is_loaded(bundle: Bundle) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        failed = failing(bundle.path, "--port", str(port))
    assert failed.returncode == 1
    assert f"Port {port} is in use on 127.0.0.1." in failed.stderr
    assert "--port" in failed.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--backend", "tensorflow"], "Unknown backend 'tensorflow'"),
        (["--device", "tpu"], "Unknown device 'tpu'"),
        (["--max-batch", "0"], "max-batch must be at least 1, not 0"),
        (["--host", "no.such.host.invalid"], "Unknown host 'no.such.host.invalid'"),
        (["--port", "70000"], "must be 0 to 65535, not 70000"),
    ],
)
def test_a_wrong_option_is_explained(bundle: Bundle, arguments: list[str], message: str) -> None:
    failed = failing(bundle.path, *arguments)
    assert failed.returncode == 2
    assert message in failed.stderr


def test_there_must_be_a_bundle(tmp_path: Path) -> None:
    failed = failing(tmp_path)
    assert failed.returncode == 1
    assert "There is no model bundle" in failed.stderr


def refused_within(address: tuple[str, int], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            socket.create_connection(address, timeout=seconds).close()
        except ConnectionRefusedError:
            return True
        time.sleep(0.02)
    return False


def worker_of(server: Server) -> psutil.Process:
    (worker,) = server.children()
    return worker


def gone_within(process: psutil.Process, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_a_worker_that_dies_is_replaced_and_one_left_alone_ends(
    bundle: Bundle, tmp_path: Path
) -> None:
    environment = {"TMPDIR": str(tmp_path)}
    with running(bundle.path, environment=environment) as server, server.client() as client:
        first = worker_of(server)
        os.kill(first.pid, signal.SIGKILL)
        assert gone_within(first, 10)
        # The socket stays open: this waits for the new worker instead of being refused.
        assert client.post("/predict", content=bundles.image(0)).status_code == 200
        second = worker_of(server)
        assert second.pid != first.pid
        os.kill(server.process.pid, signal.SIGKILL)
        assert gone_within(second, 20)
    assert any("SIGKILL; starting it again" in line for line in server.log)
