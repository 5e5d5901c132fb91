"""What `tlserve export --auto` picks, against torch's eager mode: images a second, side by side.

    python -m benchmarks.export [--data DIR] [--weights FILE] [--arch NAME] [--device cuda]

As a module: run as a file, its own name would hide the package ``export``.

Fine-tunes the head on the images, exports with --auto, and measures in one process: in each round,
each backend at each batch size, one after the other, beginning with another one each time. A
speed-up is that of the medians. Results are added to benchmarks/results/export.jsonl, and
docs/benchmarks.md is written from the last of each device.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import numpy as np

from benchmarks.records import Row, add_rows, read_rows, replace_section
from export.demands import Demands
from export.formats import FORMATS
from export.images import root_of, validation_samples
from export.run import export
from export.validation import preprocessed
from tlserve.finetune.config import FinetuneConfig
from tlserve.finetune.events import Events
from tlserve.finetune.run import finetune
from tlserve.runtime.backend import BACKENDS, load_backend
from tlserve.runtime.measure import Measurement, Subject, measure
from tlserve.runtime.processors import available_processors

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
RESULTS = ROOT / "benchmarks" / "results" / "export.jsonl"
PAGE = ROOT / "docs" / "benchmarks.md"
BATCHES = (1, 16)
_IMAGES = 48
_SECONDS = 1.0
_LIBRARIES = ("torch", "torchvision", "onnxruntime-gpu", "onnxruntime", "openvino", "numpy")
_GOALS = {1: "≥ 2, hoped for 3"}


def main() -> None:
    options = _parse()
    with tempfile.TemporaryDirectory() as folder:
        row = _measured(options, Path(folder))
    add_rows(RESULTS, [row])
    text = "\n\n".join(_section(r) for r in {r["device"]: r for r in read_rows(RESULTS)}.values())
    replace_section(PAGE, "export", text)
    print(text)


def _measured(options: argparse.Namespace, folder: Path) -> Row:
    config = FinetuneConfig(
        data=options.data.resolve(),
        name="measured",
        arch=options.arch,
        weights=str(options.weights.resolve()),
        output=folder / "models",
        runs=folder / "runs",
    )
    path = finetune(config, Events()).path
    formats = [name for name in FORMATS if options.device in BACKENDS[name].library.devices]
    bundle = export(path, formats, Demands(choose=True, device=options.device))
    samples = validation_samples(bundle, None)
    some = samples[:: max(1, len(samples) // _IMAGES)][:_IMAGES]
    images = np.concatenate(list(preprocessed(bundle, root_of(bundle, None), some)))
    threads = available_processors()
    names = [n for n, runnable in BACKENDS.items() if bundle.names(runnable.kind)]
    subjects = [Subject(load_backend(bundle, n, options.device, threads), threads) for n in names]
    serving = bundle.manifest.serving
    assert serving is not None  # noqa: S101 - recorded by --auto
    if serving.threads != threads:
        backend = load_backend(bundle, serving.backend, options.device, serving.threads)
        subjects.append(Subject(backend, serving.threads))
    found = measure(subjects, images, BATCHES, rounds=options.rounds, seconds=_SECONDS)
    files = bundle.manifest.files.values()
    return {
        "arch": options.arch,
        "device": options.device_name or options.device,
        "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores",
        "versions": {"python": platform.python_version()} | _versions(),
        "rounds": options.rounds,
        "serving": serving.model_dump(),
        "accuracy_drops": {e.kind: e.parity.accuracy_drop for e in files if e.parity},
        "flips": {e.kind: e.parity.decisions_changed for e in files if e.parity},
        "validation_images": len(samples),
        "bytes": {
            e.kind: sum(bundle.manifest.files[name].bytes for name in bundle.names_read(e.kind))
            for e in files
            if e.parity or e.kind == "weights"
        },
        "measurements": [asdict(m) for m in found],
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except ModuleNotFoundError:
            continue
    return found


def _section(row: Row) -> str:
    found = [Measurement(**m) for m in row["measurements"]]
    eager = {m.batch: m.images_per_second for m in found if m.backend == "eager"}
    serving = row["serving"]
    versions = ", ".join(f"{name} {number}" for name, number in row["versions"].items())
    lines = [
        f"{row['arch']}, {row['machine']}, on {row['device']}; {versions}. Medians of "
        f"{row['rounds']} rounds. `--auto` picks {serving['reason']}.",
        "",
        "| backend | threads | batch | images/s | times eager | goal | p50, ms | p99, ms | MB "
        "| accuracy lost, points | decisions changed |",
        "| --- " + "| --: " * 10 + "|",
    ]
    for m in sorted(found, key=lambda m: (m.batch, -m.images_per_second)):
        picked = (m.backend, m.threads) == (serving["backend"], serving["threads"])
        kind = BACKENDS[m.backend].kind
        name = f"**{m.backend}**" if picked else m.backend
        lost = row["accuracy_drops"].get(kind)
        cells = [
            name,
            str(m.threads),
            str(m.batch),
            f"{m.images_per_second:.1f}",
            f"**{m.images_per_second / eager[m.batch]:.2f}**",
            _GOALS.get(m.batch, "") if picked else "",
            f"{m.p50_ms:.1f}",
            f"{m.p99_ms:.1f}",
            f"{row['bytes'].get(kind, 0) / 1e6:.1f}",
            "" if lost is None else f"{lost:.2f}",
            "" if lost is None else f"{row['flips'][kind]} of {row['validation_images']}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _parse() -> argparse.Namespace:
    data, weights = (
        SHARED / "data" / "hymenoptera",
        SHARED / "weights" / "mobilenet_v2_imagenet.pth",
    )
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=data)
    parser.add_argument("--weights", type=Path, default=weights)
    parser.add_argument("--arch", default="mobilenet_v2")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--device-name", help="what the results call it")
    return parser.parse_args()


if __name__ == "__main__":
    main()
