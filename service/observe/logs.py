"""The log: one line an event on standard error, as text or as JSON, whoever writes it.

Our own code, BentoML, uvicorn, Python's warnings and exceptions that nobody catches go through one
handler. A line that cannot be written is counted and forgotten: a full disk fails no request.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from types import TracebackType
from typing import Literal

from service.observe.log_format import JsonFormatter, TextFormatter

Format = Literal["text", "json"]

ACCESS = logging.getLogger("service.access")
"""Has a line a request, if that is wanted."""

# They come with handlers of their own, or were silenced when BentoML set up its logging.
_TAKEN_OVER = ("bentoml", "circus", "uvicorn", "uvicorn.error", "asyncio", "concurrent.futures")

_logger = logging.getLogger(__name__)


class LineHandler(logging.Handler):
    """Writes each event with one call to the system.

    Args:
        descriptor: Where; ``None`` if there is nowhere.
    """

    def __init__(self, descriptor: int | None) -> None:
        super().__init__()
        self.lost = 0
        self._descriptor = descriptor

    def emit(self, record: logging.LogRecord) -> None:
        """Write one event; never raises."""
        try:
            line = (self.format(record) + "\n").encode("utf-8", "backslashreplace")
            # Not through a buffer: what a full disk did not take would stay in it.
            if self._descriptor is None or os.write(self._descriptor, line) < len(line):
                self.lost += 1
        except Exception:  # noqa: BLE001 - a request must not fail because of its log line
            self.lost += 1


_handlers: list[LineHandler] = []


def lost() -> int:
    """Count the lines that could not be written."""
    return sum(handler.lost for handler in _handlers)


def set_up(log_format: Format, *, access: bool = False) -> None:
    """Send every event of this process to standard error.

    Args:
        log_format: How it is written; text is coloured on a terminal.
        access: Whether each request gets a line.
    """
    descriptor = _standard_error()
    handler = LineHandler(descriptor)
    if log_format == "json":
        handler.setFormatter(JsonFormatter())
    else:
        terminal = descriptor is not None and os.isatty(descriptor)
        handler.setFormatter(TextFormatter(colour=terminal and "NO_COLOR" not in os.environ))
    _handlers[:] = [handler]
    logging.raiseExceptions = False
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in _TAKEN_OVER:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate, logger.disabled = True, False
    # BentoML's quiet mode, which the launcher sets, would silence our warnings too.
    logging.getLogger("service").setLevel(logging.WARNING)
    ACCESS.setLevel(logging.INFO if access else logging.WARNING)
    # uvicorn's own access log costs time even where nobody reads it; this is how it finds out.
    logging.getLogger("uvicorn.access").propagate = False
    # What is wrong with a form is the client's to know, and is in its answer.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    logging.captureWarnings(True)
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread


def _standard_error() -> int | None:
    if sys.stderr is None:  # it was closed when the process began, and its number may be a socket's
        return None
    try:
        return sys.stderr.fileno()
    except OSError:  # something that is no file stands in for it
        return None


def _uncaught(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
    else:
        _logger.critical("Nobody caught %r", error, exc_info=(kind, error, traceback))


def _uncaught_in_thread(arguments: threading.ExceptHookArgs) -> None:
    name = arguments.thread.name if arguments.thread is not None else "unknown"
    _logger.critical(
        "The thread %s ended with %r", name, arguments.exc_value, exc_info=arguments.exc_value
    )
