"""Requests as bytes, made before the first is sent."""

from __future__ import annotations

from pathlib import Path

from benchmarks.load.plan import Plan

_BOUNDARY = "images-of-ants-and-bees"


def prepared(plan: Plan) -> list[bytes]:
    """Give the whole request of each image."""
    return [_request(plan, Path(file).read_bytes()) for file in plan.files]


def _request(plan: Plan, image: bytes) -> bytes:
    content_type, body = "image/jpeg", image
    if plan.field is not None:
        content_type = f"multipart/form-data; boundary={_BOUNDARY}"
        body = (
            f"--{_BOUNDARY}\r\n"
            f'Content-Disposition: form-data; name="{plan.field}"; filename="image.jpg"\r\n'
            "Content-Type: image/jpeg\r\n\r\n"
        ).encode()
        body += image + f"\r\n--{_BOUNDARY}--\r\n".encode()
    head = (
        f"POST {plan.path} HTTP/1.1\r\nHost: 127.0.0.1:{plan.port}\r\nAccept: */*\r\n"
        f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
