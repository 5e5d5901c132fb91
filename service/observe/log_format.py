"""How an event of the log is written: as text for people, as JSON for programs."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime

from service.observe.request import current

_RESET = "\033[0m"
_DIM = "\033[2m"
_COLOURS = {
    logging.DEBUG: _DIM,
    logging.INFO: "\033[32m",
    logging.WARNING: "\033[33m",
    logging.ERROR: "\033[31m",
    logging.CRITICAL: "\033[1;31m",
}


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _stack(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    parts = []
    if record.exc_info:
        parts.append(formatter.formatException(record.exc_info))
    if record.stack_info:
        parts.append(record.stack_info)
    return "\n".join(parts)


class JsonFormatter(logging.Formatter):
    """One JSON object a line, in ASCII.

    What a record has as ``fields``, a dictionary, becomes members of the object.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Write one event."""
        event: dict[str, object] = {
            "timestamp": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request := current.get():
            event["request_id"] = request.id
            if request.trace_id:
                event["trace_id"] = request.trace_id
        event.update(getattr(record, "fields", {}))
        if stack := _stack(self, record):
            event["stack"] = stack
        return json.dumps(event, default=str)


class TextFormatter(logging.Formatter):
    """A line for people; a stack follows on lines of its own.

    Args:
        colour: Whether the level is coloured.
    """

    def __init__(self, *, colour: bool) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        """Write one event."""
        level = f"{record.levelname:<8}"
        request = current.get()
        origin = f"[{request.id}]" if request else ""
        if self._colour:
            level = f"{_COLOURS.get(record.levelno, '')}{level}{_RESET}"
            origin = f"{_DIM}{origin}{_RESET}" if origin else ""
        parts = (_time(record), level, f"{record.name}:", record.getMessage(), origin)
        line = " ".join(part for part in parts if part)
        stack = _stack(self, record)
        return f"{line}\n{stack}" if stack else line
