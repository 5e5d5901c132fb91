"""The metrics of several workers in one answer, whichever of them is asked.

Each writes its own to a folder that they share, once a second; who is asked adds what the others
wrote to its own. Every series says of which worker it is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from prometheus_client import Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from service.channel import FOLDER, NUMBER
from tlserve.bundle.files import replacing

_SECONDS = 1.0
_SUFFIX = ".metrics"


class Snapshots:
    """The metrics of one worker, and of those beside it.

    Args:
        folder: That they share.
        number: Which worker this is.
    """

    def __init__(self, folder: Path, number: str) -> None:
        self._folder = folder
        self._number = number

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Snapshots | None:
        """Read from the environment where they are; ``None`` where there is one worker only."""
        if NUMBER not in environment:
            return None
        return cls(Path(environment[FOLDER]), environment[NUMBER])

    def write_always(self, exposition: Callable[[], bytes]) -> None:
        """Write this worker's metrics once a second from now on."""

        def write() -> None:
            while True:
                self.write(exposition())
                pause.wait(_SECONDS)

        pause = threading.Event()
        threading.Thread(target=write, name="tlserve-metrics", daemon=True).start()

    def write(self, text: bytes) -> None:
        """Write this worker's metrics, for the others."""
        with replacing(self._folder / f"{self._number}{_SUFFIX}") as temporary:
            temporary.write_bytes(text)

    def merged(self, own: bytes) -> bytes:
        """Add the other workers' metrics to this one's, which are newer than what it wrote."""
        texts = {path.stem: path.read_bytes() for path in self._folder.glob(f"*{_SUFFIX}")}
        texts[self._number] = own
        return generate_latest(_Labelled(texts))


class _Labelled(Collector):
    """Metrics of several processes, with a label that says of which."""

    def __init__(self, texts: Mapping[str, bytes]) -> None:
        self._texts = texts

    def collect(self) -> Iterable[Metric]:
        families: dict[str, Metric] = {}
        for number in sorted(self._texts):
            for found in text_string_to_metric_families(self._texts[number].decode("utf-8")):
                family = families.setdefault(
                    found.name, Metric(found.name, found.documentation, found.type)
                )
                for sample in found.samples:
                    labels = {**sample.labels, "worker": number}
                    family.add_sample(sample.name, labels, sample.value)
        return families.values()
