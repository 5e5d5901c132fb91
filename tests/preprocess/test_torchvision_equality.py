"""For RGB images, preprocessing is torchvision's, bit for bit."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.models
from PIL import Image
from torchvision.models import get_model_weights, list_models
from torchvision.transforms import InterpolationMode, functional

from tests.bundles import SPEC
from tests.images import encoded, noise, png
from tlserve.bundle.manifest import Decoding, Preprocessing
from tlserve.errors import ImageTooLargeError
from tlserve.preprocess import preprocess, resized_size, to_tensor
from tlserve.zoo.presets import from_torchvision, with_image_size

SIZES = [
    (1, 1),
    (1, 20),
    (20, 1),
    (5, 7),
    (224, 224),
    (256, 256),
    (333, 481),
    (900, 60),
    (60, 900),
]


def _presets() -> dict[str, Any]:
    found: dict[str, tuple[str, Any]] = {}
    for name in list_models(module=torchvision.models):
        for entry in get_model_weights(name):
            transforms = entry.transforms()
            found.setdefault(
                repr(from_torchvision(transforms)), (f"{name}-{entry.name}", transforms)
            )
    return dict(found.values())


PRESETS = _presets()


@pytest.fixture(params=PRESETS, name="transforms")
def _transforms(request: pytest.FixtureRequest) -> Any:
    return PRESETS[request.param]


def test_the_presets_are_many_and_of_several_kinds() -> None:
    specs = [from_torchvision(transforms) for transforms in PRESETS.values()]
    assert len(specs) >= 15
    assert {spec.interpolation for spec in specs} == {"bilinear", "bicubic"}
    assert any(spec.resize[0] == spec.crop[0] for spec in specs)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_synthetic_images(transforms: Any, size: tuple[int, int]) -> None:
    image = noise(*size)
    spec = from_torchvision(transforms)
    found = to_tensor(image, spec)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    assert found.flags.writeable
    assert np.array_equal(found, transforms(image).numpy())


@pytest.mark.shared
def test_photographs(transforms: Any, photographs: list[Path]) -> None:
    spec = from_torchvision(transforms)
    for path in photographs[::30]:
        data = path.read_bytes()
        expected = transforms(Image.open(io.BytesIO(data)).convert("RGB")).numpy()
        assert np.array_equal(preprocess(data, spec), expected), path.name


@pytest.mark.shared
def test_every_photograph_with_the_usual_preset(photographs: list[Path]) -> None:
    transforms = get_model_weights("mobilenet_v2").IMAGENET1K_V1.transforms()
    spec = from_torchvision(transforms)
    assert len(photographs) > 100
    for path in photographs:
        with Image.open(path) as image:
            expected = transforms(image.convert("RGB")).numpy()
        assert np.array_equal(preprocess(path.read_bytes(), spec), expected), path.name


def _step_by_step(image: Image.Image, spec: Preprocessing) -> Any:
    """What the preset does, for sizes that it cannot be told."""
    image = functional.resize(image, list(spec.resize), InterpolationMode(spec.interpolation))
    image = functional.center_crop(image, list(spec.crop))
    tensor = functional.convert_image_dtype(functional.pil_to_tensor(image), torch.float)
    return functional.normalize(tensor, list(spec.mean), list(spec.std)).numpy()


@pytest.mark.parametrize("crop", [(224, 224), (225, 300), (301, 40), (1, 1)])
@pytest.mark.parametrize("resize", [(64,), (201,), (202, 303)])
def test_crops_that_leave_the_image_and_rectangular_ones(
    resize: tuple[int, ...], crop: tuple[int, int]
) -> None:
    spec = Preprocessing.model_validate(SPEC.model_dump() | {"resize": resize, "crop": crop})
    for size in [(90, 70), (70, 91), (400, 33)]:
        image = noise(*size)
        assert np.array_equal(to_tensor(image, spec), _step_by_step(image, spec)), size


def test_a_smaller_input_keeps_the_proportion_of_the_resize() -> None:
    spec = from_torchvision(get_model_weights("resnet18").IMAGENET1K_V1.transforms())
    small = with_image_size(spec, 112)
    assert (small.resize, small.crop) == ((128,), (112, 112))
    assert small.model_copy(update={"resize": spec.resize, "crop": spec.crop}) == spec
    assert to_tensor(noise(50, 60), small).shape == (3, 112, 112)


@pytest.mark.parametrize("size", [(2, 700), (700, 2), (270, 75000)])
@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0"])
def test_extreme_proportions_are_close(name: str, size: tuple[int, int]) -> None:
    transforms = get_model_weights(name).DEFAULT.transforms()
    spec = from_torchvision(transforms)
    width, height = resized_size(*size, spec)
    assert width * height > 2**24, "this must take the path of extreme proportions"
    # Smooth, for Pillow chooses by the sizes whether to resize along x or y first: each pass rounds
    # and, where a bicubic one overshoots, clips.
    image = _smooth(*size)
    difference = np.abs(to_tensor(image, spec) - transforms(image).numpy())
    levels = difference * np.array(spec.std, dtype=np.float32)[:, None, None] * 255
    assert levels.max() <= (1.01 if spec.interpolation == "bilinear" else 2.01)
    assert np.mean(levels > 0.5) < 0.1


def _smooth(width: int, height: int) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    waves = [128 + 100 * np.sin(x / 31 + y / (29 + c)) * np.cos(y / 47 - c) for c in range(3)]
    return Image.fromarray(np.stack(waves, axis=2).astype(np.uint8))


def test_an_extreme_image_under_a_crop_larger_than_the_resize() -> None:
    spec = SPEC.model_copy(update={"resize": (200,), "crop": (300, 301)})
    image = _smooth(2, 900)
    difference = to_tensor(image, spec) - _step_by_step(image, spec)
    assert np.abs(difference).max() * max(spec.std) * 255 <= 1.01


@pytest.mark.parametrize("resize", [20, 256])
def test_a_line_of_pixels_takes_little_memory(resize: int) -> None:
    # Made whole, this image would have 2,000,000 x 256 x 256 pixels.
    program = f"""
import resource
from PIL import Image
from tlserve.bundle.manifest import Preprocessing
from tlserve.preprocess import to_tensor
spec = Preprocessing(resize=({resize},), interpolation="bicubic", crop=(224, 224),
                     mean=(0, 0, 0), std=(1, 1, 1))
for size in (2_000_000, 1), (1, 2_000_000):
    image = Image.new("RGB", size, (255, 0, 51))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    values = to_tensor(image, spec)[:, 112, 112]
    assert [round(float(v), 3) for v in values] == [1, 0, 0.2], values
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 60 * 1024, grown
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_far_away_window_is_cut_where_it_belongs() -> None:
    # Positions beyond 2**24 do not fit the 32-bit floats of Pillow's boxes.
    width = 2**25 + 1000
    pixels = np.zeros((1, width, 3), dtype=np.uint8)
    middle = width // 2
    pixels[0, middle - 1 : middle + 1] = 255
    spec = Preprocessing(
        resize=(64,), interpolation="bilinear", crop=(64, 1024), mean=(0, 0, 0), std=(1, 1, 1)
    )
    row = to_tensor(Image.fromarray(pixels), spec)[0, 32]
    bright = np.flatnonzero(row > 0.9)
    assert abs(bright.mean() - 511.5) <= 1
    assert 60 <= len(bright) <= 128


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    # Compressed, 81, 108 and 900 million black pixels are small; decoded, 10 to 112 MB as bits.
    sizes = [(9000, 9000), (12000, 9000), (30000, 30000)]
    for width, height in sizes:
        rows = bytes((width // 8 + 1) * height)
        data = png(width, height, depth=1, colour=0, rows=rows)
        (tmp_path / f"{width}.png").write_bytes(data)
    program = """
import resource, sys, warnings
from pathlib import Path
from tests.bundles import SPEC
from tests.images import encoded, noise
from tlserve.errors import ImageTooLargeError
from tlserve.preprocess import decode
warnings.simplefilter("ignore")
decode(encoded(noise(8, 8)), SPEC)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        decode(path.read_bytes(), SPEC)
    except ImageTooLargeError as error:
        assert "67,108,864" in str(error), error
    else:
        raise AssertionError(f"{path} was accepted")
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
assert grown < 4096, grown
"""
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, cwd=root)


def test_the_pixel_limit_is_the_bundles() -> None:
    spec = SPEC.model_copy(update={"decoding": Decoding(max_pixels=100)})
    assert preprocess(encoded(noise(10, 10)), spec).shape == (3, 32, 32)
    with pytest.raises(ImageTooLargeError, match=r"101 x 1 = 101 pixels; at most 100 "):
        preprocess(encoded(noise(101, 1)), spec)
