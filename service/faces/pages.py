"""What the service says of itself: its OpenAPI document, its page for people, its metrics."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from service.faces.openapi import document
from service.guard.headers import page_policy
from service.inference.engine import Engine

# BentoML's page reports its visitors to an analytics service; this one shows the same without.
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>tlserve</title>
<link rel="stylesheet" href="./static_content/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="./static_content/swagger-ui-bundle.js"></script>
<script>
SwaggerUIBundle({url: "./openapi.json", dom_id: "#swagger-ui", validatorUrl: null});
</script>
</body>
</html>
"""
_POLICY = {"Content-Security-Policy": page_policy(_PAGE)}


async def openapi(request: Request) -> Response:
    """``GET /openapi.json``: the OpenAPI document."""
    engine: Engine = request.app.state.engine
    manifest = engine.predictor.bundle.manifest
    return JSONResponse(document(manifest.name, manifest.version, len(manifest.classes)))


async def metrics(request: Request) -> Response:
    """``GET /metrics``: for Prometheus."""
    engine: Engine = request.app.state.engine
    text, content_type = engine.metrics.exposition()
    return Response(text, headers={"Content-Type": content_type})


async def page(_: Request) -> Response:
    """``GET /``: the documentation, for people."""
    return HTMLResponse(_PAGE, headers=_POLICY)
