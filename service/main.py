"""The BentoML service.

``tlserve serve`` starts it. So does BentoML itself::

    TLSERVE_BUNDLE=models/<name> bentoml serve service.main:TlserveService
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from typing import Any, cast

import bentoml
from PIL import Image

from service import channel
from service.faces.app import build_app
from service.guard.middleware import Guard
from service.inference.engine import Engine
from service.settings import Settings
from tlserve.errors import TlserveError

app = build_app()


@bentoml.service(
    name="tlserve",
    workers=1,
    # The routes give up earlier, with a problem document.
    traffic={"timeout": 60},
    logging={"access": {"enabled": False}},
    # It keeps twenty series for every path that anyone ever asked for, and so grows without limit;
    # the routes have a /metrics of their own.
    metrics={"enabled": False},
)
@bentoml.asgi_app(app, path="/")
class TlserveService:
    """Classifies images with the model of one bundle."""

    def __init__(self) -> None:
        self._engine: Engine | None = None

    @bentoml.on_startup  # type: ignore[untyped-decorator]
    def start(self) -> None:
        """Load the model; the process takes no request before this has returned."""
        # BentoML's quiet mode, which the launcher sets, would silence our warnings too.
        logging.getLogger("service").setLevel(logging.WARNING)
        # Pillow warns of images that the decoding rules refuse with a clear error of their own.
        warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
        supervisor = channel.worker_end(os.environ)
        if supervisor is not None:
            channel.end_with(supervisor)
        try:
            self._engine = Engine.start(Settings.from_environment(os.environ))
        except TlserveError as error:
            if supervisor is None:
                raise
            channel.say_failed(supervisor, error)
            # Raising would bury the message under the tracebacks of three servers.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(error.exit_code)
        app.state.engine = self._engine
        if supervisor is not None:
            channel.say_ready(supervisor, self._engine.predictor.backend.device)

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    def stop(self) -> None:
        """Finish what was accepted."""
        if self._engine is not None:
            self._engine.stop()

    async def __is_ready__(self) -> bool:
        """Answer ``/readyz``."""
        return self._engine is not None and self._engine.ready


# However it is started: nothing of BentoML's that reads a body is outside of this.
application = cast("bentoml.Service[Any]", TlserveService)
"""What the decorators have made of the class."""
application.add_asgi_middleware(Guard)
