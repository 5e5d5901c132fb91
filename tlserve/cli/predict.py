"""``tlserve predict``."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tlserve.errors import TlserveError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tlserve.runtime import Prediction, Predictor

_BATCH = 32
_IMAGE_SUFFIXES = frozenset(
    [".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif", ".avif"]
)


@dataclass(frozen=True)
class _Answer:
    file: str
    predictions: Sequence[Prediction] = ()
    error: str = ""


def predict(
    model: Annotated[Path, typer.Argument(help="The bundle, for example models/<name>.")],
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")],
    top_k: Annotated[int, typer.Option(min=1, help="How many classes to name.")] = 3,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line, an image each.")
    ] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="One line a predicted class.")] = False,
    backend: Annotated[
        str | None,
        typer.Option(
            help="What runs the model: onnx, onnx-fp16, onnx-int8, openvino-bf16, "
            "torchscript, pt2 or eager.",
            show_default="as `tlserve export --auto` chose, else onnx",
        ),
    ] = None,
    device: Annotated[
        Literal["cpu", "cuda"] | None,
        typer.Option(help="Where it runs.", show_default="likewise, else cpu"),
    ] = None,
) -> None:
    """Name the most probable classes of images; the exit code is 1 if one of them has none."""
    if as_json and as_csv:
        raise UsageError("--json and --csv exclude each other.", hint="Pass one of them.")
    from tlserve.bundle import Bundle
    from tlserve.runtime import Predictor
    from tlserve.runtime.serving import resolve

    files = list(_files(images))
    if not files:
        raise UsageError(f"There are no images in {', '.join(map(str, images))}.")
    bundle = Bundle.read(model)
    running = resolve(bundle, backend, device)
    predictor = Predictor.load(bundle, running.backend, running.device)
    answers = _answers(predictor, files, top_k)
    failed = (
        _print_json(answers)
        if as_json
        else _print_csv(answers)
        if as_csv
        else _print_table(answers)
    )
    if failed:
        raise typer.Exit(1)


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            found = (p for p in path.rglob("*") if p.suffix.lower() in _IMAGE_SUFFIXES)
            yield from sorted(p for p in found if p.is_file())
        else:
            yield path


def _answers(predictor: Predictor, files: Sequence[Path], top_k: int) -> Iterator[_Answer]:
    """Answer in the order of the files; a file that cannot be used fails alone."""
    import numpy as np

    def load(path: Path) -> NDArray[np.float32] | str:
        try:
            return predictor.preprocess(path.read_bytes())
        except TlserveError as error:
            return error.message
        except OSError as error:
            return f"The file cannot be read: {error.strerror}."

    remaining = iter(files)
    with ThreadPoolExecutor() as pool:
        while chunk := list(islice(remaining, _BATCH)):
            loaded = list(pool.map(load, chunk))
            tensors = [item for item in loaded if not isinstance(item, str)]
            rows = iter(predictor.probabilities(np.stack(tensors)) if tensors else ())
            for path, item in zip(chunk, loaded, strict=True):
                if isinstance(item, str):
                    yield _Answer(str(path), error=item)
                else:
                    yield _Answer(str(path), predictor.top(next(rows), top_k))


def _print_json(answers: Iterator[_Answer]) -> int:
    failed = 0
    for answer in answers:
        line: dict[str, object] = {"file": answer.file}
        if answer.error:
            failed += 1
            line["error"] = answer.error
        else:
            line["predictions"] = [asdict(p) for p in answer.predictions]
        typer.echo(json.dumps(line, ensure_ascii=False))
    return failed


def _print_csv(answers: Iterator[_Answer]) -> int:
    failed = 0
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["file", "rank", "label", "probability", "error"])
    for answer in answers:
        if answer.error:
            failed += 1
            writer.writerow([answer.file, "", "", "", answer.error])
        for rank, p in enumerate(answer.predictions, 1):
            writer.writerow([answer.file, rank, p.label, p.probability, ""])
    return failed


def _print_table(answers: Iterator[_Answer]) -> int:
    from tlserve.cli.console import table

    failed, rows = 0, []
    for answer in answers:
        if answer.error:
            failed += 1
            rows.append([answer.file, "", f"error: {answer.error}"])
        else:
            first, *others = answer.predictions
            rest = ", ".join(f"{p.label} {p.probability:.1%}" for p in others)
            rows.append([answer.file, f"{first.label} {first.probability:.1%}", rest])
    table("", ["file", "prediction", "next"], rows)
    return failed
