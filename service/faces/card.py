"""``GET /model``: what is served, how it was made, within which limits, and what limits it now."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import PurePath
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from service.faces.limits import Limits
from service.inference.engine import Engine
from tlserve.bundle.manifest import Manifest
from tlserve.runtime.backend import BACKENDS

_RUNNABLE = {runnable.kind for runnable in BACKENDS.values()}


async def card(request: Request) -> Response:
    """Answer with the model's card."""
    engine: Engine = request.app.state.engine
    manifest = engine.predictor.bundle.manifest
    backend = engine.predictor.backend
    return JSONResponse(
        {
            "name": manifest.name,
            "version": manifest.version,
            "architecture": manifest.architecture,
            "classes": manifest.classes,
            "preprocessing": manifest.preprocessing.model_dump(mode="json"),
            "calibration": manifest.calibration.model_dump(mode="json"),
            "backend": backend.name,
            "device": backend.device,
            "precision": backend.precision,
            "metrics": manifest.metrics.model_dump(mode="json", exclude={"history"}),
            "files": _files(manifest),
            "provenance": _provenance(manifest),
            "limits": _limits(engine),
            "load": asdict(engine.metrics.verdict()),
        }
    )


def _files(manifest: Manifest) -> dict[str, Any]:
    """Describe the files that can be run; those that were exported have proven their parity."""
    return {
        name: {
            "kind": entry.kind,
            "precision": entry.precision,
            "sha256": entry.sha256,
            "bytes": entry.bytes,
            "parity": entry.parity.model_dump(mode="json") if entry.parity else None,
        }
        for name, entry in sorted(manifest.files.items())
        if entry.kind in _RUNNABLE
    }


def _provenance(manifest: Manifest) -> dict[str, Any]:
    """Say where the model comes from, without the folders of the machine that trained it."""
    found = manifest.provenance.model_dump(mode="json", exclude={"dataset": {"skipped"}})
    found["dataset"]["path"] = PurePath(manifest.provenance.dataset.path).name
    found["pretrained"] = PurePath(manifest.provenance.pretrained).name
    return found


def _limits(engine: Engine) -> dict[str, int]:
    limits = Limits.of(engine.settings)
    return {
        "image_bytes": limits.image_bytes,
        "image_pixels": engine.predictor.bundle.manifest.preprocessing.decoding.max_pixels,
        "images": limits.images,
        "request_bytes": limits.total_bytes,
        "queue": engine.settings.max_queue,
    }
