"""Good requests with their answers, and what the server holds."""

from __future__ import annotations

from tests.service import bundle as bundles
from tests.service.server import Server
from tlserve.bundle import Bundle
from tlserve.runtime import Predictor

_IMAGES = 8


def expected_answers(bundle: Bundle) -> list[tuple[bytes, dict[str, float]]]:
    """Make images, and their probabilities in this process."""
    predictor = Predictor.load(bundle)
    images = [bundles.image(seed) for seed in range(_IMAGES)]
    return [
        (image, {p.label: p.probability for p in predictions})
        for image, predictions in zip(images, predictor.predict(images), strict=True)
    ]


def held(server: Server) -> int:
    """Give the memory of the server's processes, what they share counted once; bytes."""
    return sum(child.memory_full_info().pss for child in server.children())
