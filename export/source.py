"""What is exported, and what several formats need of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from export import onnx
from tlserve.bundle.manifest import Scalar

if TYPE_CHECKING:
    from export.calibration import Batches
    from export.int8 import Quantiser


class Source:
    """A trained model on its way into files.

    Attributes:
        model: In evaluation mode, on the CPU.
        example: float32, shape [N, 3, height, width], N > 1.
        metadata: What each file says of itself, JSON.
        images: Preprocessed images, float32 [N, 3, height, width].
        calibration: Gives preprocessed images that trained.
    """

    def __init__(
        self,
        model: nn.Module,
        example: torch.Tensor,
        metadata: str,
        images: NDArray[np.float32],
        scratch: Path,
        calibration: Callable[[], Batches],
    ) -> None:
        """Take a model.

        Args:
            model: See above.
            example: See above.
            metadata: See above.
            images: See above.
            scratch: A folder for files in between.
            calibration: See above.
        """
        self.model = model
        self.example = example
        self.metadata = metadata
        self.images = images
        self.calibration = calibration
        self._scratch = scratch

    def folder(self) -> Path:
        """Make a folder for files in between."""
        return Path(mkdtemp(dir=self._scratch))

    @cached_property
    def float32_onnx(self) -> tuple[Path, dict[str, Scalar]]:
        """The float32 ONNX file, exported once, and its details.

        Its data may be beside it, see :data:`export.onnx.DATA_SUFFIX`.
        """
        path = self.folder() / "model.onnx"
        return path, onnx.write(self.model, self.example, path, self.metadata)

    @cached_property
    def quantiser(self) -> Quantiser:
        """What makes INT8 files of it, calibrated."""
        from export.int8 import Quantiser

        path, _ = self.float32_onnx
        return Quantiser(path, self.calibration(), self.folder())
