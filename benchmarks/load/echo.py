"""The least that a server can do: it takes whole requests, and answers each with the same bytes.

    python -m benchmarks.load.echo PORT

uvloop reads and writes in C; only the length of the body is looked at. How many answers a second
the load generator gets from it is more than it could measure of anything else.
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import uvloop

ANSWER = ("none", 0.0)
_BODY = b'{"label":"none","probability":0.0}'
_RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
_WHOLE = _RESPONSE % (len(_BODY), _BODY)


class _Echo(asyncio.Protocol):
    """Counts the bytes of each request."""

    def __init__(self) -> None:
        self._head = b""
        self._left = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's are no subclass of asyncio's.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._left:
            self._left -= len(data)
        else:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            _, _, rest = self._head[:end].lower().partition(b"content-length:")
            length = int(rest.partition(b"\r\n")[0])
            self._left = length - (len(self._head) - end - 4)
            self._head = b""
        # Each client waits for its answer: nothing of another request follows.
        if self._left == 0:
            self._transport.write(_WHOLE)


async def _serve(port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Echo, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
