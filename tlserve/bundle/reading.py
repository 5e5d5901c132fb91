"""Opening a bundle, and refusing one that is not what was written."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tlserve.bundle.files import sha256_of
from tlserve.bundle.manifest import SCHEMA_VERSION, FileKind, Manifest
from tlserve.errors import (
    BundleError,
    BundleFileError,
    BundleNotFoundError,
    BundleSchemaError,
    ChecksumError,
)

MANIFEST = "bundle.json"
_ATTEMPTS = 10
WEIGHTS = "weights.safetensors"

READ_ALONG: dict[FileKind, FileKind] = {
    "onnx": "onnx-data",
    "openvino-bf16": "openvino-bf16-data",
}
"""What is read with a file of a kind, by whoever opens that file: the data that it refers to."""

_EXPORTED_BY: dict[FileKind, str] = {
    "onnx": "--onnx",
    "onnx-fp16": "--onnx --precision fp16",
    "onnx-int8": "--onnx --precision int8",
    "openvino-bf16": "--openvino",
    "torchscript": "--torchscript",
    "pt2": "--pt2",
}
"""The options of `tlserve export` that add a file of a kind."""


@dataclass(frozen=True)
class Bundle:
    """A model bundle on disk.

    Attributes:
        path: Its directory.
        manifest: The content of its ``bundle.json``.
        manifest_sha256: The hash of that file when it was read.
    """

    path: Path
    manifest: Manifest
    manifest_sha256: str

    @classmethod
    def read(cls, path: Path) -> Bundle:
        """Read ``bundle.json`` and see that every file it lists is there.

        Hashes are compared by :meth:`verify`, for the files that a caller is about to use.

        Raises:
            BundleNotFoundError: There is no ``bundle.json``.
            BundleSchemaError: It is not JSON, not of a known schema version, or not valid.
            BundleFileError: A listed file is missing.
        """
        for attempt in range(_ATTEMPTS):
            # Parsed and hashed are the same bytes, whatever happens to the file meanwhile.
            content = _manifest_bytes(path)
            bundle = cls(
                path, _parse(path / MANIFEST, content), hashlib.sha256(content).hexdigest()
            )
            try:
                for name in bundle.manifest.files:
                    bundle.file(name)
            except BundleFileError:
                if bundle.is_current() or attempt == _ATTEMPTS - 1:
                    raise
                continue
            break
        return bundle

    def is_current(self) -> bool:
        """Tell whether the bundle on disk is still the one that was read."""
        try:
            return sha256_of(self.path / MANIFEST) == self.manifest_sha256
        except OSError:
            return False

    def file(self, name: str) -> Path:
        """Give the path of a listed file.

        Raises:
            BundleFileError: It is not there.
        """
        path = self.path / name
        if not path.is_file():
            raise BundleFileError(
                f"The bundle {self.path} is missing the file {name}, which its {MANIFEST} lists.",
                hint="Restore the file from where the bundle was copied, or make the bundle again.",
            )
        return path

    def names(self, kind: FileKind) -> list[str]:
        """List the files of one kind, in the order of their names."""
        return sorted(n for n, entry in self.manifest.files.items() if entry.kind == kind)

    def names_read(self, kind: FileKind) -> list[str]:
        """List the file of a kind, and then those that are read along with it."""
        names, along = self.names(kind), READ_ALONG.get(kind)
        return [*names, *(self.names(along) if names and along else [])]

    def verified(self, kind: FileKind) -> Path:
        """Give the one file of a kind, its hash compared.

        So are those of the files that are read along with it.

        Raises:
            BundleFileError: The bundle has no file of this kind.
            ChecksumError: The file is not the one that was written.
        """
        names = self.names_read(kind)
        if not names:
            if any(entry.kind == kind for entry in self.manifest.left_out.values()):
                raise BundleFileError(
                    f"{self.path} is a copy of a bundle without its file of kind {kind!r}.",
                    hint="Use the bundle that it was copied from.",
                )
            raise BundleFileError(
                f"The bundle {self.path} has no file of kind {kind!r}.",
                hint=(
                    f"Make it with `tlserve export {self.path} {_EXPORTED_BY[kind]}`."
                    if kind in _EXPORTED_BY
                    else "Make the bundle again."
                ),
            )
        self.verify(names)
        return self.path / names[0]

    def verify(self, names: list[str] | None = None) -> None:
        """Compare files with the hashes that ``bundle.json`` gives.

        Args:
            names: Which files; all of them by default.

        Raises:
            BundleFileError: A file is missing.
            ChecksumError: A file differs; the message names it and both hashes.
            BundleError: The whole bundle was replaced since it was read.
        """
        try:
            self._verify(sorted(self.manifest.files) if names is None else names)
        except (BundleFileError, ChecksumError, FileNotFoundError) as error:
            if self.is_current():
                raise
            raise BundleError(
                f"The bundle {self.path} was replaced by another process while it was read.",
                hint="Run the command again.",
            ) from error

    def _verify(self, names: list[str]) -> None:
        for name in names:
            expected = self.manifest.files[name].sha256
            found = sha256_of(self.file(name))
            if found != expected:
                raise ChecksumError(
                    f"The file {name} of the bundle {self.path} is not the one that was written: "
                    f"its SHA-256 is {found}, {MANIFEST} says {expected}.",
                    hint="Restore the file, or make the bundle again.",
                )


def _manifest_bytes(path: Path) -> bytes:
    for _ in range(_ATTEMPTS):
        try:
            return (path / MANIFEST).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            # While a bundle is replaced, a lookup can end in the old directory, already emptied.
            continue
        except IsADirectoryError:
            break
    raise BundleNotFoundError(
        f"There is no model bundle at {path}: it has no {MANIFEST}.",
        hint="A bundle is what `tlserve finetune` writes, for example models/<name>.",
    )


def _parse(path: Path, data: bytes) -> Manifest:
    try:
        content: Any = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise BundleSchemaError(f"{path} is not valid JSON: {error}.") from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        raise BundleSchemaError(
            f"{path} has schema version {version!r}; this tlserve reads version {SCHEMA_VERSION}.",
            hint="Use the tlserve that wrote it, or make the bundle again with this one.",
        )
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the manifest"
        raise BundleSchemaError(
            f"{path} does not follow the bundle schema: {where}: {first['msg']}"
            f" ({error.error_count()} problems in all).",
            hint="bundle.json is not meant to be edited; make the bundle again.",
        ) from error
