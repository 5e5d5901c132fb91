"""The decoding rules, format by format, and what is refused."""

from __future__ import annotations

import io
import pickle
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from tests.bundles import SPEC
from tests.images import Pixels, encoded, noise, png
from tlserve.bundle.manifest import Decoding
from tlserve.errors import ImageError, ImageTooLargeError, UndecodableImageError
from tlserve.preprocess import decode, preprocess, to_tensor


def pixels(data: bytes) -> Pixels:
    image = decode(data, SPEC)
    assert image.mode == "RGB"
    return np.asarray(image)


TO_UPRIGHT: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", TO_UPRIGHT)
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("WEBP", {"lossless": True}),
    ],
    ids=["png", "tiff", "tiff-lzw", "webp"],
)
def test_exif_orientation(kind: str, options: dict[str, object], orientation: int) -> None:
    image = noise(7, 5)
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = pixels(encoded(image, kind, exif=exif, **options))
    assert np.array_equal(found, TO_UPRIGHT[orientation](np.asarray(image)))


@pytest.mark.parametrize("orientation", TO_UPRIGHT)
def test_exif_orientation_of_jpeg(orientation: int) -> None:
    image = noise(33, 20)
    exif = Image.Exif()
    exif[0x0112] = orientation
    plain = pixels(encoded(image, "JPEG"))
    assert np.array_equal(pixels(encoded(image, "JPEG", exif=exif)), TO_UPRIGHT[orientation](plain))


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(pixels(encoded(noise(7, 5), exif=exif)), np.asarray(noise(7, 5)))


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize(
    "exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0II*\0\x08\0\0\0\xff"]
)
def test_broken_exif_does_not_lose_the_photograph(exif: bytes) -> None:
    image = noise(20, 10)
    assert np.array_equal(pixels(encoded(image, "JPEG", exif=exif)), pixels(encoded(image, "JPEG")))


def test_exif_that_pillow_cannot_write_again_still_orients() -> None:
    # Orientation 6, and a rational with a type that does not match its tag's usual one.
    entries = struct.pack("<HHII", 0x0112, 3, 1, 6) + struct.pack("<HHIi", 0x9286, 9, 1, -5)
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 2) + entries + bytes(4)
    image = noise(20, 10)
    assert pixels(encoded(image, "JPEG", exif=exif)).shape == (20, 10, 3)


def test_grey_is_repeated() -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    found = pixels(encoded(Image.fromarray(grey)))
    assert np.array_equal(found, np.repeat(grey[:, :, None], 3, axis=2))


NDFloat = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def over_white(colour: Pixels, alpha: Pixels) -> NDFloat:
    share = alpha[:, :, None] / 255
    blended: NDFloat = colour * share + 255 * (1 - share)
    return blended


def test_rgba_lies_over_white() -> None:
    colour = np.asarray(noise(16, 16))
    alpha = np.arange(256, dtype=np.uint8).reshape(16, 16)
    found = pixels(encoded(Image.fromarray(np.dstack([colour, alpha]))))
    assert np.abs(found - over_white(colour, alpha)).max() <= 1
    assert found[0, 0].tolist() == [255, 255, 255]
    assert np.array_equal(found[-1, -1], colour[-1, -1])


def test_grey_with_alpha_lies_over_white() -> None:
    grey = np.full((16, 16), 40, dtype=np.uint8)
    alpha = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = Image.merge("LA", [Image.fromarray(grey), Image.fromarray(alpha)])
    expected = over_white(np.dstack([grey] * 3), alpha)
    assert np.abs(pixels(encoded(image)) - expected).max() <= 1


def palette_image() -> Image.Image:
    image = Image.fromarray(np.array([[0, 1, 2], [2, 1, 0]], dtype=np.uint8), "P")
    image.putpalette([10, 20, 30, 200, 100, 0, 0, 0, 255])
    return image


def test_palette() -> None:
    a, b, c = [10, 20, 30], [200, 100, 0], [0, 0, 255]
    assert pixels(encoded(palette_image())).tolist() == [[a, b, c], [c, b, a]]


def test_palette_with_transparency() -> None:
    white, b = [255, 255, 255], [200, 100, 0]
    found = pixels(encoded(palette_image(), transparency=b"\x00\xff\x80"))
    half = found[0, 2].tolist()
    assert found.tolist() == [[white, b, half], [half, b, white]]
    assert np.abs(np.array(half) - [127, 127, 255]).max() <= 1


@pytest.mark.parametrize(
    ("colour", "rows", "key", "expected"),
    [
        (
            2,
            b"\0" + bytes([9, 8, 7, 1, 2, 3]),
            struct.pack(">HHH", 9, 8, 7),
            [[255] * 3, [1, 2, 3]],
        ),
        (0, b"\0" + bytes([9, 1]), struct.pack(">H", 9), [[255] * 3, [1] * 3]),
    ],
    ids=["rgb", "grey"],
)
def test_a_transparent_colour_becomes_white(
    colour: int, rows: bytes, key: bytes, expected: list[list[int]]
) -> None:
    data = png(2, 1, depth=8, colour=colour, rows=rows, transparency=key)
    assert pixels(data).tolist() == [expected]


def test_a_transparent_sixteen_bit_grey_becomes_white() -> None:
    rows = b"\0" + struct.pack(">HH", 1000, 2570)
    data = png(2, 1, depth=16, colour=0, rows=rows, transparency=struct.pack(">H", 1000))
    assert pixels(data).tolist() == [[[255] * 3, [10] * 3]]


def test_cmyk() -> None:
    corners = np.zeros((16, 64, 4), dtype=np.uint8)
    corners[:, 16:32, 0] = 255
    corners[:, 32:48, 1] = 255
    corners[:, 48:, 3] = 255
    data = encoded(Image.fromarray(corners, "CMYK"), "JPEG", quality=100, subsampling=0)
    row = pixels(data)[8, 8::16].astype(int)
    expected = np.array([[255, 255, 255], [0, 255, 255], [255, 0, 255], [0, 0, 0]])
    assert np.abs(row - expected).max() <= 4


def test_one_bit() -> None:
    bits = np.array([[0, 1, 1], [1, 0, 1]], dtype=bool)
    found = pixels(encoded(Image.fromarray(bits)))
    assert np.array_equal(found, np.repeat(bits[:, :, None], 3, axis=2) * 255)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_not_clipped(kind: str) -> None:
    values = np.array(
        [[0, 128, 129, 256, 257], [1000, 25700, 32768, 65406, 65535]], dtype=np.uint16
    )
    found = pixels(encoded(Image.fromarray(values), kind))
    assert np.array_equal(found[:, :, 0], np.rint(values / 257))
    assert found[0, 0, 0] == 0
    assert found[1, 4, 0] == 255
    assert np.array_equal(found, np.repeat(found[:, :, :1], 3, axis=2))


def test_sixteen_bit_colour_is_scaled_not_clipped() -> None:
    values = np.array([0, 256, 300, 25700, 40000, 65535])
    data = png(2, 1, depth=16, colour=2, rows=b"\0" + values.astype(">u2").tobytes())
    assert np.abs(pixels(data).ravel() - values / 257).max() <= 1


def test_wide_integers_of_sixteen_bits_are_scaled() -> None:
    values = np.array([[0, 257, 65535]], dtype=np.int32)
    assert pixels(encoded(Image.fromarray(values), "TIFF"))[:, :, 0].tolist() == [[0, 1, 255]]


@pytest.mark.parametrize("value", [-1, 65536, 2**31 - 1])
def test_wider_integers_are_refused(value: int) -> None:
    image = Image.fromarray(np.array([[0, value]], dtype=np.int32))
    with pytest.raises(UndecodableImageError, match=f"{value}.*0 to 65535"):
        decode(encoded(image, "TIFF"), SPEC)


def test_floating_point_is_refused() -> None:
    image = Image.fromarray(np.zeros((2, 2), dtype=np.float32))
    with pytest.raises(UndecodableImageError, match="floating-point"):
        decode(encoded(image, "TIFF"), SPEC)


def test_lab() -> None:
    colours = np.array([[[255, 255, 255], [0, 0, 0], [200, 60, 60], [30, 90, 160]]], dtype=np.uint8)
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    transform = ImageCms.buildTransform(srgb, lab, "RGB", "LAB")
    image = ImageCms.applyTransform(Image.fromarray(colours), transform)
    assert image is not None
    assert image.mode == "LAB"
    assert np.abs(pixels(encoded(image, "TIFF")) - colours.astype(int)).max() <= 8


def test_ycbcr() -> None:
    image = noise(8, 8).convert("YCbCr")
    found = pixels(encoded(image, "TIFF"))
    assert np.array_equal(found, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("GIF", {}),
        ("WEBP", {"lossless": True}),
        ("PNG", {}),
        ("TIFF", {}),
        ("MPO", {"quality": 95}),
    ],
)
def test_the_first_frame_counts(kind: str, options: dict[str, object]) -> None:
    first, second = (Image.new("RGB", (32, 16), c) for c in ((250, 10, 20), (0, 0, 255)))
    data = encoded(first, kind, save_all=True, append_images=[second], **options)
    with Image.open(io.BytesIO(data)) as image:
        image.seek(1)  # raises where there is no second frame
    found = pixels(data)
    assert found.shape == (16, 32, 3)
    assert np.abs(found - np.array([250, 10, 20])).max() <= 3


@pytest.mark.parametrize("kind", ["AVIF", "JPEG2000", "BMP", "PPM"])
def test_other_formats(kind: str) -> None:
    image = Image.new("RGB", (32, 16), (250, 10, 20))
    assert np.abs(pixels(encoded(image, kind)) - np.array([250, 10, 20])).max() <= 3


@pytest.mark.parametrize(
    ("draft", "size"),
    [(None, (2000, 1500)), (5, (2000, 1500)), (4, (1000, 750)), (2, (500, 375)), (1, (250, 188))],
)
def test_jpeg_draft_decodes_smaller(draft: int | None, size: tuple[int, int]) -> None:
    data = encoded(noise(2000, 1500), "JPEG")
    for resize in (180,), (100, 180), (180, 100):
        rules = Decoding(jpeg_draft=draft)
        spec = SPEC.model_copy(update={"resize": resize, "decoding": rules})
        assert decode(data, spec).size == size


def test_jpeg_draft_leaves_other_formats_and_small_images_alone() -> None:
    spec = SPEC.model_copy(update={"decoding": Decoding(jpeg_draft=1)})
    assert decode(encoded(noise(400, 300)), spec).size == (400, 300)
    assert decode(encoded(noise(60, 50), "JPEG"), spec).size == (60, 50)


def test_draft_mode_does_not_let_a_large_image_through() -> None:
    spec = SPEC.model_copy(update={"decoding": Decoding(jpeg_draft=1, max_pixels=10**6)})
    with pytest.raises(ImageTooLargeError, match="2000 x 1500"):
        decode(encoded(Image.new("RGB", (2000, 1500)), "JPEG"), spec)


JPEG = encoded(noise(120, 90), "JPEG")
PNG = encoded(noise(120, 90))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 bytes"),
        (b"hello, world", "not an image of a known format.*b'hello, w'"),
        (b"%PDF-1.7\n1 0 obj", "not an image of a known format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image of a known format"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image of a known format"),
        (JPEG[:3], "not an image"),
        (JPEG[: len(JPEG) // 2], "truncated"),
        (PNG[: len(PNG) // 2], "truncated"),
        (PNG[:40], "not an image"),
        (b"GIF89a" + bytes(7) + b";", "image"),
    ],
)
def test_what_is_not_an_image_is_refused_by_name(data: bytes, message: str) -> None:
    with pytest.raises(UndecodableImageError, match=message):
        preprocess(data, SPEC)


def test_a_file_that_is_cut_short_says_what_to_do() -> None:
    with pytest.raises(UndecodableImageError) as refused:
        preprocess(JPEG[: len(JPEG) // 2], SPEC)
    assert "take another copy" in refused.value.hint


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        ("JPEG", "RGB"),
        ("JPEG", "CMYK"),
        ("MPO", "RGB"),
        ("PNG", "RGB"),
        ("PNG", "P"),
        ("PNG", "RGBA"),
        ("GIF", "P"),
        ("WEBP", "RGBA"),
        ("TIFF", "RGB"),
        ("TIFF", "LAB"),
        ("BMP", "RGB"),
        ("PPM", "L"),
        ("AVIF", "RGB"),
        ("JPEG2000", "RGB"),
    ],
)
def test_mutated_files_only_ever_raise_image_errors(kind: str, mode: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "camera"
    if mode == "LAB":
        image = Image.merge("LAB", noise(24, 18).split())
    else:
        image = noise(24, 18).convert(mode)
    options = {"exif": exif} if kind in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF") else {}
    valid = encoded(image, kind, **options)
    spec = SPEC.model_copy(update={"decoding": Decoding(max_pixels=10**6)})
    generator = np.random.default_rng(len(valid))
    refused = []
    for round_ in range(60):
        data = bytearray(valid)
        for _ in range(int(generator.integers(1, 5))):
            place = int(generator.integers(0, len(data)))
            # Headers break in more ways than pixels.
            place = place % 80 if round_ % 2 else place
            data[place % len(data)] = int(generator.integers(0, 256))
        if round_ % 5 == 0:
            del data[int(generator.integers(1, len(data))) :]
        try:
            image = decode(bytes(data), spec)
        except ImageError as error:
            refused.append(str(error))
        else:
            assert image.mode == "RGB"
            assert to_tensor(image, spec).shape == (3, 32, 32)
    assert refused
    assert all(message.rstrip().endswith(".") for message in refused)


def test_threads_of_a_fresh_process_decode_alike() -> None:
    # The first use is where Pillow loads its plugins.
    program = """
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from tests.bundles import SPEC
from tests.images import noise
import io, pickle, sys
from tlserve.preprocess import preprocess
files = pickle.load(sys.stdin.buffer)
with ThreadPoolExecutor(16) as pool:
    threaded = list(pool.map(lambda data: preprocess(data, SPEC), files * 20))
alone = [preprocess(data, SPEC) for data in files]
assert all(np.array_equal(t, alone[i % len(files)]) for i, t in enumerate(threaded))
"""
    exif = Image.Exif()
    exif[0x0112] = 6
    formats = ["JPEG2000", "AVIF", "WEBP", "TIFF", "GIF", "JPEG", "PNG", "BMP", "PPM", "MPO"]
    files = [encoded(noise(90, 70, seed), kind) for seed, kind in enumerate(formats)]
    files.append(encoded(noise(90, 70), "JPEG", exif=exif))
    files.append(encoded(Image.merge("LAB", noise(30, 20).split()), "TIFF"))
    subprocess.run(
        [sys.executable, "-c", program],
        input=pickle.dumps(files),
        check=True,
        cwd=Path(__file__).resolve().parents[2],
    )
