"""One HTTP/1.1 connection that does not block, with as little work a request as possible."""

from __future__ import annotations

import selectors
import socket
from dataclasses import dataclass

Address = tuple[str, int]

_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
_CHUNK = 65536
_BIND_ADDRESS_NO_PORT = 24
"""Of Linux; Python has no name for it."""
_SEND_BUFFER = 2**20
"""Most images go to the kernel in one call."""


class BrokenError(Exception):
    """The connection ended, or what came is no HTTP answer."""


@dataclass
class Asked:
    """A request.

    Attributes:
        image: The number of its image.
        due: When its answer began to be waited for, of ``time.perf_counter``.
    """

    image: int
    due: float


class Connection:
    """Sends one request after the other and collects their answers.

    Args:
        address: Host and port.
        selector: Is told what this waits for.
        source: The address to send from.
    """

    __slots__ = ("_cut", "_in", "_out", "_selector", "_waits_for", "asked", "fresh", "keep", "sock")

    def __init__(self, address: Address, selector: selectors.BaseSelector, source: str) -> None:
        self.sock = socket.socket()
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        # The kernel shall choose the port when it knows where to: there are more of them then.
        self.sock.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
        self.sock.bind((source, 0))
        self.sock.connect_ex(address)
        self.asked: Asked | None = None
        self.fresh = True
        """Whether it has had no answer yet."""
        self.keep = True
        """Whether the server takes another request on it."""
        self._cut = False
        self._in = bytearray()
        self._out = memoryview(b"")
        self._selector = selector
        # Until it is connected it cannot be written to.
        self._waits_for = _READ | _WRITE
        selector.register(self.sock, self._waits_for, self)

    @property
    def sent(self) -> bool:
        """Whether the whole request has left."""
        return not self._out

    def ask(self, request: bytes, asked: Asked) -> None:
        """Begin a request; the one before must have been sent and answered."""
        self.asked = asked
        self._out = memoryview(request)
        if not self.fresh:
            self.write()

    def write(self) -> None:
        """Send what the kernel takes."""
        try:
            while self._out:
                self._out = self._out[self.sock.send(self._out) :]
        except BlockingIOError:
            pass
        except OSError:
            # The server has closed the connection: perhaps after an answer, which is read first.
            self._out = memoryview(b"")
            self._cut = True
        waits_for = _READ | _WRITE if self._out else _READ
        if waits_for != self._waits_for:
            self._waits_for = waits_for
            self._selector.modify(self.sock, waits_for, self)

    def read(self) -> tuple[int, bytes] | None:
        """Take what has come.

        Returns:
            The status and body of an answer that is whole.

        Raises:
            BrokenError: The server has closed the connection, or sends what is no HTTP answer.
        """
        try:
            data = self.sock.recv(_CHUNK)
        except BlockingIOError:
            return None
        except OSError as error:
            raise BrokenError(type(error).__name__) from error
        if not data:
            raise BrokenError("closed")
        self._in += data
        return self._answer()

    def close(self) -> None:
        """Leave."""
        self._selector.unregister(self.sock)
        self.sock.close()

    def _answer(self) -> tuple[int, bytes] | None:
        end = self._in.find(b"\r\n\r\n")
        if end < 0:
            return None
        head = bytes(self._in[:end]).lower()
        if not head.startswith(b"http/1.1 "):
            raise BrokenError("no HTTP/1.1")
        status = int(head[9:12])
        start = end + 4
        length = _field(head, b"\r\ncontent-length:")
        if length is not None:
            stop = start + int(length)
            if len(self._in) < stop:
                return None
            body = bytes(self._in[start:stop])
            del self._in[:stop]
        elif b"chunked" in (_field(head, b"\r\ntransfer-encoding:") or b""):
            # The answers are small: it is read again from its start when more of it has come.
            found = _chunked(self._in, start)
            if found is None:
                return None
            body, stop = found
            del self._in[:stop]
        else:
            raise BrokenError("answer without length")
        self.fresh = False
        self.keep = not self._cut and _field(head, b"\r\nconnection:") != b"close"
        return status, body


def _field(head: bytes, name: bytes) -> bytes | None:
    """Give the value of a header field; head and name in small letters."""
    at = head.find(name)
    if at < 0:
        return None
    at += len(name)
    end = head.find(b"\r\n", at)
    return head[at : end if end >= 0 else len(head)].strip()


def _chunked(data: bytearray, at: int) -> tuple[bytes, int] | None:
    """Join the chunks of a body, and tell where it ends; ``None``: it is not all there."""
    parts: list[bytes] = []
    while True:
        end = data.find(b"\r\n", at)
        if end < 0:
            return None
        size = int(bytes(data[at:end]).partition(b";")[0], 16)
        at = end + 2
        if len(data) < at + size + 2:
            return None
        if size == 0:
            # Without trailers, which nothing here sends.
            return b"".join(parts), at + 2
        parts.append(bytes(data[at : at + size]))
        at += size + 2
