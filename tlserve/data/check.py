"""Opening every image once: which are broken, and what the data set's fingerprint is."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tlserve.bundle.manifest import Preprocessing
from tlserve.data.folder import Folder, Sample
from tlserve.data.threads import in_threads
from tlserve.errors import DataError, ImageError
from tlserve.preprocess import decode

_SHOWN_FILES = 10


@dataclass(frozen=True)
class Problem:
    """A file that is not used, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class CheckedFolder:
    """A folder whose every image can be decoded.

    Attributes:
        folder: The folder, without the images that cannot.
        problems: The files that were left out.
        sha256: The hash of each image that is used.
    """

    folder: Folder
    problems: tuple[Problem, ...]
    sha256: dict[str, str]


def check_images(
    folder: Folder,
    spec: Preprocessing,
    *,
    strict: bool = False,
    workers: int = 4,
    advance: Callable[[], None] = lambda: None,
) -> CheckedFolder:
    """Decode every image and leave out those that cannot be.

    Args:
        folder: What was scanned.
        spec: Whose decoding rules apply.
        strict: Whether a broken image, or a file that is no image, is an error.
        workers: Threads; Pillow releases the interpreter's lock while it decodes.
        advance: Called once an image.

    Raises:
        DataError: ``strict``, and there is a problem; or a class has no readable image left.
    """
    samples = [*folder.train, *(folder.val or ())]

    def examine(number: int) -> tuple[str, str]:
        """Give the hash and an empty string, or an empty string and what is wrong."""
        sample = samples[number]
        try:
            data = (folder.root / sample.path).read_bytes()
            decode(data, spec)
        except ImageError as error:
            return "", error.message
        except OSError as error:
            return "", f"cannot be read: {error.strerror}"
        return hashlib.sha256(data).hexdigest(), ""

    hashes: dict[str, str] = {}
    problems = [Problem(path, "not an image by its name") for path in folder.ignored]
    results = in_threads(examine, len(samples), workers)
    for sample, (digest, reason) in zip(samples, results, strict=True):
        advance()
        if reason:
            problems.append(Problem(sample.path, reason))
        else:
            hashes[sample.path] = digest
    if problems and strict:
        raise DataError(
            f"{len(problems)} files in {folder.root} cannot be used:\n{list_problems(problems)}",
            hint="Repair or remove them, or drop --strict to leave them out.",
        )
    used = Folder(
        root=folder.root,
        classes=folder.classes,
        train=_readable(folder.train, hashes),
        val=None if folder.val is None else _readable(folder.val, hashes),
        ignored=folder.ignored,
        empty_validation=folder.empty_validation,
    )
    _check_left(used, problems)
    return CheckedFolder(used, tuple(problems), hashes)


def list_problems(problems: Sequence[Problem]) -> str:
    """Write problems as lines, the first few."""
    lines = [f"  {p.path}: {p.reason}" for p in problems[:_SHOWN_FILES]]
    if len(problems) > _SHOWN_FILES:
        lines.append(f"  … and {len(problems) - _SHOWN_FILES} more")
    return "\n".join(lines)


def fingerprint(sha256: dict[str, str]) -> str:
    """Hash a data set: its files' names and contents, in whatever order they were read."""
    digest = hashlib.sha256()
    for path in sorted(sha256):
        digest.update(f"{path}\0{sha256[path]}\n".encode())
    return digest.hexdigest()


def content_hash(samples: Sequence[Sample], sha256: Mapping[str, str]) -> str:
    """Hash the contents of images in their order, whatever their names."""
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(f"{sha256[sample.path]}\n".encode())
    return digest.hexdigest()


def _readable(samples: tuple[Sample, ...], hashes: dict[str, str]) -> tuple[Sample, ...]:
    return tuple(s for s in samples if s.path in hashes)


def _check_left(folder: Folder, problems: list[Problem]) -> None:
    counts = Counter(sample.label for sample in folder.train)
    empty = [name for index, name in enumerate(folder.classes) if not counts[index]]
    if empty or folder.val == ():
        what = f"of the class {', '.join(empty)}" if empty else "to validate on"
        raise DataError(
            f"{folder.root} has no readable image {what}:\n{list_problems(problems)}",
            hint="Repair the files or remove the class.",
        )
