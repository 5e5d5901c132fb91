"""How fast the same work goes without HTTP: from an image's bytes to logits, in one process.

    python -m benchmarks.serving_ceiling BUNDLE DATA [--settings 1,2,4 2,1,8] [--alone]
        [--file NAME]

A setting is: threads of the runtime for a batch, threads that each decode and run, images in a
batch. Prints images a second of each; with --alone the milliseconds of one image at a time, by the
number of threads of the runtime. As JSON. The runtime is ONNX Runtime; of a file of OpenVINO's,
OpenVINO.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from tlserve.bundle import Bundle
from tlserve.preprocess import preprocess
from tlserve.runtime.backend import load_backend

ROOT = Path(__file__).resolve().parent.parent
TRIED = ("1,2,1", "1,2,4", "1,3,4", "1,4,2", "2,1,8", "2,2,4")
_THREADS = (1, 2)


class Ceiling:
    """The work of a server, but for the serving."""

    def __init__(self, bundle: Bundle, file: str, images: list[bytes]) -> None:
        self._bundle = bundle
        self._path = bundle.path / file
        self._spec = bundle.manifest.preprocessing
        self._images = images
        self._runs: dict[int, Callable[[NDArray[np.float32]], object]] = {}

    def rate(self, setting: str, seconds: float, warm_up: float) -> float:
        """Give images a second."""
        intra_op, workers, batch = map(int, setting.split(","))
        run = self._run_on(intra_op)
        begin = time.perf_counter() + warm_up
        end = begin + seconds
        counts = [0.0] * workers

        def work(number: int) -> None:
            # Each begins elsewhere, so that large files do not fall together.
            first = number * len(self._images) // workers
            images = itertools.islice(itertools.cycle(self._images), first, None)
            while (now := time.perf_counter()) < end:
                self._answer(run, [next(images) for _ in range(batch)])
                # What lies across an end of the window counts as far as it lies within.
                done = time.perf_counter()
                inside = min(done, end) - max(now, begin)
                counts[number] += batch * max(0.0, inside) / (done - now)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return round(sum(counts) / seconds, 2)

    def alone(self, intra_op: int, seconds: float) -> float:
        """Give the median of the milliseconds that one image takes."""
        run = self._run_on(intra_op)
        images = itertools.cycle(self._images)
        found = []
        end = time.perf_counter() + seconds
        while (started := time.perf_counter()) < end:
            self._answer(run, [next(images)])
            found.append(time.perf_counter() - started)
        return round(median(found) * 1000, 3)

    def _answer(self, run: Callable[[NDArray[np.float32]], object], images: list[bytes]) -> None:
        run(np.stack([preprocess(data, self._spec) for data in images]))

    def _run_on(self, intra_op: int) -> Callable[[NDArray[np.float32]], object]:
        if intra_op not in self._runs:
            load = self._openvino if self._path.suffix == ".xml" else self._onnx
            self._runs[intra_op] = load(intra_op)
        return self._runs[intra_op]

    def _onnx(self, intra_op: int) -> Callable[[NDArray[np.float32]], object]:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = intra_op
        session = onnxruntime.InferenceSession(
            self._path, options, providers=["CPUExecutionProvider"]
        )
        name = session.get_inputs()[0].name
        return lambda batch: session.run(None, {name: batch})

    def _openvino(self, intra_op: int) -> Callable[[NDArray[np.float32]], object]:
        return load_backend(self._bundle, "openvino-bf16", threads=intra_op).logits


def ask(bundle: Path, data: Path, *options: str) -> dict[str, float]:
    """Measure in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.serving_ceiling", str(bundle), str(data), *options]
    output = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(output.stdout)
    return found


def _main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--settings", nargs="*", default=TRIED)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--warm-up", type=float, default=0.5)
    parser.add_argument("--alone", action="store_true")
    parser.add_argument("--file", default="model.onnx", help="the bundle's file to run")
    options = parser.parse_args()
    images = [file.read_bytes() for file in sorted(options.data.rglob("*.jpg"))]
    # As the load generator does: in order, large files lie together.
    random.Random(0).shuffle(images)  # noqa: S311
    ceiling = Ceiling(Bundle.read(options.bundle), options.file, images)
    if options.alone:
        found = {str(n): ceiling.alone(n, options.seconds) for n in _THREADS}
    else:
        found = {s: ceiling.rate(s, options.seconds, options.warm_up) for s in options.settings}
    print(json.dumps(found))


if __name__ == "__main__":
    _main()
