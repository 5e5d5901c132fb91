"""For RGB images, preprocessing is timm's, bit for bit."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from timm import create_model
from timm.data import create_transform, resolve_data_config, resolve_model_data_config
from timm.models import get_pretrained_cfg, list_models

from tests.images import noise
from tlserve.bundle.manifest import Decoding
from tlserve.errors import UsageError
from tlserve.preprocess import preprocess, to_tensor
from tlserve.zoo.presets import preset
from tlserve.zoo.timm import from_timm

SIZES = [(1, 1), (1, 20), (20, 1), (5, 7), (224, 224), (288, 288), (333, 481), (600, 60), (60, 600)]

VARIED = {
    "resnet18.tv_in1k": "bilinear center 0.875",
    "resnet18.a1_in1k": "bicubic center 1.0",
    "vit_base_patch16_224.augreg_in1k": "bicubic center 0.9",
    "vit_base_patch16_clip_224.openai": "bicubic center 0.9",
    "convnext_atto.d2_in1k": "bicubic center 0.95",
    "convnext_base.clip_laion2b_augreg_ft_in12k_in1k_384": "bicubic squash 1.0",
    "swin_base_patch4_window12_384.ms_in22k_ft_in1k": "bicubic center 1.0",
    "regnety_160.sw_in12k_ft_in1k": "bicubic center 1.0",
    "mobilenetv3_large_100.miil_in21k_ft_in1k": "bilinear center 0.875",
    "tf_efficientnet_b5.ns_jft_in1k": "bicubic center 0.934",
    "dla34.in1k": "bilinear center 0.875",
    "eva02_base_patch14_448.mim_in22k_ft_in22k_in1k": "bicubic squash 1.0",
}


def _configurations() -> dict[str, dict[str, Any]]:
    """One of each kind that a specification can express, among all that timm has."""
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for name in list_models(include_tags=True):
        config = resolve_data_config(
            pretrained_cfg=get_pretrained_cfg(name).to_dict(), use_test_size=True
        )
        try:
            spec = from_timm(config, name)
        except UsageError:
            continue
        # Large ones take long, but for those whose crop leaves the resized image.
        if spec.crop[0] <= 288 or spec.resize[0] < spec.crop[0]:
            key = (*spec.resize, spec.interpolation, spec.crop)
            found.setdefault(repr(key), (name, config))
    return dict(found.values())


CONFIGURATIONS = _configurations()


def _timms(config: dict[str, Any]) -> Any:
    return create_transform(**config, is_training=False)


def test_the_configurations_are_many_and_of_several_kinds() -> None:
    specs = [from_timm(config, name) for name, config in CONFIGURATIONS.items()]
    assert len(specs) >= 30
    assert {spec.interpolation for spec in specs} == {"bilinear", "bicubic"}
    assert {len(spec.resize) for spec in specs} == {1, 2}
    assert any(spec.resize[0] < spec.crop[0] for spec in specs)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_synthetic_images(name: str) -> None:
    config = CONFIGURATIONS[name]
    spec, transform = from_timm(config, name), _timms(config)
    for size in SIZES:
        image = noise(*size)
        assert np.array_equal(to_tensor(image, spec), transform(image).numpy()), size


@pytest.mark.parametrize("name", VARIED)
def test_the_configuration_is_the_one_that_timm_validates_with(name: str) -> None:
    config = resolve_data_config(
        pretrained_cfg=get_pretrained_cfg(name).to_dict(), use_test_size=True
    )
    kind = f"{config['interpolation']} {config['crop_mode']} {config['crop_pct']}"
    assert kind == VARIED[name]
    spec, image = preset(f"timm/{name}"), noise(481, 333)
    assert spec.crop == config["input_size"][1:]
    assert np.array_equal(to_tensor(image, spec), _timms(config)(image).numpy())


@pytest.mark.parametrize("name", ["resnet18.tv_in1k", "test_vit", "convnext_atto"])
def test_a_model_of_timms_resolves_to_the_same(name: str) -> None:
    config = resolve_model_data_config(create_model(name), use_test_size=True)
    assert preset(f"timm/{name}") == from_timm(config, name)


def test_the_input_is_that_of_timms_validation() -> None:
    config = get_pretrained_cfg("resnet50.a1_in1k")
    assert (config.input_size, config.test_input_size) == ((3, 224, 224), (3, 288, 288))
    assert preset("timm/resnet50.a1_in1k").crop == (288, 288)
    assert preset("timm/resnet50", "tv_in1k").crop == (224, 224)


@pytest.mark.shared
@pytest.mark.parametrize("name", VARIED)
def test_photographs(name: str, photographs: list[Path]) -> None:
    config = resolve_data_config(
        pretrained_cfg=get_pretrained_cfg(name).to_dict(), use_test_size=True
    )
    spec, transform = preset(f"timm/{name}"), _timms(config)
    for path in photographs[::30]:
        data = path.read_bytes()
        expected = transform(Image.open(io.BytesIO(data)).convert("RGB")).numpy()
        assert np.array_equal(preprocess(data, spec), expected), path.name


def test_the_decoding_rules_are_ours() -> None:
    rules = Decoding(jpeg_draft=2)
    assert preset("timm/resnet18", decoding=rules).decoding == rules
    assert preset("timm/resnet18").decoding == Decoding()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"crop_mode": "border"}, "the crop mode 'border'"),
        ({"interpolation": "random"}, "the interpolation 'random'"),
        ({"input_size": (1, 224, 224)}, "an input of 1 channels"),
        ({"input_size": (3, 1024, 768)}, "an input of 1024 x 768 pixels, which is not square"),
    ],
)
def test_what_a_specification_cannot_express_is_refused(change: dict[str, Any], named: str) -> None:
    config = dataclasses.replace(get_pretrained_cfg("resnet18.tv_in1k"), **change).to_dict()
    with pytest.raises(UsageError) as caught:
        from_timm(resolve_data_config(pretrained_cfg=config), "x")
    assert caught.value.message == f"The preprocessing of timm/x is not supported: it has {named}."


@pytest.mark.parametrize(
    ("name", "named"),
    [("deepseek_vit_412m", "'border'"), ("vit_base_patch16_sapiens2", "1024 x 768")],
)
def test_real_ones_that_are_refused(name: str, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        preset(f"timm/{name}")
