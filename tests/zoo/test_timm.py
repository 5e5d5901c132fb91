"""Architectures of timm: built, filled with weights, and divided into blocks like torchvision's."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save, save_file
from torch import Tensor

from tlserve.errors import UsageError, WeightsError
from tlserve.zoo.architectures import (
    auxiliary_weight,
    build,
    check_architecture,
    check_input_size,
    fillable,
    head_parameters,
    skeleton,
)
from tlserve.zoo.blocks import ordered_blocks
from tlserve.zoo.presets import weights_entry
from tlserve.zoo.weights import Pretrained, load_backbone, load_pretrained

VIT_LAYERS = " ".join(f"blocks.{i}" for i in range(12))

BLOCKS = {
    "resnet10t": "stem layer1 layer2 layer3 layer4 head",
    "regnetx_002": "stem s1 s2 s3 s4 head",
    "convnext_atto": "stem stages.0 stages.1 stages.2 stages.3 head",
    "efficientnet_b0": "stem " + " ".join(f"blocks.{i}" for i in range(7)) + " conv_head head",
    "mobilenetv3_small_050": "stem "
    + " ".join(f"blocks.{i}" for i in range(6))
    + " conv_head head",
    "swin_tiny_patch4_window7_224": "stem layers.0 layers.1 layers.2 layers.3 head",
    "swinv2_tiny_window8_256": "stem layers.0 layers.1 layers.2 layers.3 head",
    "vit_tiny_patch16_224": f"stem {VIT_LAYERS} head",
    "deit_tiny_distilled_patch16_224": f"stem {VIT_LAYERS} head",
    "eva02_tiny_patch14_224": f"stem {VIT_LAYERS} head",
    "beit_base_patch16_224": f"stem {VIT_LAYERS} head",
    "mixer_s32_224": "stem " + " ".join(f"blocks.{i}" for i in range(8)) + " head",
    "maxvit_rmlp_pico_rw_256": "stem stages.0 stages.1 stages.2 stages.3 head",
    "coatnet_nano_rw_224": "stem stages.0 stages.1 stages.2 stages.3 head",
    "pit_ti_224": "stem transformers.0 transformers.1 transformers.2 head",
    "xcit_nano_12_p8_224": f"stem {VIT_LAYERS} cls_attn_blocks head",
    "nest_tiny": "stem levels.0 levels.1 levels.2 head",
}
"""Of each kind of network its blocks; written down by hand from timm's source."""

HEADS = {"deit_tiny_distilled_patch16_224": "head head_dist"}
HEADS |= dict.fromkeys(("resnet10t",), "fc")
HEADS |= dict.fromkeys(("efficientnet_b0", "mobilenetv3_small_050"), "classifier")
HEADS |= dict.fromkeys(
    (
        "regnetx_002",
        "convnext_atto",
        "swin_tiny_patch4_window7_224",
        "swinv2_tiny_window8_256",
        "maxvit_rmlp_pico_rw_256",
        "coatnet_nano_rw_224",
    ),
    "head.fc",
)
"""The modules of the head, where it is not ``head``."""

FILLED = [
    "convnext_atto",
    "deit_tiny_distilled_patch16_224",
    "efficientnet_b0",
    "eva02_tiny_patch14_224",
    "levit_128s",
    "mobilenetv3_small_050",
    "regnety_002",
    "resnetblur18",
    "swin_tiny_patch4_window7_224",
    "swinv2_cr_tiny_ns_224",
    "test_coatnet",
    "test_maxvit",
    "test_vit",
    "vit_relpos_small_patch16_224",
]


@pytest.mark.parametrize("name", BLOCKS)
def test_the_head_and_the_blocks(name: str) -> None:
    name = f"timm/{name}"
    head = head_parameters(name)
    modules = HEADS.get(name.removeprefix("timm/"), "head").split()
    assert head == tuple(f"{m}.{k}" for m in modules for k in ("weight", "bias"))
    model = skeleton(name, 3)
    assert all(p.is_meta for p in model.parameters())
    blocks = ordered_blocks(model, head)
    assert " ".join(block.name for block in blocks) == BLOCKS[name.removeprefix("timm/")]
    found = [p for block in blocks for p in block.parameters]
    assert sorted(found) == sorted(n for n, _ in model.named_parameters())
    assert set(head) <= set(blocks[-1].parameters)


@pytest.mark.parametrize("name", BLOCKS)
def test_the_order_of_blocks_is_that_of_the_forward_pass(name: str) -> None:
    name = f"timm/{name}"
    side = weights_entry(name).preprocessing().crop[0]
    model = skeleton(name, 3, image_size=side).to("meta").eval()
    blocks = ordered_blocks(model, head_parameters(name))
    order: list[int] = []

    def visited(number: int) -> Any:
        return lambda *_: order.append(number)

    for number, block in enumerate(blocks):
        for path in block.modules:
            for module in model.get_submodule(path).modules():
                if any(True for _ in module.parameters(recurse=False)):
                    module.register_forward_hook(visited(number))
    model(torch.empty(2, 3, side, side, device="meta"))
    assert order == sorted(order)
    assert set(order) == set(range(len(blocks)))


def test_embeddings_belong_to_the_stem() -> None:
    stem = ordered_blocks(skeleton("timm/test_vit", 3), head_parameters("timm/test_vit"))[0]
    assert {"cls_token", "pos_embed", "patch_embed.proj.weight"} <= set(stem.parameters)
    name = "timm/vit_srelpos_small_patch16_224"
    stem = ordered_blocks(skeleton(name, 3), head_parameters(name))[0]
    assert "shared_rel_pos.mlp.fc1.weight" in stem.parameters


@pytest.mark.parametrize("name", FILLED)
def test_a_filled_model_answers_as_timms_own(name: str) -> None:
    side = weights_entry(f"timm/{name}").preprocessing().crop[0]
    torch.manual_seed(0)
    original = timm.create_model(name, num_classes=3).eval()
    copy = fillable(f"timm/{name}", 3, image_size=side).eval()
    copy.load_state_dict(original.state_dict(), strict=True, assign=True)
    # Some heads start as zeros, and answer nothing.
    for model in original, copy:
        for key in head_parameters(f"timm/{name}"):
            torch.nn.init.normal_(
                model.get_parameter(key), generator=torch.Generator().manual_seed(1)
            )
    images = torch.randn(2, 3, side, side)
    with torch.inference_mode():
        expected, found = original(images), copy(images)
    assert expected.shape == (2, 3)
    assert not torch.equal(expected[0], expected[1])
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("name", "is_empty"),
    [("resnet10t", True), ("test_vit", True), ("swin_tiny_patch4_window7_224", False)],
)
def test_memory_is_spared_where_that_is_safe(name: str, is_empty: bool) -> None:
    assert all(p.is_meta == is_empty for p in fillable(f"timm/{name}", 3).parameters())


@pytest.mark.parametrize("name", ["deit_tiny_distilled_patch16_224", "volo_d1_224"])
def test_several_heads_give_one_answer_in_training_too(name: str) -> None:
    side = weights_entry(f"timm/{name}").preprocessing().crop[0]
    model = skeleton(f"timm/{name}", 3, image_size=side).to("meta").train()
    assert model(torch.empty(2, 3, side, side, device="meta")).shape == (2, 3)
    assert auxiliary_weight(f"timm/{name}") == 0


@pytest.mark.parametrize("name", ["resnet10t", "test_vit", "swin_tiny_patch4_window7_224"])
def test_another_input_size(name: str) -> None:
    check_input_size(f"timm/{name}", 224)
    check_input_size(f"timm/{name}", 256)


def test_an_input_that_does_not_fit_is_refused() -> None:
    with pytest.raises(UsageError, match="timm/test_maxvit does not take images of 100 x 100"):
        check_input_size("timm/test_maxvit", 100)


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("resnet-50", "timm has no model 'resnet-50'.", "Did you mean timm/resnet50"),
        ("ConvNeXt_atto", "timm has no model 'ConvNeXt_atto'.", "Did you mean timm/convnext_atto"),
        ("gluon_resnet18_v1b", "timm has no model", "Did you mean timm/resnet18.gluon_in1k?"),
        ("xyzzy", "timm has no model 'xyzzy'.", "timm.list_models() lists all "),
        ("", "timm has no model ''.", "timm.list_models() lists all "),
        ("resnet18.mine", "timm has no weights 'mine' of resnet18.", "Known: a1_in1k, "),
    ],
)
def test_unknown_names(name: str, message: str, hint: str) -> None:
    for refuses in (
        check_architecture,
        weights_entry,
        lambda architecture: build(architecture, 3),
        lambda architecture: load_pretrained(architecture, "DEFAULT"),
    ):
        with pytest.raises(UsageError) as caught:
            refuses(f"timm/{name}")
        assert caught.value.message.startswith(message)
        assert caught.value.hint.startswith(hint)


def test_what_is_no_classifier_is_refused() -> None:
    with pytest.raises(UsageError, match="timm/qwen3_vit_88m_enc is no classifier"):
        check_architecture("timm/qwen3_vit_88m_enc")


def test_entries() -> None:
    assert weights_entry("timm/resnet18").name == "resnet18.a1_in1k"
    assert weights_entry("timm/resnet18.tv_in1k").name == "resnet18.tv_in1k"
    assert weights_entry("timm/resnet18", "tv_in1k").name == "resnet18.tv_in1k"
    assert weights_entry("timm/resnet18", "resnet18.tv_in1k").name == "resnet18.tv_in1k"
    assert len(weights_entry("timm/resnet18").meta["categories"]) == 1000
    with pytest.raises(UsageError, match="timm has no weights 'mine' of resnet18") as caught:
        weights_entry("timm/resnet18", "mine")
    assert "a1_in1k" in caught.value.hint


def _state(name: str, num_classes: int = 10, **options: Any) -> dict[str, Tensor]:
    torch.manual_seed(1)
    state: dict[str, Tensor] = timm.create_model(
        name, num_classes=num_classes, **options
    ).state_dict()
    return state


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext"])
def test_a_file_of_weights(name: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    state = _state(name)
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    pretrained = load_pretrained(f"timm/{name}", str(path))
    model = build(f"timm/{name}", 3)
    head = head_parameters(f"timm/{name}")
    before = {key: model.state_dict()[key].clone() for key in head}
    load_backbone(model, f"timm/{name}", pretrained)
    found = model.state_dict()
    assert all(torch.equal(found[k], v) for k, v in state.items() if k not in head)
    assert all(torch.equal(found[k], v) for k, v in before.items())


def test_no_weights_leave_the_model_alone() -> None:
    pretrained = load_pretrained("timm/test_resnet", "none")
    assert pretrained == Pretrained("none")
    load_backbone(build("timm/test_resnet", 3), "timm/test_resnet", pretrained)


def test_for_another_input_size_embeddings_are_resampled_as_timm_does() -> None:
    state = _state("test_vit", img_size=160)
    model = build("timm/test_vit", 3, image_size=96)
    load_backbone(model, "timm/test_vit", Pretrained("x", state=state))
    expected = timm.create_model(
        "test_vit", num_classes=10, img_size=160, pretrained_cfg_overlay={"state_dict": state}
    )
    expected.load_state_dict(state)
    expected.set_input_size(img_size=96)
    found = model.get_parameter("pos_embed")
    assert found.shape == (1, 1 + 6 * 6, 64)
    assert torch.allclose(found, expected.pos_embed, atol=1e-6)


def test_keys_of_the_publisher_are_renamed_as_timm_does() -> None:
    original = _state("convnext_atto", 1000)
    # As facebookresearch/ConvNeXt names them.
    renames = [
        ("stem.0", "downsample_layers.0.0"),
        ("stem.1", "downsample_layers.0.1"),
        ("head.norm", "norm"),
        ("head.fc", "head"),
        ("mlp.fc1", "pwconv1"),
        ("mlp.fc2", "pwconv2"),
        ("conv_dw", "dwconv"),
    ]
    published = {}
    for key, value in original.items():
        name = key.replace(".blocks.", ".")
        if ".downsample." in key:
            _, stage, _, layer, kind = key.split(".")
            name = f"downsample_layers.{stage}.{layer}.{kind}"
        for timms, theirs in renames:
            name = name.replace(timms, theirs)
        published[name] = value
    model = build("timm/convnext_atto", 3)
    load_backbone(model, "timm/convnext_atto", Pretrained("x", state=published))
    head = head_parameters("timm/convnext_atto")
    found = model.state_dict()
    assert all(torch.equal(found[k], v) for k, v in original.items() if k not in head)


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("test_resnet", "resnet18"),
        ("test_vit", "test_convnext"),
        ("test_convnext", "test_vit"),
        ("swin_tiny_patch4_window7_224", "test_vit"),
        ("eva02_tiny_patch14_224", "resnet18"),
    ],
)
def test_weights_of_another_model_are_refused(name: str, other: str) -> None:
    model = build(f"timm/{name}", 3)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(WeightsError, match=f"my.pth do not fit timm/{name}: .*missing: ") as caught:
        load_backbone(model, f"timm/{name}", Pretrained("my.pth", state=_state(other)))
    assert "--arch" in caught.value.hint
    assert all(torch.equal(value, before[k]) for k, value in model.state_dict().items())


def test_a_missing_and_a_surplus_key_are_named() -> None:
    state = _state("test_vit")
    del state["blocks.0.norm1.weight"]
    state["surprise"] = torch.zeros(1)
    with pytest.raises(WeightsError) as caught:
        load_backbone(build("timm/test_vit", 3), "timm/test_vit", Pretrained("x", state=state))
    assert "1 missing: blocks.0.norm1.weight" in caught.value.message
    assert "1 not of this architecture: surprise" in caught.value.message


def test_a_model_without_pretrained_weights_says_so() -> None:
    with pytest.raises(WeightsError) as caught:
        load_pretrained("timm/starnet_s050", "DEFAULT")
    assert caught.value.message == "timm has no pretrained weights for starnet_s050.untrained."
    assert caught.value.hint == ("A file with --weights FILE, or random ones with --weights none.")


def _load_default(name: str, endpoint: str, home: Path, **settings: str) -> list[str]:
    """Ask for the default weights in a process of its own: what it prints, and the seconds."""
    program = f"""
import time
started = time.monotonic()
from tlserve.errors import WeightsError
from tlserve.zoo.weights import load_pretrained
try:
    pretrained = load_pretrained({name!r}, "DEFAULT")
except WeightsError as error:
    print(error.message)
    print(error.hint)
else:
    print(pretrained.source, pretrained.entry)
    print(sum(value.double().sum().item() for value in pretrained.state.values()))
print(time.monotonic() - started)
"""
    environment = {k: v for k, v in os.environ.items() if "proxy" not in k.lower()}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "NO_PROXY": "*", **settings}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()[-3:]


def test_without_a_network_the_hint_is_a_way_out(tmp_path: Path) -> None:
    with socket.socket() as unused:
        # Bound but not listening: connections to it are refused.
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
        message, hint, seconds = _load_default("timm/test_vit", endpoint, tmp_path)
    expected = "The weights test_vit.r160_in1k of timm/test_vit cannot be downloaded: "
    assert message.startswith(expected)
    assert "refused" in message
    assert f"{endpoint}/timm/test_vit.r160_in1k/resolve/main/model.safetensors" in hint
    assert "--weights" in hint
    # Left to itself huggingface_hub waits for 23 seconds between its attempts, for each file.
    assert float(seconds) < 20


def test_a_silent_network_is_given_up_in_time(tmp_path: Path) -> None:
    with socket.socket() as silent:
        # Connections are accepted by the kernel, and never answered.
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        message, _, seconds = _load_default(
            "timm/test_vit", endpoint, tmp_path, HF_HUB_ETAG_TIMEOUT="1"
        )
    assert "cannot be downloaded: " in message
    assert "timed out" in message
    assert float(seconds) < 20


def _hub(files: dict[str, bytes]) -> ThreadingHTTPServer:
    """A server that answers for files as the Hugging Face Hub does."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._head()

        def do_GET(self) -> None:
            content = self._head()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

        def _head(self) -> bytes:
            content = files.get(self.path, b"")
            self.send_response(200 if content else 404)
            if not content:
                self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            return content

    return ThreadingHTTPServer(("127.0.0.1", 0), Handler)


def test_the_default_weights_are_downloaded_and_kept(tmp_path: Path) -> None:
    state = _state("test_vit", 1000)
    content = save(state)
    hub = _hub({"/timm/test_vit.r160_in1k/resolve/main/model.safetensors": content})
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    thread = threading.Thread(target=hub.serve_forever)
    thread.start()
    try:
        source, total, _ = _load_default("timm/test_vit", endpoint, tmp_path)
    finally:
        hub.shutdown()
        thread.join()
        hub.server_close()
    expected = sum(value.double().sum().item() for value in state.values())
    assert source == "test_vit.r160_in1k test_vit.r160_in1k"
    assert float(total) == pytest.approx(expected)
    # Nobody answers any more.
    assert _load_default("timm/test_vit", endpoint, tmp_path)[:2] == [source, total]
