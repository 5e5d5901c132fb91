"""``tlserve serve --tune``: measure, show, and take the best."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tlserve.cli.console import Bar, out, table
from tlserve.errors import UsageError

if TYPE_CHECKING:
    from service.settings import Settings

_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
_MOST = 64


def tuned(settings: Settings, folder: Path | None) -> Settings:
    """Give the settings with the threads and the batches that answer most images on this machine.

    Raises:
        TlserveError: The folder has no images, or the bundle cannot be run as asked.
    """
    from service.inference.tune import steps, tune, tuning_images
    from tlserve.bundle import Bundle

    bundle = Bundle.read(settings.bundle)
    if folder is None:
        images, what = tuning_images(bundle)
    else:
        images = _images(folder)
        what = f"{len(images)} images of {folder}"
    bar = Bar()
    bar.begin("measuring", steps(settings))
    try:
        found = tune(settings, images, advance=bar.advance)
    finally:
        bar.end()
    rows = [
        [f"{'▶ ' if n == 0 else '  '}{t.threads}", str(t.max_batch), f"{t.images_per_second:.1f}"]
        for n, t in enumerate(found)
    ]
    table(
        f"{bundle.manifest.name}, from files to answers, {what}",
        ["threads", "max batch", "images/s"],
        rows,
    )
    best = found[0]
    out.print(f"Serving with --threads {best.threads} --max-batch {best.max_batch}.")
    return settings.model_copy(update={"threads": best.threads, "max_batch": best.max_batch})


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UsageError(
            f"--tune-images {folder}: there is no such folder.", hint="Name a folder of images."
        )
    found = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in _SUFFIXES]
    if not found:
        raise UsageError(
            f"--tune-images {folder}: there are no images in it.",
            hint=f"Known are {', '.join(sorted(_SUFFIXES))}.",
        )
    return found[:: max(1, len(found) // _MOST)][:_MOST]
