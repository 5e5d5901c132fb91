"""From encoded bytes to the network's input: the one definition, for every stage.

Pillow and NumPy only. For an ordinary RGB image the result equals, bit for bit, what
``weights.transforms()`` of torchvision gives; the resize and crop arithmetic follows
``torchvision.transforms.functional`` (``_compute_resized_output_size``, ``center_crop``).
"""

from __future__ import annotations

import io
import math
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError

from tlserve.bundle.manifest import Preprocessing
from tlserve.errors import ImageError, ImageTooLargeError, UndecodableImageError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")
"""The decoders that are tried. Others are left out on purpose: some run external programs."""

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "nearest-exact": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
    "lanczos": Image.Resampling.LANCZOS,
}

_MAX_RESIZED_PIXELS = 2**24
"""Above this, a resized image of extreme proportions is never made whole: only its crop is."""

_LARGEST_SUPPORT = 3
"""Pixels that the widest filter, Lanczos, reads to either side."""

_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By the value of the EXIF orientation tag."""

_SIXTEEN_BIT_MODES = ("I;16", "I;16L", "I;16B", "I;16N")


def preprocess(data: bytes, spec: Preprocessing) -> NDArray[np.float32]:
    """Turn the bytes of an image file into the network's input.

    Returns:
        float32, shape [3, height, width] of ``spec.crop``, normalised.

    Raises:
        UndecodableImageError: The bytes are not a whole image of a known format.
        ImageTooLargeError: It has more pixels than ``spec.decoding.max_pixels``.
    """
    return to_tensor(decode(data, spec), spec)


def decode(data: bytes, spec: Preprocessing) -> Image.Image:
    """Decode an image file to an upright RGB image, by the rules of ``spec.decoding``.

    Raises:
        UndecodableImageError: The bytes are not a whole image of a known format.
        ImageTooLargeError: It has too many pixels; found out before they are decoded.
    """
    rules = spec.decoding
    if not data:
        raise UndecodableImageError("The image is empty: it has 0 bytes.")
    try:
        with _open(data) as image:
            width, height = image.size
            if width == 0 or height == 0:
                raise UndecodableImageError(f"The image has {width} x {height} pixels.")
            if width * height > rules.max_pixels:
                raise ImageTooLargeError(
                    f"The image has {width} x {height} = {width * height:,} pixels; "
                    f"at most {rules.max_pixels:,} are accepted.",
                    hint="Send a smaller version of it.",
                )
            _draft(image, spec)
            image.load()
            return _to_rgb(_upright(image))
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooLargeError(
            f"The image is too large: at most {rules.max_pixels:,} pixels are accepted.",
            hint="Send a smaller version of it.",
        ) from error
    # For malformed files Pillow's decoders raise almost anything, struct.error included.
    except Exception as error:
        reason = str(error).rstrip(".") or type(error).__name__
        raise UndecodableImageError(
            f"The image cannot be decoded: {reason}.",
            hint="The file is damaged, or cut short: save it again, or take another copy of it.",
        ) from error


def to_tensor(image: Image.Image, spec: Preprocessing) -> NDArray[np.float32]:
    """Resize, crop and normalise an RGB image.

    Returns:
        float32, shape [3, height, width], contiguous.
    """
    return normalised(resize_and_crop(image, spec), spec)


def normalised(image: Image.Image, spec: Preprocessing) -> NDArray[np.float32]:
    """Turn an RGB image that is resized and cropped into the network's input.

    Returns:
        float32, shape [3, height, width], contiguous.
    """
    pixels = np.asarray(image, dtype=np.uint8)
    # These float32 operations in this order are torchvision's.
    result = pixels.transpose(2, 0, 1).astype(np.float32, order="C")
    result /= np.float32(255)
    result -= np.array(spec.mean, dtype=np.float32)[:, None, None]
    result /= np.array(spec.std, dtype=np.float32)[:, None, None]
    return result


def decoded_edges(path: Path, spec: Preprocessing) -> tuple[int, int]:
    """Tell from a file's header the edges, in no order, of what ``decode`` makes of it."""
    with Image.open(path, formats=FORMATS) as image:
        _draft(image, spec)
        return image.size


def resized_size(width: int, height: int, spec: Preprocessing) -> tuple[int, int]:
    """Give the (width, height) that an image of this size is resized to."""
    if len(spec.resize) == 2:
        return spec.resize[1], spec.resize[0]
    (target,) = spec.resize
    short, long = sorted((width, height))
    other = int(target * long / short)
    return (target, other) if width <= height else (other, target)


def _draft(image: Image.Image, spec: Preprocessing) -> None:
    if spec.decoding.jpeg_draft is not None:
        edge = max(spec.resize) * spec.decoding.jpeg_draft
        image.draft(None, (edge, edge))


def _open(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise UndecodableImageError(
            "The bytes are not an image of a known format "
            f"({', '.join(FORMATS)}); they begin with {data[:8]!r}."
        ) from error


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except (OSError, SyntaxError, ValueError, TypeError, LookupError, struct.error):
        # EXIF data that cannot be read say nothing; the pixels are good.
        return image
    # Not ImageOps.exif_transpose: it copies upright images, and writes the EXIF data anew, which
    # fails for odd ones.
    method = _TRANSPOSITIONS.get(orientation)
    return image if method is None else image.transpose(method)


def _to_rgb(image: Image.Image) -> Image.Image:
    mode = image.mode
    if mode == "RGB" and not image.has_transparency_data:
        return image
    if mode in _SIXTEEN_BIT_MODES or mode == "I":
        return _scaled_to_eight_bits(image)
    if mode == "F":
        raise UndecodableImageError(
            "The image has floating-point pixels, whose range no rule says.",
            hint="Save it as 8-bit or 16-bit.",
        )
    if mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        transform = ImageCms.buildTransform(lab, srgb, "LAB", "RGB")
        converted = ImageCms.applyTransform(image, transform)
        if converted is None:
            raise UndecodableImageError("The image's LAB colours cannot be converted.")
        return converted
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        canvas = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(canvas, layer).convert("RGB")
    return image.convert("RGB")


def _scaled_to_eight_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise UndecodableImageError(
            f"The image has grey values from {values.min()} to {values.max()}; "
            "those of 16 bits (0 to 65535) are accepted."
        )
    # 65535 / 255 = 257 exactly, so white stays white and black black.
    grey = ((values + 128) // 257).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    return Image.fromarray(grey).convert("RGB")


def resize_and_crop(image: Image.Image, spec: Preprocessing) -> Image.Image:
    """Give the RGB image of ``spec.crop`` that normalisation makes the network's input of."""
    resample = _FILTERS[spec.interpolation]
    width, height = resized_size(*image.size, spec)
    crop_height, crop_width = spec.crop
    x, window_width, pad_x = _window(width, crop_width)
    y, window_height, pad_y = _window(height, crop_height)
    if width * height > _MAX_RESIZED_PIXELS:
        scale_x, scale_y = image.width / width, image.height / height
        box = (
            x * scale_x,
            y * scale_y,
            (x + window_width) * scale_x,
            (y + window_height) * scale_y,
        )
        window = _resize_box(image, (window_width, window_height), resample, box)
    else:
        resized = (
            image.resize((width, height), resample) if (width, height) != image.size else image
        )
        window = resized.crop((x, y, x + window_width, y + window_height))
    if window.size == (crop_width, crop_height):
        return window
    canvas = Image.new("RGB", (crop_width, crop_height))
    canvas.paste(window, (pad_x, pad_y))
    return canvas


def _window(size: int, crop: int) -> tuple[int, int, int]:
    """Lay a centred crop over one axis: (start in the image, length, black pixels before it)."""
    if size < crop:
        return 0, size, (crop - size) // 2
    # Python's round, to the even neighbour, is torchvision's rule too.
    return round((size - crop) / 2.0), crop, 0


def _resize_box(
    image: Image.Image,
    size: tuple[int, int],
    resample: Image.Resampling,
    box: tuple[float, float, float, float],
) -> Image.Image:
    """Resize a part of an image, its surroundings taken into account at its edges."""
    # Pillow holds the box in 32-bit floats: cut near it first, so that its numbers are small.
    left, top, right, bottom = box
    margin_x = math.ceil(_LARGEST_SUPPORT * max((right - left) / size[0], 1)) + 1
    margin_y = math.ceil(_LARGEST_SUPPORT * max((bottom - top) / size[1], 1)) + 1
    cut_left, cut_top = max(int(left) - margin_x, 0), max(int(top) - margin_y, 0)
    cut = image.crop(
        (
            cut_left,
            cut_top,
            min(math.ceil(right) + margin_x, image.width),
            min(math.ceil(bottom) + margin_y, image.height),
        )
    )
    near = (
        left - cut_left,
        top - cut_top,
        min(right - cut_left, cut.width),
        min(bottom - cut_top, cut.height),
    )
    return cut.resize(size, resample, box=near)
