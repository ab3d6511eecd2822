"""Hugging Face image processors, as ``preprocessor_config.json`` describes them, in terms of Preprocess.

Only what gives the same tensor is translated; of anything else :func:`unsupported` says why.
The semantics are those of the Pillow-based processors (``use_fast=False``) of transformers 4.57.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgebig.errors import InputError
from edgebig.preprocess import Preprocess, Resample

# Pillow's numbers of its filters, in which the configs speak.
_FILTERS: dict[int, Resample] = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}

_HALF = [0.5, 0.5, 0.5]
_IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
_OPENAI = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}

_BASE: dict[str, Any] = {
    "do_resize": True,
    "size": {"height": 224, "width": 224},
    "resample": 2,
    "do_center_crop": False,
    "crop_size": {"height": 224, "width": 224},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": _HALF,
    "image_std": _HALF,
    "do_convert_rgb": True,
}
_CROP = {"do_center_crop": True}
_CLIP = {**_CROP, **_OPENAI, "size": {"shortest_edge": 224}, "resample": 3}
_MOBILENET = {**_CROP, "size": {"shortest_edge": 256}}
_DEIT = {**_CROP, "size": {"height": 256, "width": 256}, "resample": 3}

# For each kind of processor its own defaults: a config may leave out any field. A field that is
# neither here nor in _BASE nor in _INERT makes a config untranslatable unless it is off.
_KINDS: dict[str, dict[str, Any]] = {
    "Beit": _DEIT,
    "Bit": _CLIP,
    "Blip": {**_OPENAI, "size": {"height": 384, "width": 384}, "resample": 3},
    "CLIP": _CLIP,
    "ConvNext": {"size": {"shortest_edge": 384}, "crop_pct": 224 / 256},
    "DeiT": _DEIT,
    "EfficientNet": {
        "size": {"height": 346, "width": 346},
        "crop_size": {"height": 289, "width": 289},
        "resample": 0,
        "rescale_offset": False,
        "include_top": True,
    },
    "Levit": {**_CROP, **_IMAGENET, "size": {"shortest_edge": 224}, "resample": 3},
    "MobileNetV1": _MOBILENET,
    "MobileNetV2": _MOBILENET,
    "MobileViT": {
        **_CROP,
        "size": {"shortest_edge": 224},
        "crop_size": {"height": 256, "width": 256},
        "do_normalize": False,
        "do_flip_channel_order": True,
    },
    "Pvt": _IMAGENET,
    "RTDetr": {**_IMAGENET, "size": {"height": 640, "width": 640}, "do_normalize": False},
    "Segformer": {**_IMAGENET, "size": {"height": 512, "width": 512}},
    "Siglip": {"resample": 3},
    "ViT": {},
}

# Kinds whose plain "size": 224 means the shorter edge, and not a square.
_BY_SHORT_EDGE = {"Bit", "CLIP", "ConvNext", "Levit", "MobileNetV1", "MobileNetV2", "MobileViT"}
_CAN_CROP = {kind for kind, defaults in _KINDS.items() if "do_center_crop" in defaults} | {"EfficientNet"}

# Fields that leave the tensor as it is: bookkeeping, and what concerns labels and annotations.
_INERT = {
    "_processor_class",
    "_valid_processor_keys",
    "default_to_square",
    "device",
    "disable_grouping",
    "do_convert_annotations",
    "do_reduce_labels",
    "feature_extractor_type",
    "format",
    "image_processor_type",
    "input_data_format",
    "processor_class",
    "reduce_labels",
    "return_tensors",
}


class _Unsupported(Exception):
    """What keeps a config from being expressed."""


def from_huggingface(config: Mapping[str, Any]) -> Preprocess | None:
    """The steps that a ``preprocessor_config.json`` asks for, or ``None`` where Preprocess cannot express them.

    ``None`` stands for: a processor that is not in this module's table, padding, ``size_divisor``,
    ``longest_edge``, ``keep_aspect_ratio`` and any other field that is on and unknown here;
    :func:`unsupported` says which. ``crop_pct`` is known of ConvNext's processor alone (ResNet,
    RegNet and ConvNext use it).

    Args:
        config: the file's content.
    """
    try:
        return _translate(config)
    except _Unsupported:
        return None


def unsupported(config: Mapping[str, Any]) -> str | None:
    """Why :func:`from_huggingface` declines this config, in one line; ``None`` where it does not."""
    try:
        _translate(config)
    except _Unsupported as reason:
        return str(reason)
    return None


def _translate(config: Mapping[str, Any]) -> Preprocess:
    kind = _kind(config)
    fields = {**_BASE, **_KINDS[kind]}
    for key, value in config.items():
        if key in fields:
            # A null switch is off; any other null stands for the default.
            fields[key] = bool(value) if key.startswith("do_") else fields[key] if value is None else value
        elif key == "data_format" and value not in (None, "channels_first"):
            raise _Unsupported(f"data_format is {value!r}")
        elif key not in _INERT | {"data_format"} and value:
            raise _Unsupported(f"the field {key} = {value!r} has no counterpart")
    if fields["do_center_crop"] and kind not in _CAN_CROP:
        raise _Unsupported(f"{kind}ImageProcessor does not crop, but do_center_crop is on")
    try:
        scale, mean, std = _values(fields)
        return Preprocess(
            **_geometry(kind, fields),
            resample=_FILTERS[int(fields["resample"])],
            colour="BGR" if fields.get("do_flip_channel_order") else "RGB",
            scale=scale,
            mean=mean,
            std=std,
        )
    except (KeyError, TypeError, ValueError, InputError) as error:
        raise _Unsupported(f"a field has an unknown form: {error}") from error


def _kind(config: Mapping[str, Any]) -> str:
    name = config.get("image_processor_type") or config.get("feature_extractor_type")
    if not isinstance(name, str):
        raise _Unsupported("the config names no image_processor_type")
    kind = name.removesuffix("Fast").removesuffix("ImageProcessor").removesuffix("FeatureExtractor")
    if kind not in _KINDS:
        raise _Unsupported(f"{name} is not among the processors known: {', '.join(sorted(_KINDS))}")
    return kind


def _geometry(kind: str, fields: dict[str, Any]) -> dict[str, Any]:
    """``resize``, ``short_side`` and ``crop``."""
    steps: dict[str, Any] = {}
    if fields["do_center_crop"]:
        steps["crop"] = _box(fields["crop_size"])
    if not fields["do_resize"]:
        return steps
    size = fields["size"]
    if isinstance(size, int) and kind in _BY_SHORT_EDGE:
        size = {"shortest_edge": size}
    if not isinstance(size, dict) or set(size) == {"height", "width"}:
        return {**steps, "resize": _box(size)}
    if set(size) != {"shortest_edge"}:
        raise _Unsupported(f"size is given as {', '.join(sorted(size))}")
    edge = int(size["shortest_edge"])
    if kind == "ConvNext":  # it resizes a little larger and crops, but warps from 384 on
        if edge >= 384:
            return {**steps, "resize": (edge, edge)}
        return {**steps, "short_side": int(edge / fields["crop_pct"]), "crop": (edge, edge)}
    if kind == "Levit":  # its size is that of the crop
        edge = int((256 / 224) * edge)
    return {**steps, "short_side": edge}


def _values(fields: dict[str, Any]) -> tuple[float, tuple[float, ...], tuple[float, ...]]:
    """``scale``, ``mean`` and ``std``."""
    scale = float(fields["rescale_factor"]) if fields["do_rescale"] else 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    if fields["do_normalize"]:
        mean, std = _channels(fields["image_mean"]), _channels(fields["image_std"])
    if fields.get("rescale_offset") and fields["do_rescale"]:  # value * scale - 1
        mean = tuple(m + 1 for m in mean)
    if fields.get("include_top"):  # EfficientNet divides once more by its std
        again = _channels(fields["image_std"])
        std = tuple(s * a for s, a in zip(std * len(again) if len(std) == 1 else std, again, strict=True))
    return scale, mean, std


def _channels(value: Any) -> tuple[float, ...]:
    return tuple(float(v) for v in value) if isinstance(value, list | tuple) else (float(value),)


def _box(size: Any) -> tuple[int, int]:
    """``(height, width)`` from any of the forms that configs use."""
    if isinstance(size, int):
        return size, size
    if isinstance(size, dict) and set(size) == {"height", "width"}:
        return int(size["height"]), int(size["width"])
    if isinstance(size, list | tuple) and len(size) == 2:
        return int(size[0]), int(size[1])
    raise ValueError(f"size {size!r}")
