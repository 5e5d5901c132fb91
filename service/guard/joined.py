"""An answer leaves in one piece."""

from __future__ import annotations

import asyncio
from typing import Any


class JoinedWrites:
    """A transport that holds what is written until more comes, or the loop's next turn.

    uvicorn writes the head of an answer, then its body. Each write wakes the client, which then
    takes the processor from a server that has not even finished: here they are one.

    Args:
        transport: What is written to in the end.
        loop: Whose turns count.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held = b""

    def write(self, data: bytes) -> None:
        """Hold the data, or write them behind those that were held."""
        if self._held:
            data, self._held = self._held + data, b""
            self._transport.write(data)
        else:
            self._held = data
            self._loop.call_soon(self._flush)

    def close(self) -> None:
        """Write what is held, and close."""
        self._flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def _flush(self) -> None:
        if self._held:
            data, self._held = self._held, b""
            self._transport.write(data)
