"""The least that HTTP costs in Python: the work without HTTP behind a parser, and nothing else.

    python -m benchmarks.peers.bare BUNDLE --port 8000 [--threads 2]

It checks nothing, limits nothing, counts nothing, and has no errors: not to be used, but to compare
with. What it leaves of the rate without HTTP is the most that a server in Python can reach beside
this load generator.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import threading
from pathlib import Path
from queue import SimpleQueue
from typing import cast

import httptools
import uvloop

from benchmarks.peers.bundle import onnx_probabilities, read
from tlserve.bundle import Bundle
from tlserve.preprocess import preprocess


class Connection(asyncio.Protocol):
    """Takes requests, one after the other.

    Args:
        images: Where each body is put, with whom to give the answer to.
    """

    def __init__(self, images: SimpleQueue[tuple[Connection, bytes]]) -> None:
        self._images = images
        self._parser = httptools.HttpRequestParser(self)
        self._parts: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        # uvloop's is none by its class.
        self._transport = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        self._parser.feed_data(data)

    def on_body(self, part: bytes) -> None:
        """Keep a part."""
        self._parts.append(part)

    def on_message_complete(self) -> None:
        """Have the image answered."""
        parts, self._parts = self._parts, []
        self._images.put((self, b"".join(parts)))

    def answer(self, body: bytes) -> None:
        """Answer."""
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        self._transport.write(head % len(body) + body)


async def _serve(bundle: Path, port: int, threads: int) -> None:
    loop = asyncio.get_running_loop()
    model = read(bundle)
    spec = Bundle.read(bundle).manifest.preprocessing
    probabilities = onnx_probabilities(model, threads=1)
    images: SimpleQueue[tuple[Connection, bytes]] = SimpleQueue()

    def work() -> None:
        while True:
            connection, data = images.get()
            (found,) = probabilities(preprocess(data, spec)[None])
            body = json.dumps(model.answer(found)).encode()
            loop.call_soon_threadsafe(connection.answer, body)

    for _ in range(threads):
        threading.Thread(target=work, daemon=True).start()
    server = await loop.create_server(lambda: Connection(images), "127.0.0.1", port)
    await server.serve_forever()


def _main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    uvloop.run(_serve(options.bundle, options.port, options.threads))


if __name__ == "__main__":
    _main()
