"""Hugging Face's image processors, the real ones against our translation of their configs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgebig.preprocess import Preprocess
from edgebig.tasks.image_processors import _KINDS, from_huggingface, unsupported
from edgebig.tasks.vision import prepare

transformers = pytest.importorskip("transformers")

SIZES = [(61, 97), (300, 211), (224, 224), (33, 400)]

CONFIGS: list[dict[str, Any]] = [
    {"image_processor_type": "ViTImageProcessor", "size": 96, "resample": 3, "do_convert_rgb": None},
    {"image_processor_type": "ViTImageProcessor", "size": {"height": 64, "width": 112}, "do_normalize": False},
    {"feature_extractor_type": "ViTFeatureExtractor", "size": 48, "do_rescale": False, "image_mean": [127.5] * 3},
    {"image_processor_type": "CLIPImageProcessor", "size": 112, "crop_size": 96},
    {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 50},
        "crop_size": {"height": 81, "width": 64},
    },
    {"image_processor_type": "CLIPImageProcessor", "do_resize": False, "crop_size": {"height": 101, "width": 300}},
    {"image_processor_type": "SegformerImageProcessor", "size": [64, 128], "do_reduce_labels": True},
    {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 224}},
    {"image_processor_type": "ConvNextImageProcessor", "size": 96, "crop_pct": 0.95, "resample": 3},
    {"image_processor_type": "EfficientNetImageProcessor", "include_top": False, "rescale_offset": True},
    {"image_processor_type": "EfficientNetImageProcessor", "do_center_crop": True, "rescale_factor": 1 / 127.5},
    {"image_processor_type": "MobileNetV2ImageProcessor", "do_center_crop": False, "resample": 0},
    {"image_processor_type": "DeiTImageProcessor", "size": 80, "crop_size": [64, 72], "resample": 1},
]


def largest_difference(config: dict[str, Any], picture: Image.Image) -> float:
    name = (config.get("image_processor_type") or config["feature_extractor_type"]).replace(
        "FeatureExtractor", "ImageProcessor"
    )
    real = getattr(transformers, name).from_dict(dict(config))
    expected = np.stack(real(picture.convert("RGB"))["pixel_values"])
    how = from_huggingface(config)
    assert how is not None, unsupported(config)
    found = prepare(picture, Preprocess.from_json(json.loads(json.dumps(how.to_json()))))
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max())


def made_picture(height: int, width: int) -> Image.Image:
    rng = np.random.default_rng(height)
    smooth = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).resize((width, height))
    noise = rng.integers(-20, 21, (height, width, 3))
    return Image.fromarray(np.clip(np.asarray(smooth).astype(int) + noise, 0, 255).astype(np.uint8))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: ",".join(str(v) for v in c.values()))
def test_configs_give_the_processors_tensor(config: dict[str, Any]) -> None:
    assert max(largest_difference(config, made_picture(*size)) for size in SIZES) <= 1e-5


@pytest.mark.parametrize("kind", sorted(_KINDS))
def test_a_bare_and_a_saved_config_of_each_kind_mean_the_processors_defaults(kind: str) -> None:
    name = f"{kind}ImageProcessor"
    saved = json.loads(getattr(transformers, name)().to_json_string())
    for config in ({"image_processor_type": name}, saved):
        assert largest_difference(config, made_picture(61, 97)) <= 1e-5


def test_real_photographs(shared_data: Path) -> None:
    for name, kind in (("dog_0", "ViT"), ("city_2", "CLIP"), ("fruit_3", "Segformer"), ("cat_1", "ConvNext")):
        config = {"image_processor_type": f"{kind}ImageProcessor"}
        with Image.open(shared_data / "images" / f"{name}.jpg") as picture:
            assert largest_difference(config, picture) <= 1e-5


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({}, "names no image_processor_type"),
        ({"image_processor_type": "DonutImageProcessor"}, "not among the processors known"),
        ({"image_processor_type": "ViTImageProcessor", "do_pad": True}, "do_pad = True"),
        ({"image_processor_type": "ViTImageProcessor", "size_divisor": 32}, "size_divisor = 32"),
        ({"image_processor_type": "ViTImageProcessor", "do_center_crop": True}, "does not crop"),
        ({"image_processor_type": "CLIPImageProcessor", "crop_pct": 0.9}, "crop_pct = 0.9"),
        ({"image_processor_type": "ConvNextImageProcessor", "size": 224, "crop_pct": "all"}, "unknown form"),
        ({"image_processor_type": "ViTImageProcessor", "resample": 9}, "unknown form"),
        ({"image_processor_type": "ViTImageProcessor", "data_format": "channels_last"}, "channels_last"),
        (
            {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 800, "longest_edge": 1333}},
            "longest_edge, shortest_edge",
        ),
    ],
)
def test_what_cannot_be_expressed_is_declined_with_the_reason(config: dict[str, Any], reason: str) -> None:
    assert from_huggingface(config) is None
    assert reason in (unsupported(config) or "")


def test_fast_processors_of_the_same_name_are_known() -> None:
    slow = from_huggingface({"image_processor_type": "CLIPImageProcessor"})
    assert slow is not None
    fast = {
        "image_processor_type": "CLIPImageProcessorFast",
        "data_format": "channels_first",
        "size": None,
        "do_pad": None,
    }
    assert from_huggingface(fast) == slow
