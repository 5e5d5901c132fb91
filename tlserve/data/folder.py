"""Reading the layout of an ImageFolder."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tlserve.errors import DataError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Those that ``torchvision.datasets.ImageFolder`` reads."""

_TRAIN = "train"
_VALIDATION = ("val", "valid", "validation")


@dataclass(frozen=True)
class Sample:
    """One labelled image.

    Attributes:
        path: The file, relative to the data folder, with forward slashes.
        label: The index of its class.
    """

    path: str
    label: int


@dataclass(frozen=True)
class Folder:
    """What lies in a data folder, before any image was opened.

    Attributes:
        root: The folder.
        classes: The class names in index order: sorted, as ImageFolder does.
        train: The images to train on; all images where ``val`` is ``None``.
        val: The images to validate on; ``None`` where the folder has no split of its own.
        ignored: Files in class folders that are no images by their names.
        empty_validation: Classes without images in the validation folder.
    """

    root: Path
    classes: tuple[str, ...]
    train: tuple[Sample, ...]
    val: tuple[Sample, ...] | None
    ignored: tuple[str, ...]
    empty_validation: tuple[str, ...] = ()


def scan(root: Path) -> Folder:
    """List a folder in ImageFolder layout.

    Args:
        root: Either holds ``train/`` and ``val/`` (or ``valid/``, ``validation/``) with one
            folder a class in each, or one folder a class itself.

    Raises:
        DataError: The folder is missing or empty, has fewer than two classes, a class has no
            images, or the validation folder has a class that the training folder lacks.
    """
    if not root.is_dir():
        raise DataError(
            f"{root} is a file, not a folder." if root.exists() else f"There is no folder {root}.",
            hint="Give a folder with one folder of images a class.",
        )
    val_root = next((root / name for name in _VALIDATION if (root / name).is_dir()), None)
    train_root = root / _TRAIN
    if not train_root.is_dir():
        if val_root is not None and len(_class_folders(root)) == 1:
            raise DataError(f"{root} has {val_root.name}/ but no train/.")
        return _scan_flat(root)
    if val_root is None:
        raise DataError(
            f"{root} has train/ but no val/.",
            hint=f"Add val/, or have a part split off: tlserve finetune {train_root}",
        )
    classes = _classes(train_root)
    train, ignored = _samples(root, train_root, classes)
    _check_filled(train_root, classes, train)
    strangers = sorted({p.name for p in _class_folders(val_root)} - set(classes))
    if strangers:
        raise DataError(
            f"{val_root} has the class {', '.join(strangers)}, which {train_root} lacks.",
            hint=f"The classes are those of train/: {', '.join(classes)}.",
        )
    val, ignored_val = _samples(root, val_root, classes)
    if not val:
        raise DataError(f"{val_root} has no images.", hint=_layout_hint())
    counts = Counter(sample.label for sample in val)
    missing = tuple(name for index, name in enumerate(classes) if not counts[index])
    return Folder(root, classes, train, val, ignored + ignored_val, missing)


def _scan_flat(root: Path) -> Folder:
    classes = _classes(root)
    samples, ignored = _samples(root, root, classes)
    _check_filled(root, classes, samples)
    return Folder(root, classes, samples, None, ignored)


def _class_folders(root: Path) -> list[Path]:
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))


def _classes(root: Path) -> tuple[str, ...]:
    names = tuple(p.name for p in _class_folders(root))
    if not names:
        raise DataError(f"{root} has no class folders.", hint=_layout_hint())
    if len(names) == 1:
        raise DataError(
            f"{root} has one class only, {names[0]!r}; a classifier needs two or more.",
            hint=_layout_hint(),
        )
    return names


def _samples(
    root: Path, part: Path, classes: tuple[str, ...]
) -> tuple[tuple[Sample, ...], tuple[str, ...]]:
    samples: list[Sample] = []
    ignored: list[str] = []
    for label, name in enumerate(classes):
        folder = part / name
        if not folder.is_dir():
            continue
        for path in sorted(folder.rglob("*")):
            if path.name.startswith(".") or not path.is_file():
                continue
            relative = path.relative_to(root).as_posix()
            if path.suffix.lower() in IMAGE_SUFFIXES:
                samples.append(Sample(relative, label))
            else:
                ignored.append(relative)
    return tuple(samples), tuple(ignored)


def _check_filled(part: Path, classes: tuple[str, ...], samples: tuple[Sample, ...]) -> None:
    counts = Counter(sample.label for sample in samples)
    empty = [name for index, name in enumerate(classes) if not counts[index]]
    if empty:
        raise DataError(
            f"{part} has no images of the class {', '.join(empty)}.",
            hint=f"Add some, or remove the folder. Read are {', '.join(IMAGE_SUFFIXES)}.",
        )


def _layout_hint() -> str:
    return "Expected: DATA/<class>/*.jpg, or DATA/train/<class>/*.jpg and DATA/val/<class>/*.jpg."
