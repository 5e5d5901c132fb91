"""What the protocol asks of a server and its models, beside answers."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from service.faces import problems
from service.faces.problems import Problem
from service.faces.v2.tensors import IMAGE, INPUT, LABEL, PROBABILITIES
from service.inference.engine import Engine
from tlserve import __version__

EXTENSIONS = ["binary_tensor_data", "classification"]


async def server(_: Request) -> Response:
    """``GET /v2``: which server this is."""
    return JSONResponse({"name": "tlserve", "version": __version__, "extensions": EXTENSIONS})


async def live(_: Request) -> Response:
    """``GET /v2/health/live``."""
    return JSONResponse({"live": True})


async def ready(request: Request) -> Response:
    """``GET /v2/health/ready``."""
    engine: Engine = request.app.state.engine
    return _readiness({}, engine)


async def model_ready(request: Request) -> Response:
    """``GET /v2/models/{name}/ready``, and of a version."""
    engine: Engine = request.app.state.engine
    must_be_served(request, engine)
    return _readiness({"name": engine.predictor.bundle.manifest.name}, engine)


async def model(request: Request) -> Response:
    """``GET /v2/models/{name}``, and of a version: inputs and outputs."""
    engine: Engine = request.app.state.engine
    must_be_served(request, engine)
    manifest = engine.predictor.bundle.manifest
    return JSONResponse(
        {
            "name": manifest.name,
            "versions": [manifest.version],
            "platform": f"tlserve_{engine.predictor.backend.name}",
            "inputs": [
                _tensor(IMAGE, "BYTES", -1),
                _tensor(INPUT, "FP32", -1, 3, *manifest.preprocessing.crop),
            ],
            "outputs": [
                _tensor(PROBABILITIES, "FP32", -1, len(manifest.classes)),
                _tensor(LABEL, "BYTES", -1),
            ],
        }
    )


def must_be_served(request: Request, engine: Engine) -> None:
    """Compare the model in the path with the one that is served.

    Raises:
        Problem: It is another one.
    """
    manifest = engine.predictor.bundle.manifest
    name, version = request.path_params["name"], request.path_params.get("version")
    if name != manifest.name or version not in (None, manifest.version):
        asked = repr(name) if version is None else f"{name!r}, version {version!r}"
        raise Problem(
            problems.NO_SUCH_MODEL,
            f"The model {asked} is not served here.",
            hint=f"There is {manifest.name!r}, version {manifest.version!r}.",
        )


def _tensor(name: str, datatype: str, *shape: int) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape}


def _readiness(members: dict[str, Any], engine: Engine) -> Response:
    return JSONResponse({**members, "ready": engine.ready}, 200 if engine.ready else 503)
