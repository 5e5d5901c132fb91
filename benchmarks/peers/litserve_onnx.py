"""LitServe and ONNX Runtime, in batches.

python -m benchmarks.peers.litserve_onnx BUNDLE --port 8000 [--threads 2] [--max-batch 8]
"""

# No `from __future__ import annotations`: LitServe reads the type of `request` as it stands.
import argparse
from pathlib import Path

import litserve
import numpy as np
from fastapi import UploadFile

from benchmarks.peers.bundle import Array, numpy_preprocessing, onnx_probabilities, read


class Classifier(litserve.LitAPI):  # type: ignore[misc]
    """What LitServe calls, in a process beside that of the HTTP server."""

    def __init__(self, bundle: Path, threads: int, max_batch: int, batch_timeout: float) -> None:
        super().__init__(max_batch_size=max_batch, batch_timeout=batch_timeout)
        self._bundle = bundle
        self._threads = threads

    def setup(self, _device: str) -> None:
        """Load the model."""
        self._model = read(self._bundle)
        self._preprocess = numpy_preprocessing(self._model)
        self._probabilities = onnx_probabilities(self._model, self._threads)

    def decode_request(self, request: UploadFile) -> Array:
        """Make the network's input."""
        return self._preprocess(request.file.read())

    def batch(self, inputs: list[Array]) -> Array:
        """Put inputs together."""
        return np.stack(inputs)

    def predict(self, x: Array) -> Array:
        """Run the network on a batch, or, where batches are of one, on an input."""
        return self._probabilities(x) if x.ndim == 4 else self._probabilities(x[None])[0]

    def encode_response(self, output: Array) -> dict[str, str | float]:
        """Make the answer."""
        return self._model.answer(output)


def _main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--max-batch", type=int, default=8)
    parser.add_argument("--batch-timeout", type=float, default=0.005)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    api = Classifier(options.bundle, options.threads, options.max_batch, options.batch_timeout)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=options.workers)
    server.run(host="127.0.0.1", port=options.port, generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    _main()
