"""Making the golden images of a bundle: encoded files of every kind that a client may send."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tlserve.bundle import StagedBundle
from tlserve.bundle.manifest import Preprocessing
from tlserve.data.folder import Sample
from tlserve.preprocess import decode, preprocess
from tlserve.runtime.backend import Backend
from tlserve.runtime.golden import ANSWERS, LOGITS
from tlserve.runtime.softmax import softmax

_EXIF_ORIENTATION = 0x0112
_ROTATED_90 = 6


def _rotated(image: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[_EXIF_ORIENTATION] = _ROTATED_90
    return _encode(image, "JPEG", quality=90, exif=exif)


def _translucent(image: Image.Image) -> bytes:
    layer = image.convert("RGBA")
    layer.putalpha(Image.linear_gradient("L").resize(layer.size))
    return _encode(layer, "PNG")


def _sixteen_bit(image: Image.Image) -> bytes:
    grey = np.asarray(image.convert("L"), dtype=np.uint16) * 257
    return _encode(Image.fromarray(grey), "PNG")


_KINDS: dict[str, Callable[[Image.Image], bytes]] = {
    "plain.jpg": lambda i: _encode(i, "JPEG", quality=90),
    "plain.png": lambda i: _encode(i, "PNG"),
    "exif-rotated.jpg": _rotated,
    "grey.jpg": lambda i: _encode(i.convert("L"), "JPEG", quality=90),
    "grey-16-bit.png": _sixteen_bit,
    "cmyk.jpg": lambda i: _encode(i.convert("CMYK"), "JPEG", quality=90),
    "palette.png": lambda i: _encode(i.quantize(64), "PNG"),
    "translucent.png": _translucent,
    "very-wide.jpg": lambda i: _encode(i.resize((1200, 60)), "JPEG", quality=90),
    "very-tall.png": lambda i: _encode(i.resize((40, 800)), "PNG"),
    "small.png": lambda i: _encode(i.resize((20, 15)), "PNG"),
    "large.jpg": lambda i: _encode(i.resize((3000, 2000)), "JPEG", quality=75),
}


def write_golden(
    staged: StagedBundle,
    root: Path,
    samples: Sequence[Sample],
    spec: Preprocessing,
    backend: Backend,
    classes: Sequence[str],
    temperature: float,
) -> None:
    """Write golden images made from validation images, and the answers of a model to them.

    Args:
        staged: Where they are written and recorded.
        root: The data folder.
        samples: Images to make them from; those of different classes are taken in turn.
        spec: The preprocessing.
        backend: The trained model.
        classes: The classes' names, in index order.
        temperature: The calibration's.
    """
    sources = _one_of_each_class(samples)
    logits = []
    for number, (name, encode) in enumerate(_KINDS.items()):
        sample = sources[number % len(sources)]
        image = decode((root / sample.path).read_bytes(), spec)
        data = encode(image)
        path = f"golden/{name}"
        staged.fresh(path).write_bytes(data)
        staged.add(path, "golden-image")
        logits.append((path, backend.logits(preprocess(data, spec)[None])[0]))
    # The order of the rows is that of the files' names, as readers list them.
    rows = np.stack([row for _, row in sorted(logits, key=lambda pair: pair[0])])
    names = sorted(path for path, _ in logits)
    write_golden_answers(staged, names, rows.astype(np.float32), classes, temperature)


def write_golden_answers(
    staged: StagedBundle,
    names: Sequence[str],
    logits: NDArray[np.float32],
    classes: Sequence[str],
    temperature: float,
) -> None:
    """Write what a model gives for the golden images: logits, and each class's probability.

    Args:
        staged: Where it is written and recorded.
        names: The images' files, in the order of their names.
        logits: float32, shape [G, classes].
        classes: The classes' names, in index order.
        temperature: The calibration's.
    """
    np.save(staged.fresh(LOGITS), logits, allow_pickle=False)
    staged.add(LOGITS, "golden-logits", precision="float32")
    rows = softmax(logits, temperature).tolist()
    answers = {n: dict(zip(classes, row, strict=True)) for n, row in zip(names, rows, strict=True)}
    content = json.dumps(answers, indent=1, ensure_ascii=False) + "\n"
    staged.fresh(ANSWERS).write_text(content, "utf-8")
    staged.add(ANSWERS, "golden-answers")


def _one_of_each_class(samples: Sequence[Sample]) -> list[Sample]:
    first: dict[int, Sample] = {}
    for sample in samples:
        first.setdefault(sample.label, sample)
    return [first[label] for label in sorted(first)]


def _encode(image: Image.Image, image_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()
