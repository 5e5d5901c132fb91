"""``tlserve serve``: answer over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

if TYPE_CHECKING:
    from service.launch import Ready
    from service.observe.logs import Format
    from tlserve.runtime.backend import Device


def serve(
    model: Annotated[Path, typer.Argument(help="The model bundle, for example models/<name>.")],
    backend: Annotated[
        str | None,
        typer.Option(
            help="onnx, onnx-fp16, onnx-int8, torchscript, pt2 or eager.",
            show_default="as `tlserve export --auto` chose, else onnx",
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            help="cpu or cuda; what is asked for is what runs.", show_default="likewise, else cpu"
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            help="Threads for one batch on the CPU. As many run at once as there is room for.",
            show_default="likewise, else 1",
        ),
    ] = None,
    tune: Annotated[
        bool,
        typer.Option(
            "--tune",
            help="Measure first which threads and batches answer most images here, and use those.",
        ),
    ] = False,
    tune_images: Annotated[
        Path | None,
        typer.Option(
            help="A folder of images like those that will come, for --tune.",
            show_default="the validation images where they are at hand, else the golden ones",
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 for a free one.")] = 3000,
    max_batch: Annotated[
        int | None,
        typer.Option(
            help="The most images in one batch.",
            show_default="likewise, else 4 on the CPU, 32 on a GPU",
        ),
    ] = None,
    max_queue: Annotated[
        int, typer.Option(help="The most images that wait; further ones get 503.")
    ] = 256,
    max_wait: Annotated[
        float,
        typer.Option(help="The most seconds that an image may have to wait; else it gets 503."),
    ] = 5.0,
    max_bytes: Annotated[
        int, typer.Option(help="The largest image file, in bytes; larger ones get 413.")
    ] = 20 * 2**20,
    log_format: Annotated[
        str, typer.Option(help="How the log on standard error is written: text or json.")
    ] = "text",
    access_log: Annotated[
        bool, typer.Option("--access-log", help="Write a line to the log for each request.")
    ] = False,
    max_images: Annotated[
        int, typer.Option(help="The most images in one request; with more it gets 413.")
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
        max_queue=max_queue,
        max_wait=max_wait,
        max_bytes=max_bytes,
        log_format=cast("Format", log_format),
        access_log=access_log,
        max_images=max_images,
    )
    if tune or tune_images:
        from tlserve.cli.tuning import tuned

        settings = tuned(settings, tune_images)
    logs.set_up(settings.log_format)
    launch.serve(settings, host, port, on_ready=_announce)


def _announce(ready: Ready) -> None:
    typer.echo(
        f"{ready.name} {ready.version} is ready on {ready.url} "
        f"({ready.backend} on {ready.device}) in {ready.seconds:.1f} s"
    )
