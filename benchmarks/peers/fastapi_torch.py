"""FastAPI and torch in eager mode: an image a request, in FastAPI's pool of threads.

OMP_NUM_THREADS=1 python -m benchmarks.peers.fastapi_torch BUNDLE --port 8000
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Annotated

import torch
import uvicorn
from fastapi import Depends, FastAPI, Request
from PIL import Image

from benchmarks.peers.bundle import read, torch_network, torch_transforms


async def _body(request: Request) -> bytes:
    data: bytes = await request.body()
    return data


def build(bundle: Path) -> FastAPI:
    """Build the application."""
    model = read(bundle)
    network = torch_network(model)
    transforms = torch_transforms(model)
    app = FastAPI()

    def predict(data: Annotated[bytes, Depends(_body)]) -> dict[str, str | float]:
        image = Image.open(io.BytesIO(data)).convert("RGB")
        with torch.inference_mode():
            (found,) = network(transforms(image)[None]).softmax(1)
        return model.answer(found)

    app.post("/predict")(predict)
    return app


def _main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    uvicorn.run(build(options.bundle), host="127.0.0.1", port=options.port, log_level="warning")


if __name__ == "__main__":
    _main()
