"""Reading TensorBoard's event files, frame by frame.

The format is TFRecord's: an 8-byte length, its checksum, the message, the message's checksum.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tensorboardX.proto.event_pb2 import Event


def event_files(folder: Path) -> list[Path]:
    """The files of a log, in TensorBoard's order."""
    return sorted(folder.glob("*tfevents*"))


def events(path: Path) -> Iterator[Any]:
    """The events of a file; half a one at its end is an error."""
    content = path.read_bytes()
    place = 0
    while place < len(content):
        (length,) = struct.unpack_from("<Q", content, place)
        message = content[place + 12 : place + 12 + length]
        assert len(message) == length
        yield Event.FromString(message)
        place += 12 + length + 4


def scalars(path: Path) -> dict[str, dict[int, float]]:
    """The numbers of a file: by tag, and by step."""
    found: dict[str, dict[int, float]] = {}
    for event in events(path):
        for value in event.summary.value:
            if value.HasField("simple_value"):
                found.setdefault(value.tag, {})[event.step] = value.simple_value
    return found


def texts(path: Path) -> dict[str, str]:
    """The texts of a file, by tag."""
    return {
        value.tag: value.tensor.string_val[0].decode()
        for event in events(path)
        for value in event.summary.value
        if value.metadata.plugin_data.plugin_name == "text"
    }
