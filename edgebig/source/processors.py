"""The tokenizer, image processor and feature extractor that a Hugging Face model brings."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from edgebig.preprocess import LABELS
from edgebig.source.source import Sample, Sound

_LONGEST = 30
"""Seconds of a recording that go into one sample, as transformers' own pipelines cut them."""


@dataclass(frozen=True)
class Processor:
    """What a model brings to prepare its inputs; ``None`` where it brings none."""

    folder: Path | None
    text: Callable[[str], Sample] | None
    picture: Callable[[Path | IO[bytes]], Sample] | None
    sound: Sound | None


def load(model: str, folder: Path, text_length: int | None, *, pads: bool = False) -> Processor:
    """Loads them and writes their files to ``folder``; texts are cut, and where asked padded, to ``text_length``."""
    from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoTokenizer

    tokenizer = _try(lambda: AutoTokenizer.from_pretrained(model))
    images = _try(lambda: AutoImageProcessor.from_pretrained(model, use_fast=False))
    sounds = _try(lambda: AutoFeatureExtractor.from_pretrained(model)) if images is None else None
    if not hasattr(sounds, "sampling_rate"):
        sounds = None
    found = [p for p in (tokenizer, images, sounds) if p is not None]
    for processor in found:
        processor.save_pretrained(folder)
    return Processor(
        folder if found else None,
        _text(tokenizer, text_length, pads) if tokenizer is not None else None,
        _picture(images) if images is not None else None,
        _sound(sounds) if sounds is not None else None,
    )


def save_labels(config: Any, folder: Path) -> Path | None:
    """Writes the names of a model's classes to ``labels.json``; gives the folder, or ``None`` without names."""
    names = {int(number): str(name) for number, name in (getattr(config, "id2label", None) or {}).items()}
    if not names or all(name == f"LABEL_{number}" for number, name in names.items()):
        return None
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(names, indent=1, ensure_ascii=False)
    (folder / LABELS).write_text(text + "\n", encoding="utf-8")
    return folder


def picture_shapes(preprocessors: Sequence[Any], config: Any) -> dict[str, int]:
    """Height and width in pixels that the image processor makes, as Optimum's example inputs take them."""
    if getattr(config, "image_size", None) is not None:
        return {}
    for processor in preprocessors:
        size = getattr(processor, "crop_size", None) if getattr(processor, "do_center_crop", False) else None
        size = size or getattr(processor, "size", None)
        if not size or not hasattr(size, "get"):
            continue
        height = size.get("height") or size.get("shortest_edge")
        width = size.get("width") or size.get("shortest_edge")
        if height and width:
            return {"height": int(height), "width": int(width)}
    return {}


def _text(tokenizer: Any, length: int | None, pads: bool) -> Callable[[str], Sample]:
    longest = length or min(int(tokenizer.model_max_length), 512)
    if pads and tokenizer.pad_token is None:  # the mask leaves it out, so that any token serves
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    padding = "max_length" if pads else False

    def to_sample(line: str) -> Sample:
        encoded = tokenizer(line, truncation=True, max_length=longest, padding=padding, return_tensors="np")
        sample = {k: np.asarray(v, np.int64) for k, v in encoded.items()}
        tokens = sample["input_ids"].shape[1]
        # inputs that some graphs take and no tokenizer gives
        sample.setdefault("token_type_ids", np.zeros((1, tokens), np.int64))
        sample.setdefault("position_ids", np.arange(tokens, dtype=np.int64)[None])
        return sample

    return to_sample


def _picture(processor: Any) -> Callable[[Path | IO[bytes]], Sample]:
    from PIL import Image

    def to_sample(path: Path | IO[bytes]) -> Sample:
        with Image.open(path) as picture:
            encoded = processor(picture.convert("RGB"), return_tensors="np")
        return {k: v.astype(np.float32) if v.dtype.kind == "f" else v for k, v in encoded.items()}

    return to_sample


def _sound(extractor: Any) -> Sound:
    rate = int(extractor.sampling_rate)

    def to_sample(samples: np.ndarray[Any, Any]) -> Sample:
        encoded = extractor(samples, sampling_rate=rate, return_tensors="np")
        return {k: v.astype(np.float32) if v.dtype.kind == "f" else np.asarray(v, np.int64) for k, v in encoded.items()}

    return Sound(rate, int(getattr(extractor, "n_samples", _LONGEST * rate)), to_sample)


def _try(load_one: Callable[[], Any]) -> Any:
    """The processor, or ``None``: transformers raises many kinds where a model has none."""
    try:
        return load_one()
    except Exception:
        return None
