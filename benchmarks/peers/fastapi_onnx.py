"""FastAPI and ONNX Runtime: an image a request, in FastAPI's pool of threads.

python -m benchmarks.peers.fastapi_onnx BUNDLE --port 8000 [--threads 1]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Annotated

import uvicorn
from fastapi import Depends, FastAPI, Request

from benchmarks.peers.bundle import numpy_preprocessing, onnx_probabilities, read


async def _body(request: Request) -> bytes:
    data: bytes = await request.body()
    return data


def build(bundle: Path, threads: int) -> FastAPI:
    """Build the application."""
    model = read(bundle)
    preprocess = numpy_preprocessing(model)
    probabilities = onnx_probabilities(model, threads)
    app = FastAPI()

    # No `async`: FastAPI calls it in a thread of its pool, of which there are 40.
    def predict(data: Annotated[bytes, Depends(_body)]) -> dict[str, str | float]:
        (found,) = probabilities(preprocess(data)[None])
        return model.answer(found)

    app.post("/predict")(predict)
    return app


def _main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    app = build(options.bundle, options.threads)
    uvicorn.run(app, host="127.0.0.1", port=options.port, log_level="warning")


if __name__ == "__main__":
    _main()
