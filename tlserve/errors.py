"""Every error that a user can cause, in one tree.

::

    TlserveError                  exit code 1
    ├── UsageError                exit code 2: an option or a name is wrong
    ├── RunInterruptedError       exit code 130: Ctrl-C or SIGTERM; says what is kept
    ├── MissingDependencyError    a library is absent; names the extra to install
    ├── DataError                 the image folder
    ├── WeightsError              pretrained weights: cannot be had, or do not fit
    ├── DeviceError               the device that was asked for is not what would run
    ├── StorageError              the disk: full, read-only, already occupied
    ├── BundleError               a model bundle
    │   ├── BundleNotFoundError   there is none at that path
    │   ├── BundleSchemaError     ``bundle.json`` is not one that this version reads
    │   ├── BundleFileError       a file of it is missing
    │   └── ChecksumError         a file of it is not the one that was written
    ├── ImageError                one image
    │   ├── UndecodableImageError
    │   └── ImageTooLargeError
    ├── ExportError               an exporter failed
    │   └── ParityError           an exported file does not answer as the model does
    └── ServiceError              the service could not start

The command line catches ``TlserveError`` and nothing else: whatever else escapes is a defect of
ours and keeps its traceback.
"""

from __future__ import annotations

from typing import Any


class TlserveError(Exception):
    """An error with a message for people.

    Args:
        message: The rule that was broken and the value that broke it.
        hint: What to do next; empty where the message says it already.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        # From another process it comes with its hint, which is no positional argument.
        return _restored, (type(self), self.message, self.hint)


def _restored(kind: type[TlserveError], message: str, hint: str) -> TlserveError:
    return kind(message, hint=hint)


class UsageError(TlserveError):
    """An option or a name on the command line is wrong."""

    exit_code = 2


class RunInterruptedError(TlserveError):
    """A run was ended from outside, by Ctrl-C or SIGTERM."""

    exit_code = 130


class MissingDependencyError(TlserveError):
    """A library that this operation needs is not installed."""


class DataError(TlserveError):
    """The image folder cannot be used as it is."""


class WeightsError(TlserveError):
    """Pretrained weights cannot be had, or do not fit the architecture."""


class DeviceError(TlserveError):
    """The requested device or execution provider is not what would run."""


class ProcessorError(DeviceError):
    """The processor lacks the instructions that were asked for."""


class StorageError(TlserveError):
    """A file or folder cannot be written."""


class BundleError(TlserveError):
    """A model bundle cannot be used."""


class BundleNotFoundError(BundleError):
    """There is no bundle at this path."""


class BundleSchemaError(BundleError):
    """``bundle.json`` is not valid, or of a schema version that is not known here."""


class BundleFileError(BundleError):
    """A file that ``bundle.json`` lists is missing, or one that is needed was never made."""


class ChecksumError(BundleError):
    """A file of the bundle differs from the one that was written."""


class ImageError(TlserveError):
    """One image cannot be used; its neighbours can."""


class UndecodableImageError(ImageError):
    """The bytes are not an image that can be decoded."""


class ImageTooLargeError(ImageError):
    """The image has more pixels than the bundle's decoding rules admit."""


class ExportError(TlserveError):
    """A model could not be exported."""


class ParityError(ExportError):
    """An exported file does not give the answers of the model that was trained."""


class ServiceError(TlserveError):
    """The service could not be started."""
