from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterable

import pytest

from service.faces.forms import Part, TooManyPartsError, parts_of
from service.faces.problems import Problem

BODY = (
    b'--x\r\nContent-Disposition: form-data; name="images"; filename="b\xc3\xa4r.jpg"\r\n'
    b"Content-Type: image/jpeg\r\n\r\nab\r\n--\r\n--y\r\ncd\r\n"
    b"--x\r\ncontent-disposition: form-data; name=top_k\r\n\r\n3\r\n--x--\r\n"
)


def parsed(
    chunks: Iterable[bytes],
    content_type: str = "multipart/form-data; boundary=x",
    *,
    max_part: int = 100,
    max_parts: int = 2,
) -> list[Part]:
    async def stream() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    form = parts_of(content_type, stream(), max_part=max_part, max_parts=max_parts)
    return asyncio.run(form)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 16, len(BODY)])
def test_a_form_is_the_same_however_it_arrives(size: int) -> None:
    parts = parsed(BODY[i : i + size] for i in range(0, len(BODY), size))
    assert [(part.name, part.filename, part.data) for part in parts] == [
        ("images", "bär.jpg", b"ab\r\n--\r\n--y\r\ncd"),
        ("top_k", None, b"3"),
    ]


def test_what_is_too_large_is_counted_but_not_kept() -> None:
    image, value = parsed([BODY], max_part=5)
    assert (image.size, image.data) == (15, b"")
    assert value.data == b"3"
    with pytest.raises(TooManyPartsError):
        parsed([BODY], max_parts=1)


@pytest.mark.parametrize(
    ("body", "content_type", "reason"),
    [
        (BODY[:-6], "multipart/form-data; boundary=x", "closing boundary"),
        (BODY, "multipart/form-data", "no boundary"),
        (BODY, "multipart/form-data; boundary=" + "x" * 1000, "cannot be parsed"),
        (BODY, "multipart/form-data; boundary=y", "cannot be parsed"),
        (b"--x\r\nA: b\r\n\r\nc\r\n--x--\r\n", "multipart/form-data; boundary=x", "no name"),
    ],
)
def test_a_malformed_form_is_explained(body: bytes, content_type: str, reason: str) -> None:
    with pytest.raises(Problem, match=reason) as raised:
        parsed([body], content_type)
    assert raised.value.kind.status == 400


def test_noise_is_a_form_or_a_problem_and_nothing_else() -> None:
    chance = random.Random(0)  # noqa: S311
    for _ in range(2000):
        noisy = bytearray(BODY)
        for _ in range(chance.randint(1, 4)):
            noisy[chance.randrange(len(noisy))] = chance.randrange(256)
        try:
            parts = parsed([bytes(noisy)])
        except (Problem, TooManyPartsError):
            continue
        assert all(part.size == len(part.data) for part in parts)
