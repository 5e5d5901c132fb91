"""Multipart forms, read as they arrive and kept in memory, never more of them than is allowed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from python_multipart import MultipartParser
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import parse_options_header

from service.faces import problems
from service.faces.problems import Problem


class TooManyPartsError(Exception):
    """A form has more parts than it may have."""


@dataclass(slots=True)
class Part:
    """One part of a form.

    Attributes:
        name: The field's name.
        filename: The file's name; ``None`` where it is a plain value.
        size: How many bytes came; more than the limit are counted, but not kept.
    """

    name: str
    filename: str | None
    size: int = 0
    chunks: list[bytes] = field(default_factory=list)

    @property
    def data(self) -> bytes:
        """The bytes."""
        return self.chunks[0] if len(self.chunks) == 1 else b"".join(self.chunks)


async def parts_of(
    content_type: str, stream: AsyncIterator[bytes], *, max_part: int, max_parts: int
) -> list[Part]:
    """Read a form.

    Args:
        content_type: The header, which names the boundary.
        stream: The body.
        max_part: The largest part whose bytes are kept.
        max_parts: The most parts.

    Raises:
        Problem: The form is malformed.
        TooManyPartsError: It has more parts.
    """
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if not boundary:
        raise _malformed("the Content-Type names no boundary")
    form = _Form(max_part, max_parts)
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": form.begin,
                "on_header_field": form.header_field,
                "on_header_value": form.header_value,
                "on_header_end": form.header_end,
                "on_headers_finished": form.headers_finished,
                "on_part_data": form.data,
                "on_end": form.end,
            },
        )
        async for chunk in stream:
            parser.write(chunk)
    except (MultipartParseError, ValueError) as error:
        raise _malformed(str(error)) from error
    if not form.ended:
        raise _malformed("it ends before its closing boundary")
    return form.parts


class _Form:
    """What the parser has told so far."""

    def __init__(self, max_part: int, max_parts: int) -> None:
        self.parts: list[Part] = []
        self.ended = False
        self._max_part = max_part
        self._max_parts = max_parts
        self._field = self._value = self._disposition = b""

    def begin(self) -> None:
        if len(self.parts) == self._max_parts:
            raise TooManyPartsError
        self._disposition = b""

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def header_end(self) -> None:
        if self._field.lower() == b"content-disposition":
            self._disposition = self._value
        self._field = self._value = b""

    def headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        if b"name" not in options:
            raise _malformed("a part has no name in its Content-Disposition")
        filename = options.get(b"filename")
        self.parts.append(
            Part(_text(options[b"name"]), None if filename is None else _text(filename))
        )

    def data(self, data: bytes, start: int, end: int) -> None:
        part = self.parts[-1]
        part.size += end - start
        if part.size > self._max_part:
            part.chunks.clear()
        else:
            part.chunks.append(data[start:end])

    def end(self) -> None:
        self.ended = True


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def _malformed(reason: str) -> Problem:
    return Problem(problems.MALFORMED_FORM, f"The multipart body cannot be parsed: {reason}.")
