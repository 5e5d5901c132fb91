"""The Open Inference Protocol as a client that others wrote speaks it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from tests.service import bundle as bundles
from tests.service.server import Server
from tlserve.bundle import Bundle
from tlserve.runtime import Predictor

IMAGES = [bundles.image(seed) for seed in range(3)]


@pytest.fixture
def triton(server: Server) -> Iterator[Any]:
    client = InferenceServerClient(server.url.removeprefix("http://"))
    yield client
    client.close()


def of_images(*images: bytes) -> Any:
    tensor = InferInput("image", [len(images)], "BYTES")
    return tensor.set_data_from_numpy(np.array(images, dtype=np.object_))


def of_tensors(predictor: Predictor, *, binary: bool) -> Any:
    data = np.stack([predictor.preprocess(image) for image in IMAGES])
    tensor = InferInput("input", list(data.shape), "FP32")
    return tensor.set_data_from_numpy(data, binary_data=binary)


def test_it_finds_the_server_and_the_model(triton: Any, bundle: Bundle) -> None:
    version = bundle.manifest.version
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready("insects")
    assert triton.is_model_ready("insects", version)
    assert not triton.is_model_ready("birds")
    assert triton.get_server_metadata()["name"] == "tlserve"
    assert triton.get_model_metadata("insects")["versions"] == [version]
    assert triton.get_model_metadata("insects", version)["name"] == "insects"


@pytest.mark.parametrize("kind", ["images", "tensors", "tensors in JSON"])
@pytest.mark.parametrize("binary", [True, False, None])
def test_it_gets_the_answer_of_the_predictor(
    triton: Any, predictor: Predictor, kind: str, binary: bool | None
) -> None:
    wanted = predictor.probabilities(np.stack([predictor.preprocess(i) for i in IMAGES]))
    labels = [predictor.top(row, 1)[0].label for row in wanted]
    tensor = (
        of_images(*IMAGES) if kind == "images" else of_tensors(predictor, binary=kind == "tensors")
    )
    asked = (
        None
        if binary is None
        else [InferRequestedOutput(n, binary_data=binary) for n in ("label", "probabilities")]
    )
    result = triton.infer("insects", [tensor], outputs=asked, request_id="seven")
    assert result.get_response()["id"] == "seven"
    assert result.as_numpy("probabilities") == pytest.approx(wanted, abs=1e-6)
    assert result.as_numpy("probabilities").dtype == np.float32
    found = [label.decode() if binary is not False else label for label in result.as_numpy("label")]
    assert found == labels


@pytest.mark.parametrize("binary", [True, False])
def test_it_gets_classifications(triton: Any, predictor: Predictor, binary: bool) -> None:
    asked = [InferRequestedOutput("probabilities", binary_data=binary, class_count=2)]
    result = triton.infer("insects", [of_images(*IMAGES)], outputs=asked)
    table = result.as_numpy("probabilities")
    assert table.shape == (3, 2)
    for data, row in zip(IMAGES, table, strict=True):
        for p, item in zip(predictor.predict([data], 2)[0], row, strict=True):
            text = item.decode() if isinstance(item, bytes) else item
            index = bundles.CLASSES.index(p.label)
            assert text.split(":")[1:] == [str(index), p.label]
            assert float(text.split(":")[0]) == pytest.approx(p.probability, abs=2e-6)


def test_it_understands_errors(triton: Any) -> None:
    with pytest.raises(InferenceServerException, match=r"Image 1: .*not an") as raised:
        triton.infer("insects", [of_images(IMAGES[0], b"not an image")])
    assert raised.value.status() == "400"
    with pytest.raises(InferenceServerException, match="'birds' is not served here"):
        triton.infer("birds", [of_images(*IMAGES)])
    with pytest.raises(InferenceServerException, match="'birds' is not served here"):
        triton.get_model_metadata("birds")
