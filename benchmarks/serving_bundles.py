"""The bundles that are served for measuring, and the answers that are right for their images."""

from __future__ import annotations

import multiprocessing
import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import stdev
from typing import TYPE_CHECKING, cast

from PIL import Image, ImageStat

if TYPE_CHECKING:
    from export.formats import FormatName

ARCHITECTURES = ("mobilenet_v2", "resnet18")
ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
DATA = SHARED / "data" / "hymenoptera"
WEIGHTS = SHARED / "weights" / "mobilenet_v2_imagenet.pth"
_BATCH = 16
_LEAST_SPREAD = 0.01


@dataclass(frozen=True)
class Questions:
    """A bundle, images, and what is right for each.

    Attributes:
        bundle: The bundle.
        files: The images.
        answers: For each the most probable class, and how probable it is.
    """

    bundle: Path
    files: list[Path]
    answers: list[tuple[str, float]]


def questions(
    arch: str, data: Path, weights: Path, folder: Path, backend: str = "onnx"
) -> Questions:
    """Make a bundle, unless an earlier call has, and ask the model about every JPEG file.

    That happens in a process of its own: pages of libraries that this process held, too, would
    count for less where the memory of servers is measured.

    Raises:
        ValueError: All answers are nearly the same: comparing with them would prove nothing.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        bundle = process.submit(_bundle, arch, data, weights, folder.resolve(), backend).result()
    return questions_to(bundle, data, backend)


def questions_to(bundle: Path, data: Path, backend: str = "onnx") -> Questions:
    """Likewise with a bundle that there is already."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        files = sorted(data.resolve().rglob("*.jpg"))
        answers = process.submit(_answers, bundle, files, backend).result()
    if stdev(probability for _, probability in answers) < _LEAST_SPREAD:
        raise ValueError(f"{bundle} answers nearly the same for each of {len(files)} images.")
    return Questions(bundle, files, answers)


def _bundle(arch: str, data: Path, weights: Path, folder: Path, backend: str) -> Path:
    """Fine-tune and export to ONNX, and to what else is served.

    Speed does not depend on what the weights are: an epoch is enough. For what is not MobileNetV2
    there are no pretrained weights; it is trained from random ones, all blocks, on something that
    it learns soon: only where decisions are no close calls can INT8 hold its budget.
    """
    from tlserve.bundle import Bundle
    from tlserve.runtime.backend import BACKENDS

    path = folder / "models" / arch
    if (path / "model.onnx").is_file():
        if not Bundle.read(path).names(BACKENDS[backend].kind):
            from export.demands import Demands
            from export.run import export

            export(path, [cast("FormatName", backend)], Demands())
        return path
    from export.demands import Demands
    from export.run import export
    from tlserve.finetune.config import FinetuneConfig
    from tlserve.finetune.events import Events
    from tlserve.finetune.run import finetune

    pretrained = arch == "mobilenet_v2"
    config = FinetuneConfig(
        data=data.resolve() if pretrained else by_brightness(data, folder / "brightness"),
        name=arch,
        arch=arch,
        weights=str(weights.resolve()) if pretrained else "none",
        strategy="feature-extraction" if pretrained else "full",
        epochs=1 if pretrained else 3,
        output=folder / "models",
        runs=folder / "runs",
        overwrite=True,
    )
    finetune(config, Events())
    export(path, ["onnx"], Demands())
    return _bundle(arch, data, weights, folder, backend)


def by_brightness(data: Path, folder: Path) -> Path:
    """Write a folder of two classes: the darkest third of the photographs, and the lightest."""
    for part in ("train", "val"):
        files = sorted(data.rglob(f"{part}/*/*.jpg"), key=_brightness)
        third = len(files) // 3
        for name, some in (("dark", files[:third]), ("light", files[-third:])):
            (folder / part / name).mkdir(parents=True)
            for file in some:
                shutil.copyfile(file, folder / part / name / file.name)
    return folder


def _brightness(file: Path) -> float:
    with Image.open(file) as image:
        return float(ImageStat.Stat(image.convert("L")).mean[0])


def _answers(bundle: Path, files: list[Path], backend: str) -> list[tuple[str, float]]:
    from tlserve.bundle import Bundle
    from tlserve.runtime import Predictor

    predictor = Predictor.load(Bundle.read(bundle), backend)
    answers: list[tuple[str, float]] = []
    for start in range(0, len(files), _BATCH):
        batch = [file.read_bytes() for file in files[start : start + _BATCH]]
        answers += [(top.label, top.probability) for (top,) in predictor.predict(batch, 1)]
    return answers
