"""``tlserve serve``: answer over HTTP."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

if TYPE_CHECKING:
    from service.launch import Ready
    from service.observe.logs import Format
    from tlserve.runtime.backend import Device


MODEL, ADDRESS, LIMITS = "Model", "Address", "Limits"
ACCESS, CONNECTIONS, LOGS = "Who may ask", "Connections", "Logs"


def _option(panel: str, name: str, text: str, default: str | None = None) -> Any:
    """Describe an option; what it sets can also come as ``TLSERVE_<name>``."""
    return typer.Option(
        help=text, rich_help_panel=panel, envvar=f"TLSERVE_{name}", show_default=default or True
    )


def serve(
    model: Annotated[Path, typer.Argument(help="The model bundle, for example models/<name>.")],
    backend: Annotated[
        str | None,
        _option(
            MODEL,
            "BACKEND",
            "onnx, onnx-fp16, onnx-int8, openvino-bf16, torchscript, pt2 or eager.",
            "as `tlserve export --auto` chose, else onnx",
        ),
    ] = None,
    device: Annotated[
        str | None,
        _option(
            MODEL,
            "DEVICE",
            "cpu or cuda; what is asked for is what runs.",
            "likewise, else cpu",
        ),
    ] = None,
    threads: Annotated[
        int | None,
        _option(
            MODEL,
            "THREADS",
            "Threads for one batch on the CPU. As many run at once as there is room for.",
            "likewise, else 1",
        ),
    ] = None,
    tune: Annotated[
        bool,
        typer.Option(
            "--tune",
            help="Measure first which threads and batches answer most images here, and use those.",
            rich_help_panel=MODEL,
        ),
    ] = False,
    tune_images: Annotated[
        Path | None,
        typer.Option(
            help="A folder of images like those that will come, for --tune.",
            rich_help_panel=MODEL,
            show_default="the validation images where they are at hand, else the golden ones",
        ),
    ] = None,
    max_batch: Annotated[
        int | None,
        _option(
            MODEL,
            "MAX_BATCH",
            "The most images in one batch.",
            "likewise, else 4 on the CPU, 32 on a GPU",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        _option(
            MODEL,
            "WORKERS",
            "Processes that answer, each with its share of the processors.",
            "one for each GPU, else 1",
        ),
    ] = None,
    host: Annotated[str, _option(ADDRESS, "HOST", "Address; 0.0.0.0 for all.")] = "127.0.0.1",
    # Not TLSERVE_PORT: in Kubernetes, a service called tlserve sets that to a URL.
    port: Annotated[int, _option(ADDRESS, "HTTP_PORT", "Port; 0 for a free one.")] = 3000,
    tls_cert: Annotated[
        Path | None,
        _option(ADDRESS, "TLS_CERT", "Certificate (PEM), with its issuers after it: HTTPS only."),
    ] = None,
    tls_key: Annotated[
        Path | None, _option(ADDRESS, "TLS_KEY", "The certificate's key (PEM), without a password.")
    ] = None,
    max_queue: Annotated[
        int, _option(LIMITS, "MAX_QUEUE", "The most images that wait; further ones get 503.")
    ] = 256,
    max_wait: Annotated[
        float,
        _option(
            LIMITS, "MAX_WAIT", "The most seconds that an image may have to wait; else it gets 503."
        ),
    ] = 5.0,
    max_bytes: Annotated[
        int, _option(LIMITS, "MAX_BYTES", "The largest image file, in bytes; larger ones get 413.")
    ] = 20 * 2**20,
    rate: Annotated[
        float | None,
        _option(
            LIMITS,
            "RATE",
            "Requests a second for one API key, or one address; more get 429.",
            "no limit",
        ),
    ] = None,
    burst: Annotated[
        int | None,
        _option(LIMITS, "BURST", "How many of them may come at once.", "twice the rate"),
    ] = None,
    api_keys: Annotated[
        Path | None,
        _option(
            ACCESS,
            "API_KEYS_FILE",
            "File of API keys, as `tlserve key` makes; read again when it changes. "
            "$TLSERVE_API_KEYS can hold keys, too.",
            "none are needed",
        ),
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        _option(
            ACCESS,
            "CORS_ORIGINS",
            "Pages from there may ask, for example https://example.org; * for all. Repeatable.",
        ),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        _option(
            ACCESS,
            "ALLOWED_HOSTS",
            "A name of this service, or *.example.org; other Host headers get 421. Repeatable.",
            "any",
        ),
    ] = None,
    trusted_proxy: Annotated[
        list[str] | None,
        _option(
            ACCESS,
            "TRUSTED_PROXIES",
            "Address or network whose X-Forwarded-For is believed. Repeatable.",
            "none",
        ),
    ] = None,
    max_connections: Annotated[
        int,
        _option(CONNECTIONS, "MAX_CONNECTIONS", "The most open connections; further ones get 503."),
    ] = 1024,
    header_timeout: Annotated[
        float,
        _option(CONNECTIONS, "HEADER_TIMEOUT", "Seconds for a request's headers to arrive."),
    ] = 10.0,
    keep_alive: Annotated[
        float,
        _option(CONNECTIONS, "KEEP_ALIVE", "Seconds that a connection may stay idle."),
    ] = 75.0,
    log_format: Annotated[
        str,
        _option(LOGS, "LOG_FORMAT", "How the log on standard error is written: text or json."),
    ] = "text",
    access_log: Annotated[
        bool,
        typer.Option(
            "--access-log",
            help="Write a line to the log for each request.",
            rich_help_panel=LOGS,
            envvar="TLSERVE_ACCESS_LOG",
        ),
    ] = False,
    max_images: Annotated[
        int,
        _option(LIMITS, "MAX_IMAGES", "The most images in one request; with more it gets 413."),
    ] = 64,
) -> None:
    """Serve a model over HTTP, until Ctrl-C.

    POST /predict takes an image as its body or as the multipart field 'image', and answers with the
    most probable classes. The documentation of the service is at /.
    """
    from service import launch
    from service.observe import logs
    from service.settings import Settings

    settings = Settings(
        bundle=model,
        backend=backend,
        device=cast("Device | None", device),
        threads=threads,
        max_batch=max_batch,
        workers=workers,
        max_queue=max_queue,
        max_wait=max_wait,
        max_bytes=max_bytes,
        log_format=cast("Format", log_format),
        access_log=access_log,
        max_images=max_images,
        rate=rate,
        burst=burst,
        api_keys=os.environ.get("TLSERVE_API_KEYS"),
        api_keys_file=api_keys,
        cors_origins=cors_origin or (),
        allowed_hosts=allowed_host or (),
        trusted_proxies=trusted_proxy or (),
        tls_cert=tls_cert,
        tls_key=tls_key,
        max_connections=max_connections,
        header_timeout=header_timeout,
        keep_alive=keep_alive,
    )
    if tune or tune_images:
        from tlserve.cli.tuning import tuned

        settings = tuned(settings, tune_images)
    logs.set_up(settings.log_format)
    launch.serve(settings, host, port, on_ready=_announce)


def _announce(ready: Ready) -> None:
    workers = f", {ready.workers} workers" if ready.workers > 1 else ""
    text = (
        f"{ready.name} {ready.version} is ready on {ready.url} "
        f"({ready.backend} on {ready.device}{workers}) in {ready.seconds:.1f} s"
    )
    try:
        typer.echo(text)
    except OSError:
        # A full disk or a reader that has gone is no reason not to serve. What is left in the
        # buffer would fail again at the end of the process.
        with contextlib.suppress(OSError), Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
