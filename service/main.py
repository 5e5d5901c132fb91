"""The BentoML service.

``tlserve serve`` starts it. So does BentoML itself::

    TLSERVE_BUNDLE=models/<name> bentoml serve service.main:TlserveService
"""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any, cast

import bentoml
from PIL import Image

from service import channel
from service.faces.app import build_app
from service.faces.front import Front
from service.guard.middleware import Guard
from service.inference.engine import Engine
from service.observe import logs, tracing
from service.observe.metrics import Metrics
from service.observe.middleware import Observed
from service.observe.snapshots import Snapshots
from service.settings import Settings
from tlserve.errors import TlserveError

app = build_app()


def _metrics() -> Metrics | None:
    engine: Engine | None = getattr(app.state, "engine", None)
    return engine.metrics if engine is not None else None


@bentoml.service(
    name="tlserve",
    workers=1,
    # The routes give up earlier, with a problem document.
    traffic={"timeout": 60},
    logging={"access": {"enabled": False}},
    # It keeps twenty series for every path that anyone ever asked for, and so grows without limit;
    # the routes have a /metrics of their own.
    metrics={"enabled": False},
    # It makes spans for every request even where nobody asked for traces, which takes a quarter of
    # a millisecond; service.observe.tracing makes ours.
    tracing={"excluded_urls": ".*"},
)
class TlserveService:
    """Classifies images with the model of one bundle."""

    def __init__(self) -> None:
        self._engine: Engine | None = None

    @bentoml.on_startup  # type: ignore[untyped-decorator]
    def start(self) -> None:
        """Load the model; the process takes no request before this has returned."""
        # Pillow warns of images that the decoding rules refuse with a clear error of their own.
        warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
        supervisor = channel.worker_end(os.environ)
        if supervisor is not None:
            channel.end_with(supervisor)
        try:
            settings = Settings.from_environment(os.environ)
            logs.set_up(settings.log_format, access=settings.access_log)
            tracing.start(os.environ)
            self._engine = Engine.start(settings)
        except TlserveError as error:
            if supervisor is None:
                raise
            channel.say_failed(supervisor, error)
            # Raising would bury the message under the tracebacks of three servers.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(error.exit_code)
        if snapshots := Snapshots.of(os.environ):
            self._engine.metrics.share(snapshots)
        app.state.engine = self._engine
        if supervisor is not None:
            channel.say_ready(supervisor, self._engine.predictor.backend.device)

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    def stop(self) -> None:
        """Finish what was accepted."""
        if self._engine is not None:
            self._engine.stop()
        tracing.stop()

    async def __is_ready__(self) -> bool:
        """Answer ``/readyz``."""
        return self._engine is not None and self._engine.ready


application = cast("bentoml.Service[Any]", TlserveService)
"""What the decorators have made of the class."""
# The first of them is the outermost. However the service is started, nothing of BentoML's that
# reads a body is outside of them.
application.add_asgi_middleware(Observed, metrics=_metrics)
application.add_asgi_middleware(Guard)
application.add_asgi_middleware(Front, ours=app)
