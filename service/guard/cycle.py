"""A request and its answer: the one is not copied, the other leaves in one piece."""

from __future__ import annotations

from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from service.guard.limits import GATHERED_BYTES


class Cycle(RequestResponseCycle):
    """uvicorn's, for bodies of a hundred kilobytes and answers of a few hundred bytes.

    uvicorn copies every part of a body twice, and writes the head of an answer before its body.
    Each of these writes wakes the client, which then takes the processor from a server that has
    not even finished.
    """

    _parts: list[bytes]
    _gathered = 0
    _head: Any = None
    """The message with the head of an answer, until its body is there."""

    def take(self, part: bytes) -> bool:
        """Keep a part of the body.

        Returns:
            Whether the parts that the application has not seen are as many as may be kept.
        """
        if self._gathered:
            self._parts.append(part)
        else:
            self._parts = [part]
        self._gathered += len(part)
        if self._gathered <= GATHERED_BYTES:
            return False
        self._hand_over()
        return True

    def end_of_body(self) -> None:
        """Note that nothing more of it will come."""
        self.more_body = False
        self._hand_over()

    async def send(self, message: Any) -> None:
        """Send a message of the answer; see the ASGI specification."""
        if message["type"] == "http.response.start" and not self.response_started:
            self._head = message
            return
        if self._head is not None:
            head, self._head = self._head, None
            if self._write_whole(head, message):
                return
            await super().send(head)
        await super().send(message)

    def _hand_over(self) -> None:
        """Give the application what was gathered."""
        if self._gathered:
            parts, self._parts = self._parts, []
            # What it has not taken is in front of them.
            left = (bytes(self.body),) if self.body else ()
            whole = parts[0] if len(parts) == 1 and not left else b"".join((*left, *parts))
            # uvicorn hands bytes on as they are, and would copy what it gathers itself.
            self.body = cast("bytearray", whole)
            self._gathered = 0
        self.message_event.set()

    def _write_whole(self, head: Any, message: Any) -> bool:
        """Write an answer of which all is there; any other is left to uvicorn."""
        if (
            message["type"] != "http.response.body"
            or message.get("more_body", False)
            or self.scope["method"] == "HEAD"
            or self.disconnected
            or self.flow.write_paused
        ):
            return False
        body: bytes = message.get("body", b"")
        lines = [STATUS_LINE[head["status"]]]
        declared = -1
        for name, value in (*self.default_headers, *head.get("headers", ())):
            if name == b"content-length":
                declared = int(value)
            elif name in (b"connection", b"transfer-encoding"):
                return False
            lines.append(b"%b: %b\r\n" % (name, value))
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        text = b"".join(lines)
        # uvicorn refuses, with an error, what would be a header more, or a wrong length.
        if declared != len(body) or not text.count(b"\r") == text.count(b"\n") == len(lines):
            return False
        self.response_started = True
        self.waiting_for_100_continue = False
        self.transport.write(b"%b\r\n%b" % (text, body))
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive and not self.more_body:
            self.transport.close()
        self.on_response()
        return True
