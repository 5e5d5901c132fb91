"""The whole way on scikit-learn's bundled digits: folder, fine-tune, export, verify, serve, query.

Run it with ``make demo``. It needs no internet: where pretrained weights cannot be downloaded it
says so and starts from random ones. What it writes lies in a temporary folder that it removes.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from statistics import median

import httpx
from PIL import Image
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits

ARCH = "resnet18"
SIDE = 48
READY_WITHIN = 60.0
WANTED_ACCURACY = 0.97
console = Console(highlight=False, soft_wrap=True)


def write_digits(root: Path) -> int:
    """Write the 1,797 digits as an ImageFolder of PNG files; return how many."""
    digits = load_digits()
    for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        folder = root / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        grey = (pixels * (255 / 16)).round().astype("uint8")
        Image.fromarray(grey).convert("RGB").save(folder / f"{number:04}.png")
    return len(digits.images)


def run(*arguments: str) -> None:
    """Run a tlserve command and show it; end the demo if it fails."""
    console.print(f"\n[bold]$ tlserve {' '.join(arguments)}[/]")
    result = subprocess.run([sys.executable, "-m", "tlserve", *arguments], check=False)
    if result.returncode != 0:
        sys.exit(result.returncode)


def weights_option() -> str:
    """Choose pretrained weights where they can be had, random ones where they cannot."""
    from tlserve.errors import WeightsError
    from tlserve.zoo.weights import load_pretrained

    console.print(f"\nFetching pretrained weights for {ARCH} …")
    try:
        load_pretrained(ARCH, "DEFAULT")
    except WeightsError as error:
        console.print(f"[yellow]{error.message}[/] Starting from random weights.")
        return "none"
    return "DEFAULT"


def free_port() -> int:
    """Find a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until_ready(url: str, server: subprocess.Popen[bytes]) -> None:
    """Poll the readiness probe."""
    deadline = time.monotonic() + READY_WITHIN
    while time.monotonic() < deadline:
        if server.poll() is not None:
            sys.exit(server.returncode or 1)
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=2):  # noqa: S310 - our own server
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.1)
    sys.exit(f"The service was not ready within {READY_WITHIN:.0f} s.")


def query(url: str, images: list[Path]) -> int:
    """Post images, print the answers as a table; return how many were right."""
    grid = Table(title="POST /predict", title_justify="left", title_style="bold")
    for column in ("image", "truth", "answer", "probability", "next", "ms"):
        grid.add_column(column)
    right, latencies = 0, []
    with httpx.Client(base_url=url) as client:
        for path in images:
            started = time.perf_counter()
            response = client.post(
                "/predict", params={"top_k": 2}, files={"image": (path.name, path.read_bytes())}
            )
            latencies.append(1000 * (time.perf_counter() - started))
            response.raise_for_status()
            first, second = response.json()["predictions"]
            right += first["label"] == path.parent.name
            grid.add_row(
                path.name,
                path.parent.name,
                first["label"],
                f"{first['probability']:.1%}",
                f"{second['label']} {second['probability']:.1%}",
                f"{latencies[-1]:.1f}",
            )
    console.print(grid, soft_wrap=False)
    console.print(f"{right} of {len(images)} right, median latency {median(latencies):.1f} ms")
    return right


def main() -> None:
    """Run the demo."""
    from tlserve.bundle import Bundle
    from tlserve.data.split import read_part

    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tlserve-demo-") as folder:
        home = Path(folder)
        data, models = home / "digits", home / "models"
        bundle = models / "digits"
        count = write_digits(data)
        console.print(f"Wrote {count} PNG files, one folder a digit, to {data}")
        run(
            *("finetune", str(data), "--arch", ARCH, "--weights", weights_option()),
            *("--strategy", "full", "--lr", "1e-3", "--epochs", "8", "--image-size", str(SIDE)),
            *("--no-flip", "--min-scale", "0.7", "--batch-size", "64", "--name", "digits"),
            *("--output", str(models), "--runs", str(home / "runs")),
        )
        accuracy = Bundle.read(bundle).manifest.metrics.val_accuracy
        run("export", str(bundle), "--onnx", "--torchscript")
        run("verify", str(bundle))

        port = free_port()
        url = f"http://127.0.0.1:{port}"
        console.print(f"\n[bold]$ tlserve serve {bundle} --port {port}[/]")
        server = subprocess.Popen(
            [sys.executable, "-m", "tlserve", "serve", str(bundle), "--port", str(port)]
        )
        try:
            wait_until_ready(url, server)
            samples, _ = read_part(bundle / "split.json", "val")
            query(url, [data / s.path for s in samples[:: len(samples) // 10][:10]])
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(timeout=30)
        console.print(f"Service stopped. The demo took {time.monotonic() - started:.0f} s.")
        if accuracy < WANTED_ACCURACY:
            sys.exit(f"The accuracy is {accuracy:.3f}; at least {WANTED_ACCURACY} was expected.")


if __name__ == "__main__":
    main()
