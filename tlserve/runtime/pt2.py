"""The ``torch.export`` backend: runs ``.pt2`` archives."""

from __future__ import annotations

import torch
from torch.export.passes import move_to_device_pass

from tlserve.bundle import Bundle
from tlserve.errors import BundleFileError
from tlserve.runtime.archive import METADATA, extra_text
from tlserve.runtime.backend import Backend, Device
from tlserve.runtime.eager import TorchBackend
from tlserve.runtime.torch_device import torch_device


class ExportedBackend(TorchBackend):
    """The module of a ``torch.export.ExportedProgram``."""

    name = "pt2"


def load(bundle: Bundle, _name: str, device: Device, threads: int | None) -> Backend:
    """Open the bundle's ``.pt2`` file.

    Raises:
        BundleFileError: There is none, or torch cannot read it.
        ChecksumError: It was altered.
        DeviceError: CUDA was asked for and cannot be used.
    """
    path = bundle.verified("pt2")
    target = torch_device(device)
    content = {METADATA: ""}
    try:
        program = torch.export.load(path, extra_files=content)
    # What a file that is no archive of a program makes torch raise depends on its content.
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BundleFileError(
            f"torch cannot open {path}: {first}.", hint="Export the model again."
        ) from error
    if device != "cpu":
        program = move_to_device_pass(program, target)
    backend = ExportedBackend(program.module(), target, threads)
    backend.description = extra_text(content[METADATA])
    return backend
