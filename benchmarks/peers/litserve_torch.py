"""LitServe and torch in eager mode, in batches.

OMP_NUM_THREADS=2 python -m benchmarks.peers.litserve_torch BUNDLE --port 8000 [--max-batch 8]
"""

# No `from __future__ import annotations`: LitServe reads the type of `request` as it stands.
import argparse
from pathlib import Path

import litserve
import torch
from fastapi import UploadFile
from PIL import Image

from benchmarks.peers.bundle import read, torch_network, torch_transforms


class Classifier(litserve.LitAPI):  # type: ignore[misc]
    """What LitServe calls, in a process beside that of the HTTP server."""

    def __init__(self, bundle: Path, max_batch: int, batch_timeout: float) -> None:
        super().__init__(max_batch_size=max_batch, batch_timeout=batch_timeout)
        self._bundle = bundle

    def setup(self, device: str) -> None:
        """Load the model."""
        self._model = read(self._bundle)
        self._network = torch_network(self._model).to(device)
        self._transforms = torch_transforms(self._model)

    def decode_request(self, request: UploadFile) -> torch.Tensor:
        """Make the network's input."""
        return self._transforms(Image.open(request.file).convert("RGB"))

    def predict(self, x: torch.Tensor) -> torch.Tensor:
        """Run the network on a batch, or, where batches are of one, on an input."""
        with torch.inference_mode():
            found: torch.Tensor = self._network(x if x.ndim == 4 else x[None]).softmax(1)
        return found if x.ndim == 4 else found[0]

    def encode_response(self, output: torch.Tensor) -> dict[str, str | float]:
        """Make the answer."""
        return self._model.answer(output)


def _main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--max-batch", type=int, default=8)
    parser.add_argument("--batch-timeout", type=float, default=0.005)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    api = Classifier(options.bundle, options.max_batch, options.batch_timeout)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=options.workers)
    server.run(host="127.0.0.1", port=options.port, generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    _main()
