"""Pretrained weights: what is copied, what is refused, and in which words."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tlserve.bundle.files import sha256_of
from tlserve.errors import UsageError, WeightsError
from tlserve.zoo.architectures import build, head_parameters
from tlserve.zoo.presets import preset, weights_entry
from tlserve.zoo.weights import Pretrained, load_backbone, load_pretrained

State = dict[str, Tensor]
ARCH = "mobilenet_v3_small"


@pytest.fixture(scope="module")
def state() -> State:
    """A state dict with ImageNet's head."""
    torch.manual_seed(1)
    return dict(build(ARCH, 1000).state_dict())


def save(path: Path, content: object) -> None:
    if path.suffix == ".safetensors":
        assert isinstance(content, dict)
        save_file(content, path)
    else:
        torch.save(content, path)


@pytest.mark.parametrize("name", ["efficientnet_b0", "mnasnet0_5", "resnet18", ARCH])
def test_all_but_the_head_is_copied(name: str) -> None:
    torch.manual_seed(1)
    source = build(name, 1000).state_dict()
    model = build(name, 3)
    head = set(head_parameters(name))
    kept = {key: model.state_dict()[key].clone() for key in head}
    load_backbone(model, name, Pretrained("file", state=dict(source)))
    found = model.state_dict()
    assert all(torch.equal(found[key], source[key]) for key in source if key not in head)
    assert all(torch.equal(found[key], kept[key]) for key in head)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".safetensors"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {f"module.{key}": value for key, value in state.items()},
    ],
    ids=["plain", "module."],
)
def test_files(tmp_path: Path, state: State, suffix: str, wrap: Callable[[State], State]) -> None:
    path = tmp_path / f"weights{suffix}"
    save(path, wrap(state))
    pretrained = load_pretrained(ARCH, str(path))
    assert pretrained.source == str(path)
    assert pretrained.entry is None
    assert pretrained.sha256 == sha256_of(path)
    model = build(ARCH, 3)
    load_backbone(model, ARCH, pretrained)
    key = "features.0.0.weight"
    assert torch.equal(model.state_dict()[key], state[key])


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_a_state_dict_within_a_checkpoint(tmp_path: Path, state: State, wrapper: str) -> None:
    path = tmp_path / "checkpoint.pth"
    inner = {f"module.{key}": value for key, value in state.items()}
    torch.save({"epoch": 3, wrapper: inner, "optimizer": {"lr": 0.1}}, path)
    found = load_pretrained(ARCH, str(path)).state
    assert found is not None
    assert found.keys() == state.keys()


def test_none_leaves_the_model_alone() -> None:
    model = build(ARCH, 3)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    pretrained = load_pretrained(ARCH, "None")
    assert pretrained == Pretrained("none")
    load_backbone(model, ARCH, pretrained)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_keys_that_do_not_fit_are_named_and_nothing_is_copied(state: State) -> None:
    first = "features.0.0.weight"
    altered = {key: value for key, value in state.items() if not key.startswith("features.12.")}
    altered |= {"surprise.weight": torch.zeros(1), first: torch.zeros(16, 3, 5, 5)}
    model = build(ARCH, 3)
    before = model.state_dict()["features.1.block.0.0.weight"].clone()
    with pytest.raises(WeightsError) as caught:
        load_backbone(model, ARCH, Pretrained("my.pth", state=altered))
    message = str(caught.value)
    assert "my.pth do not fit mobilenet_v3_small" in message
    assert "5 missing: features.12.0.weight" in message
    assert "1 not of this architecture: surprise.weight" in message
    assert f"1 of another shape: {first} (16, 3, 5, 5) instead of (16, 3, 3, 3)" in message
    assert "--arch" in message
    assert torch.equal(model.state_dict()["features.1.block.0.0.weight"], before)


def test_of_many_keys_a_few_are_shown(state: State) -> None:
    head_only = {key: state[key] for key in head_parameters(ARCH)}
    with pytest.raises(WeightsError, match=r"missing: ([\w.]+, ){5}…\.") as caught:
        load_backbone(build(ARCH, 3), ARCH, Pretrained("x", state=head_only))
    assert len(str(caught.value)) < 500


def test_weights_of_another_architecture_are_refused() -> None:
    other = dict(build("resnet18", 1000).state_dict())
    with pytest.raises(WeightsError, match=r"missing: features.*not of this architecture: conv1"):
        load_backbone(build(ARCH, 3), ARCH, Pretrained("resnet18.pth", state=other))


def test_old_checkpoints_without_batch_counters_are_fine(state: State) -> None:
    old = {key: value for key, value in state.items() if "num_batches_tracked" not in key}
    assert len(old) < len(state)
    model = build(ARCH, 3)
    load_backbone(model, ARCH, Pretrained("old.pth", state=old))
    assert torch.equal(model.state_dict()["features.0.0.weight"], state["features.0.0.weight"])


class Malicious:
    """Unpickling this creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("writer", [torch.save, lambda c, path: path.write_bytes(pickle.dumps(c))])
def test_a_malicious_pickle_is_refused_and_not_run(
    tmp_path: Path, state: State, writer: Callable[[object, Path], object]
) -> None:
    evidence, path = tmp_path / "it ran", tmp_path / "weights.pth"
    writer({**state, "x": Malicious(evidence)}, path)
    with pytest.raises(WeightsError, match=r"weights\.pth cannot be read as a state dict"):
        load_pretrained(ARCH, str(path))
    assert not evidence.exists()
    if writer is not torch.save:
        pickle.loads(path.read_bytes())  # noqa: S301 - the trap must be a working one
        assert evidence.exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.pth", b""),
        ("text.pth", b"hello, world"),
        ("text.safetensors", b"hello, world"),
        ("empty.safetensors", b""),
        ("cut.pth", b"PK\x03\x04" + bytes(100)),
    ],
)
def test_files_that_hold_something_else(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=f"{name} cannot be read as a state dict"):
        load_pretrained(ARCH, str(tmp_path / name))


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, torch.zeros(3)])
def test_pickles_that_hold_no_state_dict(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match="is not a state dict"):
        load_pretrained(ARCH, str(tmp_path / "x.pth"))


def test_damaged_files_only_ever_raise_weights_errors(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"a": torch.arange(20.0), "b": torch.zeros(3)}, path)
    valid = path.read_bytes()
    generator = torch.Generator().manual_seed(0)
    refused = 0
    for _ in range(150):
        data = bytearray(valid)
        for _ in range(3):
            place = int(torch.randint(len(data), (), generator=generator))
            data[place] = int(torch.randint(256, (), generator=generator))
        path.write_bytes(data)
        try:
            load_pretrained(ARCH, str(path))
        except WeightsError:
            refused += 1
    assert refused > 10


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for path in "missing.pth", str(tmp_path / "missing"):
        with pytest.raises(UsageError, match="does not exist"):
            load_pretrained(ARCH, path)


def test_an_unknown_entry_lists_those_there_are() -> None:
    with pytest.raises(UsageError, match="resnet50 has no weights named 'IMAGENET'") as caught:
        load_pretrained("resnet50", "IMAGENET")
    assert caught.value.hint == (
        "Known: DEFAULT, IMAGENET1K_V1, IMAGENET1K_V2; or the path of a file, or none."
    )


def test_entries_and_their_presets() -> None:
    assert weights_entry("resnet50").name == "IMAGENET1K_V2"
    assert weights_entry("resnet50", "IMAGENET1K_V1").name == "IMAGENET1K_V1"
    assert preset("resnet50").resize == (232,)
    assert preset("resnet50", "IMAGENET1K_V1").resize == (256,)
    assert preset("vit_b_16", "IMAGENET1K_SWAG_E2E_V1").crop == (384, 384)


def test_without_a_network_the_hint_is_a_way_out(tmp_path: Path) -> None:
    program = """
from tlserve.errors import WeightsError
from tlserve.zoo.weights import load_pretrained
try:
    load_pretrained("resnet18", "DEFAULT")
except WeightsError as error:
    print(error.message)
    print(error.hint)
"""
    with socket.socket() as unused:
        # Bound but not listening: connections to it are refused.
        unused.bind(("127.0.0.1", 0))
        proxy = f"http://127.0.0.1:{unused.getsockname()[1]}"
        environment = {k: v for k, v in os.environ.items() if k.lower() != "no_proxy"}
        environment |= {"TORCH_HOME": str(tmp_path), "https_proxy": proxy, "HTTPS_PROXY": proxy}
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
    # torch.hub says first what it downloads.
    message, hint = done.stdout.splitlines()[-2:]
    assert message.startswith("The weights IMAGENET1K_V1 of resnet18 cannot be downloaded: ")
    assert "refused" in message
    assert "https://download.pytorch.org/models/resnet18-f37072fd.pth" in hint
    assert "--weights" in hint
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.shared
def test_the_real_weights_fit(shared: Path) -> None:
    path = shared / "weights" / "mobilenet_v2_imagenet.pth"
    pretrained = load_pretrained("mobilenet_v2", str(path))
    load_backbone(build("mobilenet_v2", 2), "mobilenet_v2", pretrained)
    assert pretrained.sha256 == sha256_of(path)
