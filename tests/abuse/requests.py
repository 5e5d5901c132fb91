"""Requests that are wrong in one way or another, each made from its number alone."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.abuse.files import bomb, mutated
from tests.images import encoded, noise

Generator = np.random.Generator

MODEL = "insects"
_FORM = "multipart/form-data; boundary=limit"
_BINARY_HEADER = "Inference-Header-Content-Length"
_SIXTY_MEGABYTES = 60_000_000


@dataclass(frozen=True)
class Request:
    """One request.

    Attributes:
        kind: What is wrong with it, for the report.
        data: Its bytes, as they are sent.
        whole: Whether it is one whole HTTP request, which must get an answer.
    """

    kind: str
    data: bytes
    whole: bool = True


def request(number: int) -> Request:
    """Make the request of a number."""
    generator = np.random.default_rng(number)
    kinds = list(_KINDS)
    shares = np.array([_KINDS[kind] for kind in kinds], dtype=float)
    return kinds[int(generator.choice(len(kinds), p=shares / shares.sum()))](generator)


def _http(
    body: bytes, content_type: str = "image/jpeg", target: str = "/predict", **headers: str
) -> bytes:
    return _head("POST", target, {"Content-Type": content_type, **headers}, len(body)) + body


def _head(method: str, target: str, headers: dict[str, str], length: int | None) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: 127.0.0.1", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    lines += [f"Content-Length: {length}"] if length is not None else []
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _one_of(generator: Generator, *values: Any) -> Any:
    return values[int(generator.integers(len(values)))]


def _image(generator: Generator) -> Request:
    kind = _one_of(generator, "image/jpeg", "image/png", "application/octet-stream", "image/tiff")
    return Request("a mutated image", _http(mutated(generator), kind))


def _bomb(generator: Generator) -> Request:
    return Request("a bomb", _http(bomb(generator)))


def _part(name: str, data: bytes, extra: str = '; filename="photo.jpg"') -> bytes:
    head = f'--limit\r\nContent-Disposition: form-data; name="{name}"{extra}\r\n\r\n'
    return head.encode() + data + b"\r\n"


def _form(generator: Generator) -> Request:
    field, target = _one_of(
        generator, ("image", "/predict"), ("images", "/predict/batch"), ("image", "/classify")
    )
    count = int(generator.integers(0, 4)) if target == "/predict/batch" else 1
    files = [_one_of(generator, mutated, bomb)(generator) for _ in range(count)]
    body = b"".join(_part(field, data) for data in files) + b"--limit--\r\n"
    return Request("mutated images in a form", _http(body, _FORM, target))


def _broken_form(generator: Generator) -> Request:
    body = bytearray(_part("image", encoded(noise(20, 20), "JPEG")) + b"--limit--\r\n")
    for _ in range(int(generator.integers(1, 12))):
        place = int(generator.integers(min(len(body), 120)))
        body[place : place + int(generator.integers(3))] = generator.bytes(
            int(generator.integers(4))
        )
    target = _one_of(generator, "/predict", "/predict/batch", "/classify")
    content_type = _one_of(
        generator, _FORM, _FORM, "multipart/form-data", "multipart/form-data; boundary=" + "b" * 300
    )
    return Request("a broken form", _http(bytes(body), content_type, target))


def _odd(generator: Generator, depth: int = 0) -> Any:
    """Any JSON value, of those that programs trip over."""
    simple = (
        *(None, True, -1, 0, 1, 2**31, 2**63, 2**64, -(2**63), 1e308, 0.5, 10**400),
        *("", "image", "FP32", "BYTES", "\0", "é" * 10, "A" * 5000, "1"),
    )
    if depth > 2 or generator.random() < 0.6:
        return _one_of(generator, *simple)
    if generator.random() < 0.5:
        return [_odd(generator, depth + 1) for _ in range(int(generator.integers(4)))]
    return {
        str(_odd(generator, 3)): _odd(generator, depth + 1) for _ in range(generator.integers(4))
    }


def _infer_document(generator: Generator) -> dict[str, Any]:
    image = {"name": "image", "shape": [1], "datatype": "BYTES", "data": ["AAAA"]}
    pixels = {
        "name": "input",
        "shape": [1, 3, 64, 64],
        "datatype": "FP32",
        "data": [0.5] * (3 * 64 * 64),
    }
    document: dict[str, Any] = {
        "id": "a",
        "inputs": [_one_of(generator, image, pixels)],
        "outputs": [{"name": "probabilities", "parameters": {"binary_data": False}}],
    }
    where = _one_of(generator, document, document["inputs"][0], document["outputs"][0])
    for _ in range(int(generator.integers(1, 3))):
        key = _one_of(generator, *where, "parameters", "unknown")
        where[key] = _odd(generator)
    return document


def _infer_target(generator: Generator) -> str:
    return str(
        _one_of(
            generator,
            f"/v2/models/{MODEL}/infer",
            f"/v2/models/{MODEL}/infer",
            f"/v2/models/{MODEL}/versions/1/infer",
            "/v2/models/other/infer",
        )
    )


def _infer_json(generator: Generator) -> Request:
    text = json.dumps(_infer_document(generator), allow_nan=True).encode()
    if generator.random() < 0.2:
        text = _one_of(generator, text[:-5], b"[" * 50_000, b"nul", text + text, b"\xff\xfe{}")
    return Request(
        "a wrong inference request", _http(text, "application/json", _infer_target(generator))
    )


def _infer_binary(generator: Generator) -> Request:
    files = [mutated(generator) for _ in range(int(generator.integers(1, 3)))]
    blob = b"".join(struct.pack("<I", len(file)) + file for file in files)
    size: Any = len(blob)
    if generator.random() < 0.5:
        size = _one_of(generator, 0, -1, len(blob) + 1, 2**40, "many", None)
    if generator.random() < 0.3:
        blob = struct.pack("<I", int(_one_of(generator, 0, 2**32 - 1, len(blob)))) + blob[4:]
    inputs: dict[str, Any] = {"name": "image", "shape": [len(files)], "datatype": "BYTES"}
    inputs["parameters"] = {"binary_data_size": size}
    text = json.dumps({"inputs": [inputs]}).encode()
    length = str(len(text))
    if generator.random() < 0.3:
        length = _one_of(generator, "-1", "0", "x", str(2**70), str(len(text) + 7), "")
    headers = {_BINARY_HEADER: length}
    target = _infer_target(generator)
    return Request(
        "a wrong binary tensor", _http(text + blob, "application/octet-stream", target, **headers)
    )


def _wrong_type(generator: Generator) -> Request:
    kind = _one_of(
        generator,
        *("application/json", "text/plain", "application/vnd.bentoml+pickle", "image/", "/"),
        *("application/x-www-form-urlencoded", "multipart/mixed; boundary=x", "\x80\xff", ""),
    )
    target = _one_of(generator, "/predict", "/predict/batch", "/classify", _infer_target(generator))
    return Request("a wrong type", _http(mutated(generator)[:5000], kind, target))


def _wrong_target(generator: Generator) -> Request:
    method = _one_of(generator, "GET", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "POST", "TRACE")
    target = _one_of(
        generator,
        *("/", "//", "/predict/", "/predict/batch/x", "/v2/models", "/v2/models/../../etc/passwd"),
        *("/%00", "/%ff%fe", "/static_content/../../../etc/passwd", "/static_content/%2e%2e/x"),
        *("/predict?top_k=-1", "/predict?top_k=" + "9" * 4000, "/predict?top_k=%00", "/metrics/x"),
        *("/model?x=y", "/schema.json", "/docs.json", "/predict?" + "a=b&" * 900, "*"),
    )
    return Request("a wrong path or method", _head(method, target, {}, 0))


def _wrong_length(generator: Generator) -> Request:
    body = encoded(noise(30, 30), "JPEG")
    length = _one_of(generator, len(body) + 1000, "-5", "1e3", "0x10", str(2**64), "5, 6", "")
    head = _head("POST", "/predict", {"Content-Type": "image/jpeg"}, None)[:-2]
    return Request(
        "a wrong length", head + f"Content-Length: {length}\r\n\r\n".encode() + body, False
    )


def _wrong_chunks(generator: Generator) -> Request:
    head = _head("POST", "/predict", {"Transfer_Encoding": "chunked"}, None)
    chunks = _one_of(
        generator,
        *(b"zz\r\nabc\r\n0\r\n\r\n", b"FFFFFFFFFFFFFFFFF\r\nabc", b"-1\r\na\r\n0\r\n\r\n"),
        *(b"5\r\nabc\r\n0\r\n\r\n", b"3;" + b"e" * 9000 + b"\r\nabc\r\n0\r\n\r\n", b""),
    )
    both = b"Content-Length: 4\r\n" if generator.random() < 0.3 else b""
    return Request("wrong chunks", head[:-2] + both + b"\r\n" + chunks, False)


def _wrong_head(generator: Generator) -> Request:
    data = bytearray(_http(b"abc"))
    for _ in range(int(generator.integers(1, 8))):
        place = int(generator.integers(len(data)))
        data[place : place + int(generator.integers(3))] = generator.bytes(
            int(generator.integers(5))
        )
    if generator.random() < 0.2:
        data = bytearray(
            _one_of(generator, b"\x16\x03\x01" + bytes(200), b"\r\n" * 200, b"\0" * 99)
        )
    return Request("a wrong head", bytes(data), False)


def _large_body(generator: Generator) -> Request:
    if generator.random() < 0.5:
        return Request("60 MB", _http(bytes(_SIXTY_MEGABYTES)))
    head = _head("POST", _infer_target(generator), {"Transfer_Encoding": "chunked"}, None)
    chunk = b"100000\r\n" + bytes(0x100000) + b"\r\n"
    return Request("60 MB", head + chunk * (_SIXTY_MEGABYTES // 0x100000) + b"0\r\n\r\n")


_KINDS: dict[Callable[[Generator], Request], int] = {
    _image: 400,
    _bomb: 60,
    _form: 100,
    _broken_form: 80,
    _infer_json: 90,
    _infer_binary: 70,
    _wrong_type: 40,
    _wrong_target: 60,
    _wrong_length: 25,
    _wrong_chunks: 25,
    _wrong_head: 40,
    _large_body: 5,
}
"""What is made, and how often, of a thousand."""
