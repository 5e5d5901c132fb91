"""The options that the benchmarks of serving share."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.serving_bundles import DATA, WEIGHTS


def add_serving_options(parser: argparse.ArgumentParser) -> None:
    """Add what says which bundle is served, how, and which images are sent to it."""
    parser.add_argument("--serve-args", default="", help="further arguments of `tlserve serve`")
    # As text: argparse checks defaults that are text like what is given.
    parser.add_argument("--data", type=_images, default=str(DATA), help="an image folder")
    parser.add_argument("--weights", type=_file, default=str(WEIGHTS), help="for MobileNetV2")
    parser.add_argument("--bundles", type=Path, help="where bundles are kept for the next time")


def _images(text: str) -> Path:
    path = Path(text)
    if next(path.rglob("*.jpg"), None) is None:
        raise argparse.ArgumentTypeError(
            f"there are no *.jpg files under {path}; give a folder with train/ and val/, "
            "and a folder for each class in them"
        )
    return path


def _file(text: str) -> Path:
    path = Path(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(
            f"{path} is not a file; give a state dict of torchvision's mobilenet_v2"
        )
    return path
