"""OpenTelemetry traces, if the environment says where to send them; else nothing is even imported.

The variables are OpenTelemetry's own: ``OTEL_EXPORTER_OTLP_ENDPOINT`` turns traces on,
``OTEL_SERVICE_NAME``, ``OTEL_TRACES_SAMPLER``, ``OTEL_EXPORTER_OTLP_HEADERS`` and so on are read by
its library. BentoML's middleware is not used: it makes a span for each message that is received or
sent, and takes a quarter of a millisecond for a request even when there is nowhere to send them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import tlserve
from service.observe.faces import LONGEST_PATH, OTHER
from tlserve.errors import MissingDependencyError, UsageError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer
    from starlette.types import Scope

    from service.observe.request import Request

PROTOCOL = "http/protobuf"

_LAST_SECONDS = 3.0
"""How long sending what is left may hold up the end of the process."""

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

# Those of the process; `None` while traces are off.
_provider: TracerProvider | None = None
_tracer: Tracer | None = None


def on() -> bool:
    """Tell whether requests are traced."""
    return _tracer is not None


def wanted(environment: Mapping[str, str]) -> bool:
    """Tell whether the environment asks for traces.

    Raises:
        UsageError: It asks for a protocol or an exporter that is not there.
    """
    endpoint = _of_traces(environment, "ENDPOINT")
    if not endpoint or environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporter = environment.get("OTEL_TRACES_EXPORTER", "").strip() or "otlp"
    if exporter == "none":
        return False
    protocol = _of_traces(environment, "PROTOCOL") or PROTOCOL
    if exporter != "otlp" or protocol != PROTOCOL:
        raise UsageError(
            f"Traces can be sent by OTLP over {PROTOCOL} only, not by {exporter!r} over "
            f"{protocol!r}.",
            hint="Set OTEL_TRACES_EXPORTER=otlp and OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf, "
            "with the collector's HTTP port (4318 by default).",
        )
    return True


def start(environment: Mapping[str, str]) -> None:
    """Begin to trace requests, if the environment asks for it.

    Raises:
        UsageError: It asks for a protocol or an exporter that is not there.
        MissingDependencyError: The exporter is not installed.
    """
    global _provider, _tracer
    if not wanted(environment):
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        # It looks for the library that sends only now.
        exporter = OTLPSpanExporter()
    except ImportError as error:
        raise MissingDependencyError(
            "OTEL_EXPORTER_OTLP_ENDPOINT asks for traces, and they need the library "
            "'opentelemetry-exporter-otlp-proto-http'.",
            hint="Install tlserve[tracing], or unset the variable.",
        ) from error
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    ours = {"service.name": "tlserve", "service.version": tlserve.__version__}
    resource = Resource.create({**ours, **OTELResourceDetector().detect().attributes})
    # It samples as OTEL_TRACES_SAMPLER says.
    _provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    _provider.add_span_processor(BatchSpanProcessor(exporter))
    _tracer = _provider.get_tracer("tlserve", tlserve.__version__)


def stop() -> None:
    """Send what was not sent yet, unless that takes long.

    It cannot wait for the end of the interpreter: uvicorn ends the process by a signal.
    """
    if _provider is not None:
        # A collector that is gone is tried again and again.
        sending = threading.Thread(target=_provider.shutdown, daemon=True)
        sending.start()
        sending.join(_LAST_SECONDS)


@contextmanager
def span(scope: Scope, face: str, request: Request) -> Iterator[Span]:
    """Trace a request, as a part of the client's trace if it says that it has one."""
    from opentelemetry import propagate, trace

    assert _tracer is not None  # noqa: S101 - `on` was asked
    carrier = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
    method = scope["method"] if scope["method"] in _METHODS else "HTTP"
    attributes = {
        "http.request.method": method,
        "url.path": scope["path"][:LONGEST_PATH],
        "url.scheme": scope.get("scheme", "http"),
        "tlserve.request_id": request.id,
    }
    with _tracer.start_as_current_span(
        # A name for few: the path is the client's to choose.
        method if face == OTHER else f"{method} /{face}",
        propagate.extract(carrier),
        trace.SpanKind.SERVER,
        attributes,
    ) as made:
        context = made.get_span_context()
        if context.trace_flags.sampled:
            request.trace_id = trace.format_trace_id(context.trace_id)
        yield made


def finish(made: Span, request: Request, status: int) -> None:
    """Note how a request was answered, and what its image went through as spans of their own."""
    from opentelemetry.trace import StatusCode

    made.set_attribute("http.response.status_code", status)
    if status >= 500:
        made.set_status(StatusCode.ERROR)
    if request.timing is not None and made.is_recording():
        _add_stages(request)


def _add_stages(request: Request) -> None:
    assert _tracer is not None  # noqa: S101 - only what it made is recording
    assert request.timing is not None  # noqa: S101 - see above
    timing = request.timing
    stages = {
        "queue": timing.queue,
        "decode": timing.decode,
        "preprocess": timing.preprocess,
        "batch": timing.batch_wait,
        "inference": timing.inference,
        "delivery": timing.delivery,
    }
    # One followed the other without a gap to speak of; the last ended when it was noted.
    moment = request.timed_at - int(sum(stages.values()) * 1e9)
    for name, seconds in stages.items():
        stage = _tracer.start_span(name, start_time=moment)
        if name == "inference":
            stage.set_attribute("tlserve.batch_size", timing.batch)
        moment += int(seconds * 1e9)
        stage.end(moment)


def _of_traces(environment: Mapping[str, str], name: str) -> str:
    return (
        environment.get(f"OTEL_EXPORTER_OTLP_TRACES_{name}")
        or environment.get(f"OTEL_EXPORTER_OTLP_{name}")
        or ""
    ).strip()
