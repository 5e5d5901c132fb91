"""Does a bundle still answer as the trained model did? From the bundle alone, at any time."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from export.images import root_of, validation_samples
from export.outcome import Level, Parity
from export.parity import (
    BATCH_SIZES,
    compare_bytes,
    compare_decisions,
    compare_file,
)
from export.progress import Progress
from export.validation import run_validation
from tlserve.bundle import Bundle
from tlserve.data.folder import Sample
from tlserve.errors import DataError, MissingDependencyError, ProcessorError
from tlserve.runtime.backend import BACKENDS, Backend, Device, load_backend


def verify(
    bundle: Bundle,
    *,
    data: Path | None = None,
    device: Device = "cpu",
    batch_sizes: Sequence[int] = BATCH_SIZES,
    progress: Progress | None = None,
) -> list[Parity]:
    """Compare every file's hash, and run every level of the parity check that can be run.

    What needs torch is left out where it is not installed, and the decisions where the validation
    images are not at hand; the outcome says so.

    Args:
        bundle: The bundle.
        data: The image folder; by default the recorded one, if it is there.
        device: Where to run.
        batch_sizes: The batches to compare.
        progress: Told what happens.

    Returns:
        For the weights and for each exported file, what was compared.

    Raises:
        BundleError: A file is not the one that was written.
        DataError: The images in ``data`` are not those of the training.
        MissingDependencyError: No backend can run.
    """
    progress = progress or Progress()
    bundle.verify()
    samples, remark = _samples(bundle, data)
    names = [name for name, runnable in BACKENDS.items() if bundle.names(runnable.kind)]
    backends: dict[str, Backend] = {}
    missing: dict[str, str] = {}
    progress.begin("loading", len(names))
    for name in names:
        devices = BACKENDS[name].library.devices
        try:
            if device in devices:
                backends[name] = load_backend(bundle, name, device)
            else:
                missing[name] = f"it runs on {', '.join(devices)}"
        except (MissingDependencyError, ProcessorError) as error:
            missing[name] = error.message
        progress.advance()
    progress.end()
    if not backends:
        raise MissingDependencyError(
            "The hashes are right, but no backend can run to compare the answers: "
            + "; ".join(missing.values()),
            hint="Install one: pip install 'tlserve[cpu]'",
        )
    reference = backends.get("eager")
    levels: dict[str, list[Level]] = {}
    progress.begin("comparing", len(backends))
    for name, backend in backends.items():
        if name == "eager":
            levels[name] = [compare_bytes(bundle, backend)]
        else:
            load = partial(load_backend, bundle, name, device)
            levels[name] = compare_file(bundle, reference, backend, load, batch_sizes)
        progress.advance()
    progress.end()
    decisions = _decisions(bundle, data, samples, backends, remark, progress)
    return [
        _outcome(bundle, name, [*levels[name], *decisions.get(name, [])])
        if name in levels
        else _outcome(bundle, name, [Level("bytes", None, remark=f"not run: {missing[name]}")])
        for name in names
    ]


def _samples(bundle: Bundle, data: Path | None) -> tuple[list[Sample], str]:
    """Give the validation images, or why there are none."""
    if data is None and not bundle.names("split"):
        return [], "not run: the bundle does not say which images validated"
    try:
        return validation_samples(bundle, data), ""
    except DataError as error:
        if data is not None:
            raise
        return [], f"not run: {error.message}"


def _decisions(
    bundle: Bundle,
    data: Path | None,
    samples: Sequence[Sample],
    backends: dict[str, Backend],
    remark: str,
    progress: Progress,
) -> dict[str, list[Level]]:
    exported = [name for name in backends if name != "eager"]
    if samples and "eager" not in backends:
        remark = "not run: torch is not installed"
    if not samples or "eager" not in backends:
        return {name: [Level("decisions", None, remark=remark)] for name in exported}
    progress.begin("validation images", len(samples))
    found = run_validation(bundle, root_of(bundle, data), samples, backends, progress.advance)
    progress.end()
    return {
        name: [
            compare_decisions(
                found["eager"],
                found[name].logits,
                backends[name].precision,
                _budget(bundle, name),
            )
        ]
        for name in exported
    }


def _budget(bundle: Bundle, name: str) -> float:
    """Give the points of accuracy that a file was allowed to lose when it was exported."""
    (file,) = bundle.names(BACKENDS[name].kind)
    parity = bundle.manifest.files[file].parity
    return parity.max_accuracy_drop or 0.0 if parity else 0.0


def _outcome(bundle: Bundle, name: str, levels: Sequence[Level]) -> Parity:
    (file,) = bundle.names(BACKENDS[name].kind)
    return Parity(name, file, bundle.manifest.files[file].sha256, tuple(levels), {})
