"""Errors over HTTP: ``application/problem+json``, RFC 9457."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.responses import Response

from service.observe.request import request_id

MEDIA_TYPE = "application/problem+json"

# `json.dumps` would make one for each refusal.
_ENCODER = json.JSONEncoder(ensure_ascii=False)


@dataclass(frozen=True)
class Kind:
    """One sort of problem.

    Attributes:
        name: Names it in the OpenAPI document, where its ``type`` points, and in the metrics.
        status: The HTTP status code.
        title: What it is, the same for every occurrence.
    """

    name: str
    status: int
    title: str

    @property
    def type(self) -> str:
        """The URI that identifies it: its description in the OpenAPI document."""
        return f"/openapi.json#/components/responses/{self.name}"


EMPTY_BODY = Kind("EmptyBody", 400, "The image is empty")
UNDECODABLE_IMAGE = Kind("UndecodableImage", 400, "The bytes are not an image")
MALFORMED_FORM = Kind("MalformedForm", 400, "The multipart body is malformed")
INVALID_INFERENCE = Kind(
    "InvalidInference", 400, "The request does not follow the Open Inference Protocol"
)
UNAUTHORIZED = Kind("Unauthorized", 401, "The request has no valid credentials")
NOT_FOUND = Kind("NotFound", 404, "There is nothing at this path")
NO_SUCH_MODEL = Kind("NoSuchModel", 404, "This model or version is not served here")
METHOD_NOT_ALLOWED = Kind("MethodNotAllowed", 405, "This path does not have this method")
SLOW_BODY = Kind("SlowBody", 408, "The body did not arrive in time")
TOO_MANY_BYTES = Kind("TooManyBytes", 413, "The body is too large")
TOO_MANY_IMAGES = Kind("TooManyImages", 413, "The request has too many images")
TOO_MANY_PIXELS = Kind("TooManyPixels", 413, "The image has too many pixels")
UNSUPPORTED_TYPE = Kind("UnsupportedType", 415, "The body is not of a type that is accepted")
INVALID_TOP_K = Kind("InvalidTopK", 422, "top_k is not a positive integer")
INVALID_FORM = Kind("InvalidForm", 422, "The form does not have the fields that it should")
TOO_MANY_REQUESTS = Kind("TooManyRequests", 429, "This client asks too often")
INTERNAL_ERROR = Kind("InternalError", 500, "The service has a defect")
BUSY = Kind("Busy", 503, "Too many images wait already")
TIMEOUT = Kind("Timeout", 504, "The answer took too long")

# What is wrong with a request before anyone looks at what it asks for; see service.guard.
MALFORMED_REQUEST = Kind("MalformedRequest", 400, "The request is not valid HTTP")
SLOW_HEADERS = Kind("SlowHeaders", 408, "The headers did not arrive in time")
UNKNOWN_HOST = Kind("UnknownHost", 421, "The service does not go by this name")
HEADERS_TOO_LARGE = Kind("HeadersTooLarge", 431, "The request line and headers are too large")

GUARD_KINDS = (
    UNAUTHORIZED,
    TOO_MANY_REQUESTS,
    MALFORMED_REQUEST,
    SLOW_HEADERS,
    UNKNOWN_HOST,
    HEADERS_TOO_LARGE,
)
"""What any request can be answered with."""

_ANY_ANSWER = (
    SLOW_BODY,
    TOO_MANY_BYTES,
    UNSUPPORTED_TYPE,
    INTERNAL_ERROR,
    BUSY,
    TIMEOUT,
)
_ANY_FORM = (MALFORMED_FORM, INVALID_TOP_K, INVALID_FORM)
_ANY_IMAGE = (EMPTY_BODY, UNDECODABLE_IMAGE, TOO_MANY_PIXELS)

PREDICT_KINDS = (*_ANY_ANSWER, *_ANY_FORM, *_ANY_IMAGE)
"""What the answer for one image can be instead."""

BATCH_KINDS = (*_ANY_ANSWER, *_ANY_FORM, TOO_MANY_IMAGES)
"""What the answer for many images can be instead; the problem of one of them is in the answer."""

INFER_KINDS = (*_ANY_ANSWER, *_ANY_IMAGE, INVALID_INFERENCE, NO_SUCH_MODEL, TOO_MANY_IMAGES)
"""What the answer to the Open Inference Protocol can be instead."""

KINDS = tuple(kind for kind in list(globals().values()) if isinstance(kind, Kind))
"""All of them."""


class Problem(Exception):  # noqa: N818 - RFC 9457's word
    """A request that gets a problem document for an answer.

    Args:
        kind: Which sort.
        detail: The rule and the value that broke it, for this very request.
        hint: What to do next.
        headers: Further response headers.
    """

    def __init__(
        self, kind: Kind, detail: str, *, hint: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.hint = hint
        self.headers = headers

    @property
    def members(self) -> dict[str, str | int]:
        """The members of the problem document."""
        members: dict[str, str | int] = {
            "type": self.kind.type,
            "title": self.kind.title,
            "status": self.kind.status,
            "detail": self.detail,
        }
        if self.hint:
            members["hint"] = self.hint
        if identity := request_id():
            members["request_id"] = identity
        return members

    def response(self, path: str = "") -> Response:
        """Build the problem document.

        Args:
            path: The request's; clients of the Open Inference Protocol look for a member ``error``.
        """
        members = self.members
        if path.startswith("/v2"):
            members["error"] = f"{self.detail} {self.hint}".rstrip()
        return Response(
            _ENCODER.encode(members),
            self.kind.status,
            self.headers,
            media_type=MEDIA_TYPE,
        )


def busy(detail: str, wait: float) -> Problem:
    """Say that there is too much to do, and when to come back: in so many seconds."""
    seconds = max(1, math.ceil(wait))
    return Problem(
        BUSY,
        detail,
        hint=f"Try again in {seconds} s.",
        headers={"Retry-After": str(seconds)},
    )
