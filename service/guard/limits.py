"""What a connection may take of the server."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from service.holdings import Holdings

if TYPE_CHECKING:
    from service.guard.door import Door

HEAD_BYTES = 64 * 1024
"""For a request line with its headers; also for what else a request has beside its body."""
GATHERED_BYTES = 256 * 1024
"""Of a body, before the application is woken for it: most photographs come whole."""
BODY_SECONDS = 30.0
"""For a body to arrive."""
REST_SECONDS = 5.0
"""For the next part of a body whose request is answered already."""
WRITE_SECONDS = 30.0
"""For a client to take some of an answer."""
LINGER_SECONDS = 2.0
"""For a client to read the last answer. Closed at once, with bytes of it unread, the connection
would be reset, and the answer lost."""
DRAIN_IDLE_SECONDS = 1.0
"""How long idle connections stay open while the service ends. A request that is on its way already
is answered, and its answer says that the connection ends."""
PIPELINED = 16
"""The most requests that one connection sends ahead of their answers."""


@dataclass(slots=True)
class Shared:
    """What all connections of a server know.

    Attributes:
        connections: How many there may be, and how many there are of each address.
        head_seconds: For a request's headers to arrive.
        idle_seconds: How long one may be idle between requests.
        draining: Whether the server is about to end.
        door: Turns requests away that there is no room for; without one, the application does.
    """

    connections: Holdings
    head_seconds: float
    idle_seconds: float
    draining: bool = False
    door: Door | None = None


class Phase(enum.Enum):
    """What a connection waits for."""

    HEAD = enum.auto()
    BODY = enum.auto()
    ANSWER = enum.auto()
    IDLE = enum.auto()
    END = enum.auto()
