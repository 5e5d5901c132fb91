"""The Open Inference Protocol, byte by byte; its real client is in test_tritonclient.py."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import httpx
import numpy as np
import pytest

from tests.service import bundle as bundles
from tests.service.test_predict import expected
from tests.service.test_problems import assert_problem
from tlserve.bundle import Bundle
from tlserve.runtime import Predictor

INFER = "/v2/models/insects/infer"
LENGTH = "Inference-Header-Content-Length"
GOOD = bundles.image(0)
TEXT = base64.b64encode(GOOD).decode()
BASE64 = {"content_type": "base64"}
SIZE = 3 * 64 * 64


def image(**more: Any) -> dict[str, Any]:
    data = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [TEXT]}
    return data | {"parameters": BASE64} | more


def floats(**more: Any) -> dict[str, Any]:
    return {"name": "input", "datatype": "FP32", "shape": [1, 3, 64, 64]} | more


def request(*inputs: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"content": json.dumps({"inputs": inputs} | more).encode()}


def binary(tensor: dict[str, Any], data: bytes, size: Any = None, **more: Any) -> dict[str, Any]:
    size = len(data) if size is None else size
    text = json.dumps({"inputs": [tensor | {"parameters": {"binary_data_size": size}}], **more})
    return {"content": text.encode() + data, "headers": {LENGTH: str(len(text))}}


def prefixed(*items: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(item)) + item for item in items)


def outputs(response: httpx.Response) -> dict[str, dict[str, Any]]:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    return {output["name"]: output for output in response.json()["outputs"]}


def test_images_and_their_tensors_get_the_answer_of_the_predictor(
    client: httpx.Client, predictor: Predictor, bundle: Bundle
) -> None:
    images = [bundles.image(seed) for seed in range(3)]
    wanted = predictor.probabilities(np.stack([predictor.preprocess(i) for i in images]))
    labels = [next(iter(expected(predictor, data))) for data in images]
    text = [base64.b64encode(data).decode() for data in images]
    tensors = np.stack([predictor.preprocess(data) for data in images])
    no_data = {"name": "image", "datatype": "BYTES", "shape": [3]}
    shaped = floats(shape=list(tensors.shape))
    for asked in (
        request(image(shape=[3], data=text)),
        binary(no_data, prefixed(*images)),
        request(floats(shape=list(tensors.shape), data=tensors.tolist())),
        request(floats(shape=list(tensors.shape), data=tensors.ravel().tolist())),
        binary(shaped, tensors.tobytes()),
    ):
        response = client.post(INFER, **asked)
        found = outputs(response)
        assert response.json()["model_name"] == "insects"
        assert response.json()["model_version"] == bundle.manifest.version
        assert list(found) == ["probabilities", "label"]
        assert found["probabilities"]["shape"] == [3, 7]
        assert found["probabilities"]["data"] == pytest.approx(wanted.ravel(), abs=1e-6)
        assert found["label"] == {
            "name": "label",
            "datatype": "BYTES",
            "shape": [3],
            "data": labels,
        }


def test_the_outputs_and_their_form_are_chosen(client: httpx.Client) -> None:
    label = {"name": "label"}
    classes = {"name": "probabilities", "parameters": {"classification": 2}}
    version = client.get("/model").json()["version"]
    url = f"/v2/models/insects/versions/{version}/infer"
    response = client.post(url, **request(image(), outputs=[label, classes], id="7"))
    assert response.json()["id"] == "7"
    found = outputs(response)
    assert list(found) == ["label", "probabilities"]
    assert found["probabilities"]["shape"] == [1, 2]
    probability, index, name = found["probabilities"]["data"][0].split(":")
    assert [name] == found["label"]["data"]
    assert bundles.CLASSES[int(index)] == name
    assert 0.5 < float(probability) <= 1 or len(bundles.CLASSES) > 2

    mixed = [{"name": "probabilities", "parameters": {"binary_data": False}}, label]
    parameters = {"binary_data_output": True}
    response = client.post(url, **request(image(), outputs=mixed, parameters=parameters))
    assert response.headers["content-type"] == "application/octet-stream"
    length = int(response.headers[LENGTH])
    in_json, after = json.loads(response.content[:length])["outputs"]
    assert len(in_json["data"]) == 7
    assert after["parameters"] == {"binary_data_size": len(response.content) - length}
    assert response.content[length:] == prefixed(name.encode())


def test_metadata(client: httpx.Client, bundle: Bundle) -> None:
    assert client.get("/v2").json()["extensions"] == ["binary_tensor_data", "classification"]
    version = bundle.manifest.version
    model = client.get("/v2/models/insects").json()
    assert client.get(f"/v2/models/insects/versions/{version}").json() == model
    assert (model["versions"], model["platform"]) == ([version], "tlserve_onnx")
    assert {i["name"]: (i["datatype"], i["shape"]) for i in model["inputs"]} == {
        "image": ("BYTES", [-1]),
        "input": ("FP32", [-1, 3, 64, 64]),
    }
    assert {o["name"]: (o["datatype"], o["shape"]) for o in model["outputs"]} == {
        "probabilities": ("FP32", [-1, 7]),
        "label": ("BYTES", [-1]),
    }
    for path in ("health/live", "health/ready", "models/insects/ready"):
        assert client.get(f"/v2/{path}").status_code == 200
    for path in ("other", "other/ready", "insects/versions/1", "insects/versions/1/ready"):
        problem = assert_problem(client.get(f"/v2/models/{path}"), 404, "NoSuchModel", "served")
        assert version in problem["error"]
    response = client.post("/v2/models/other/infer", **request(image()))
    assert_problem(response, 404, "NoSuchModel", "'other'")
    assert "error" in client.get("/v2/nowhere").json()
    assert "error" not in client.get("/nowhere").json()


NAN = np.full(SIZE, np.nan, dtype="<f4").tobytes()
ZEROS = bytes(4 * SIZE)
BYTES = {"name": "image", "datatype": "BYTES", "shape": [1]}

CASES: dict[str, tuple[dict[str, Any], str]] = {
    "no JSON": ({"content": b"?"}, "not JSON"),
    "cut off": ({"content": b'{"inputs": ['}, "not JSON"),
    "not UTF-8": ({"content": b'{"id": "\xff"}'}, "not JSON"),
    "deep": ({"content": b"[" * 100_000}, "not JSON"),
    "a list": ({"content": b"[]"}, "must be a JSON object"),
    "empty": ({"content": b""}, "not JSON"),
    "no inputs": (request(), "this one has 0"),
    "both inputs": (request(image(), floats(data=[0.0] * SIZE)), "this one has 2"),
    "inputs by name": ({"content": b'{"inputs": {"image": 1}}'}, "inputs must be a list"),
    "an input of text": ({"content": b'{"inputs": ["image"]}'}, "must be an object"),
    "an unknown input": (request(image(name="images")), "no input 'images'"),
    "a name of a list": (request(image(name=["image"])), "no input ['image']"),
    "id": (request(image(), id=7), "id must be a string"),
    "datatype of images": (request(image(datatype="UINT8")), "'BYTES', not 'UINT8'"),
    "datatype of numbers": (request(floats(datatype="FP64", data=[])), "'FP32', not 'FP64'"),
    "no shape": (request(image(shape=None)), "shape must be a list"),
    "shape of images": (request(image(shape=[1, 1])), "[N], not [1, 1]"),
    "shape of numbers": (request(floats(shape=[3, 64, 64], data=[])), "[N, 3, 64, 64]"),
    "shape of truth": (request(image(shape=[True])), "[N], not [True]"),
    "shape with fractions": (request(image(shape=[1.0])), "[N], not [1.0]"),
    "no images": (request(image(shape=[0], data=[])), "at least one image"),
    "fewer than none": (request(image(shape=[-1])), "at least one image, not -1"),
    "more strings than said": (request(image(data=[TEXT, TEXT])), "says 1 images"),
    "plain text": (request(image(parameters={})), "only if its parameters say so"),
    "no base64": (request(image(data=["§"])), "not base64"),
    "numbers for images": (request(image(data=[1])), "a list of strings"),
    "no data": (request(floats()), "neither data nor"),
    "data twice": (binary(floats(data=[0.0] * SIZE), ZEROS), "it can have one"),
    "too few numbers": (request(floats(data=[0.0] * 5)), "12,288 numbers"),
    "another nesting": (request(floats(data=[[0.0] * SIZE])), "has the shape [1, 12288]"),
    "uneven": (request(floats(data=[[0.0], [0.0, 1.0]])), "unevenly"),
    "text for numbers": (request(floats(data=["0"] * SIZE)), "must be numbers"),
    "truth for numbers": (request(floats(data=[True] * SIZE)), "must be numbers"),
    "null for numbers": (request(floats(data=[None] * SIZE)), "must be numbers"),
    "NaN in JSON": (request(floats(data=[float("nan")] * SIZE)), "not JSON"),
    "beyond float64": ({"content": b'{"inputs": [1e999]}'}, "must be an object"),
    "beyond float32": (request(floats(data=[1e39] * SIZE)), "not finite float32"),
    "beyond all": (request(floats(data=[10**400] * SIZE)), "must be numbers"),
    "NaN": (binary(floats(), NAN), "not finite float32"),
    "no answer": (binary(floats(), np.full(SIZE, 3e38, "<f4").tobytes()), "is not finite"),
    "bytes too few": (binary(floats(), ZEROS[4:]), "has 49,152 bytes"),
    "bytes too many": (binary(floats(), ZEROS + ZEROS), "has 49,152 bytes"),
    "size below zero": (binary(floats(), ZEROS, -1), "not -1"),
    "size of text": (binary(floats(), ZEROS, "9"), "not '9'"),
    "size too large": (binary(floats(), ZEROS, 10**30), "accounts for 1000000"),
    "size endless": (binary(floats(), ZEROS, int("9" * 4300)), "accounts for 999999"),
    "size zero": (binary(floats(), ZEROS, 0), "accounts for 0"),
    "bytes nobody described": (
        request(image()) | {"headers": {LENGTH: "10"}},
        "not JSON",
    ),
    "length beyond the body": (request(image()) | {"headers": {LENGTH: "99999999"}}, LENGTH),
    "length of text": (request(image()) | {"headers": {LENGTH: "-1"}}, "'-1'"),
    "length prefix cut": (binary(BYTES, b"\x01\x00"), "ends within its element 0"),
    "length prefix too large": (binary(BYTES, b"\xff\xff\xff\xffabc"), "ends within its element 0"),
    "more images than said": (binary(BYTES, prefixed(GOOD, GOOD)), "its data has more"),
    "fewer images than said": (binary(BYTES | {"shape": [2]}, prefixed(GOOD)), "its data has 1"),
    "shared memory": (
        request(image(parameters={"shared_memory_region": "a"})),
        "Shared memory is not offered",
    ),
    "unknown output": (request(image(), outputs=[{"name": "logits"}]), "no output 'logits'"),
    "output of text": (request(image(), outputs=["label"]), "no output 'label'"),
    "output twice": (request(image(), outputs=[{"name": "label"}] * 2), "twice"),
    "classes of the label": (
        request(image(), outputs=[{"name": "label", "parameters": {"classification": 1}}]),
        "is a class already",
    ),
    "fewer classes than none": (
        request(image(), outputs=[{"name": "probabilities", "parameters": {"classification": -1}}]),
        "not -1",
    ),
    "binary perhaps": (
        request(image(), outputs=[{"name": "label", "parameters": {"binary_data": "no"}}]),
        "true or false",
    ),
    "parameters of text": (request(image(), parameters="binary"), "must be an object"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_breaks_the_protocol_is_explained(client: httpx.Client, case: str) -> None:
    asked, detail = CASES[case]
    problem = assert_problem(client.post(INFER, **asked), 400, "InvalidInference", detail)
    assert problem["error"].startswith(problem["detail"])
    assert len(problem["detail"]) < 300


def test_images_are_refused_as_everywhere(client: httpx.Client) -> None:
    response = client.post(INFER, **binary(BYTES | {"shape": [2]}, prefixed(GOOD, b"no image")))
    assert_problem(response, 400, "UndecodableImage", "Image 1: ")
    assert_problem(client.post(INFER, **binary(BYTES, prefixed(b""))), 400, "EmptyBody", "Image 0")
    many = BYTES | {"shape": [65]}
    assert_problem(client.post(INFER, **binary(many, b"")), 413, "TooManyImages", "has 65")
    for count in (10**30, 2**63):
        huge = request(floats(shape=[count, 3, 64, 64], data=[]))
        assert_problem(client.post(INFER, **huge), 413, "TooManyImages", "64 images")
    large = binary(BYTES, prefixed(bytes(20 * 2**20 + 1)))
    assert_problem(client.post(INFER, **large), 413, "TooManyBytes", "20,971,520")
    response = client.post(INFER, content=b" " * (21 * 2**20))
    assert_problem(response, 413, "TooManyBytes", "with binary data")
    packed = request(image()) | {"headers": {"Content-Encoding": "gzip"}}
    assert_problem(client.post(INFER, **packed), 415, "UnsupportedType", "gzip")
