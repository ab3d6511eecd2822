"""Preprocess and Audio: how a picture or a recording becomes tensors. Plain data, standard library only.

The recipe reads it, the bundle carries it as ``processor/preprocess.json``, and
:mod:`edgebig.tasks.vision` applies it, at calibration and on the device alike.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

LABELS = "labels.json"
"""In the processor's folder: the names of the model's classes by their number, where it has names."""

Resample = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]


@dataclass(frozen=True)
class Preprocess:
    """Steps in their order: resize, centre crop, colour order, scale, mean and std, layout.

    ``value = (pixel * scale - mean) / std`` for each channel, with pixels from 0 to 255.

    Attributes:
        resize: ``(height, width)`` in pixels; the aspect ratio is not kept.
        short_side: size of the shorter side in pixels, the aspect ratio kept; excludes ``resize``.
        crop: ``(height, width)`` of a centre crop in pixels, padded with zeros where the picture is smaller.
        resample: the interpolation of the resize.
        colour: channel order of the tensor.
        scale: factor on the pixel value.
        mean: subtracted for each channel, in the tensor's channel order.
        std: divisor for each channel, in the tensor's channel order.
        layout: axis order of the tensor; the batch axis is always there, of size 1.
    """

    resize: tuple[int, int] | None = None
    short_side: int | None = None
    crop: tuple[int, int] | None = None
    resample: Resample = "bilinear"
    colour: Literal["RGB", "BGR", "GRAY"] = "RGB"
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: Literal["NCHW", "NHWC"] = "NCHW"

    def __post_init__(self) -> None:
        if self.resize is not None and self.short_side is not None:
            raise ValueError("preprocess takes resize or short_side, not both")
        channels = 1 if self.colour == "GRAY" else 3
        for name in ("mean", "std"):
            if len(getattr(self, name)) not in (1, channels):
                raise ValueError(f"preprocess.{name} needs 1 or {channels} numbers, found {len(getattr(self, name))}")
        if any(s == 0 for s in self.std):
            raise ValueError("preprocess.std holds a zero")

    def to_json(self) -> dict[str, Any]:
        """As ``processor/preprocess.json`` holds it."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Preprocess:
        """The inverse of :meth:`to_json`; lists become tuples, unknown keys raise ``ValueError``."""
        unknown = set(data) - {f.name for f in fields(cls)}
        if unknown:
            raise ValueError(f"preprocess has no field {', '.join(sorted(unknown))}")
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        return cls(**values)


@dataclass(frozen=True)
class Audio:
    """How a recording becomes the samples of a model that takes sound as it is.

    Attributes:
        rate: sampling rate in Hz.
        frame: new samples in each frame; ``None`` for the whole recording at once.
        context: samples before a frame that the model also sees.
        input: the model's input; may be left out where the model has only one.
    """

    rate: int
    frame: int | None = None
    context: int = 0
    input: str | None = None

    def __post_init__(self) -> None:
        if self.rate < 1 or (self.frame is not None and self.frame < 1) or self.context < 0:
            raise ValueError("audio needs rate and frame of 1 or more, and context of 0 or more")
        if self.context and self.frame is None:
            raise ValueError("audio.context needs audio.frame")
