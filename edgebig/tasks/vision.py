"""Pictures to tensors, and tensors to classes and overlays. Needs NumPy, and Pillow (``edgebig[vision]``)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgebig.errors import InputError, MissingExtra
from edgebig.preprocess import Preprocess
from edgebig.tasks.image_processors import from_huggingface as from_huggingface
from edgebig.tasks.image_processors import unsupported as unsupported

if TYPE_CHECKING:
    from PIL import Image

    Picture = str | Path | IO[bytes] | Image.Image | NDArray[np.uint8]

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]

_MAX_PIXELS = 1 << 28  # of a resized picture: 0.8 GB as RGB


def read_picture(picture: Picture) -> Pixels:
    """The picture's pixels, uint8 ``[height, width, 3]`` in RGB.

    EXIF orientation is applied. Palettes and gray become RGB, 16-bit gray keeps its upper 8 bits,
    transparency is dropped, and of an animation the first frame is taken.

    Args:
        picture: a file's path or its open bytes, a Pillow image, or uint8 ``[height, width, 3]`` in RGB.

    Raises:
        InputError: the file is missing, no picture or truncated, or the array has another form.
        MissingExtra: Pillow is not installed.
    """
    if isinstance(picture, np.ndarray):
        if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8 or 0 in picture.shape:
            raise InputError(
                f"a picture as an array is uint8 [height, width, 3] in RGB, found {picture.dtype} {list(picture.shape)}"
            )
        return picture
    image_module = _pillow()
    given: Any = picture if isinstance(picture, image_module.Image) else None
    name = str(picture) if given is None else getattr(given, "filename", "") or "given as an image"
    try:
        if given is not None:
            return _pixels(given)
        with image_module.open(picture) as image:
            return _pixels(image)
    except image_module.UnidentifiedImageError as error:
        raise InputError(f"cannot read the picture {name}: it is no picture, or of an unknown format") from error
    except Exception as error:  # Pillow's readers raise whatever a damaged file leads to
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise InputError(f"cannot read the picture {name}: {reason}") from error


def prepare(picture: Picture, how: Preprocess) -> Floats:
    """The model's input for one picture: float32 ``[1, channels, height, width]``, or ``[1, height, width, channels]``.

    Does what :class:`~edgebig.preprocess.Preprocess` says, with Pillow's resampling, and gives what
    Hugging Face's Pillow-based image processors give for the configs that :func:`from_huggingface` translates.

    Args:
        picture: as in :func:`read_picture`.
        how: the steps.

    Raises:
        InputError: the picture cannot be read, or would be resized to more than 2**28 pixels.
        MissingExtra: Pillow is not installed.
    """
    pixels = _cropped(_resized(read_picture(picture), how), how)
    if how.colour == "BGR":
        pixels = pixels[..., ::-1]
    elif how.colour == "GRAY":
        pixels = np.asarray(_pillow().fromarray(pixels).convert("L"))[..., None]
    channels = pixels.shape[2]
    table = _value_table(how, channels)
    tensor = np.empty((1, channels, *pixels.shape[:2]), np.float32)
    for c in range(channels):
        np.take(table[c], pixels[..., c], out=tensor[0, c], mode="clip")  # "raise" would go through a buffer
    return tensor if how.layout == "NCHW" else np.ascontiguousarray(tensor.transpose(0, 2, 3, 1))


@dataclass(frozen=True)
class Score:
    """One class of a classification: its index, its label (the index where none is known) and its probability."""

    index: int
    label: str
    probability: float


def classify(
    outputs: NDArray[Any], labels: Sequence[str] | Mapping[int, str] | None = None, top: int = 5
) -> list[list[Score]]:
    """The most probable classes for each picture of the batch, best first.

    Args:
        outputs: ``[N, classes]``, further axes of size 1 allowed. Rows that already are probabilities
            (not negative, sum 1 within 1 %) are taken as they are, others as logits (softmax).
        labels: the classes' names by index.
        top: number of classes.

    Raises:
        InputError: another shape, or values that are not finite.
    """
    scores = np.asarray(outputs, dtype=np.float64)
    if scores.ndim < 2 or scores.size == 0 or any(n != 1 for n in scores.shape[2:]):
        raise InputError(f"classes are read from [N, classes], found {list(scores.shape)}")
    if not np.isfinite(scores).all():
        raise InputError("the classifier's output holds NaN or infinity")
    scores = scores.reshape(scores.shape[:2])
    if scores.min() < 0 or np.abs(scores.sum(axis=1) - 1).max() > 0.01:
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        scores /= scores.sum(axis=1, keepdims=True)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    return [
        [Score(int(i), _label(labels, int(i)), float(row[i])) for i in order]
        for row, order in zip(scores, best, strict=True)
    ]


def overlay(
    picture: Picture,
    masks: Sequence[NDArray[Any]],
    colours: Sequence[tuple[int, int, int]],
    opacity: float = 0.5,
) -> Pixels:
    """The picture with each mask's area tinted, uint8 ``[height, width, 3]`` in RGB; later masks lie above.

    Args:
        picture: as in :func:`read_picture`.
        masks: for each colour ``[h, w]``, true (not zero) where to tint; stretched to the picture's size.
        colours: RGB, 0 to 255.
        opacity: weight of the colour, 0 to 1.

    Raises:
        InputError: the picture cannot be read, or masks and colours do not match.
    """
    if len(masks) != len(colours):
        raise InputError(f"each mask needs a colour: {len(masks)} masks, {len(colours)} colours")
    drawn = read_picture(picture).astype(np.float32)
    height, width = drawn.shape[:2]
    for mask, colour in zip(masks, colours, strict=True):
        if mask.ndim != 2 or 0 in mask.shape:
            raise InputError(f"a mask is [height, width], found {list(mask.shape)}")
        rows = np.arange(height) * mask.shape[0] // height
        columns = np.arange(width) * mask.shape[1] // width
        inside = mask.astype(bool)[rows[:, None], columns[None, :]]
        drawn[inside] = drawn[inside] * (1 - opacity) + np.asarray(colour, np.float32) * opacity
    return np.rint(drawn).astype(np.uint8)


def save_picture(pixels: Pixels, path: str | Path) -> None:
    """Writes uint8 ``[height, width, 3]`` in RGB to a file; its ending names the format.

    Raises:
        InputError: the file cannot be written, or its ending is unknown.
        MissingExtra: Pillow is not installed.
    """
    try:
        _pillow().fromarray(read_picture(pixels)).save(path)
    except OSError as error:
        raise InputError(f"cannot write the picture {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise InputError(f"cannot write the picture {path}: its ending names no format that Pillow writes") from error


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtra("vision", "pillow") from error
    return Image


def _pixels(image: Image.Image) -> Pixels:
    from PIL import ImageOps

    turned = ImageOps.exif_transpose(image)
    if turned.mode.startswith("I;16"):
        return np.repeat((np.asarray(turned).astype(np.uint16) >> 8).astype(np.uint8)[..., None], 3, axis=2)
    if turned.mode in ("I", "F"):
        raise ValueError("its pixels have 32 bits; save it with 8 or 16")
    return np.asarray(turned.convert("RGB"))


def _resized(pixels: Pixels, how: Preprocess) -> Pixels:
    if how.resize is None and how.short_side is None:
        return pixels
    height, width = how.resize or _with_short_side(pixels.shape[0], pixels.shape[1], how.short_side or 0)
    if height * width > _MAX_PIXELS:
        raise InputError(
            f"a picture of {pixels.shape[1]}x{pixels.shape[0]} would be resized to {width}x{height} pixels"
        )
    image_module = _pillow()
    resample = image_module.Resampling[how.resample.upper()]
    return np.asarray(image_module.fromarray(pixels).resize((width, height), resample))


def _with_short_side(height: int, width: int, side: int) -> tuple[int, int]:
    """Rounded down, as torchvision and transformers do."""
    long = int(side * max(height, width) / min(height, width))
    return (long, side) if width <= height else (side, long)


def _cropped(pixels: Pixels, how: Preprocess) -> Pixels:
    if how.crop is None:
        return pixels
    height, width = how.crop
    short = [max(0, wanted - found) for wanted, found in ((height, pixels.shape[0]), (width, pixels.shape[1]))]
    if any(short):  # the odd pixel goes before the picture, as in transformers
        before = [math.ceil(n / 2) for n in short]
        pixels = np.pad(pixels, [(b, n - b) for b, n in zip(before, short, strict=True)] + [(0, 0)])
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    return pixels[top : top + height, left : left + width]


def _value_table(how: Preprocess, channels: int) -> Floats:
    """``[channels, 256]``: the tensor's value for each pixel value, so that the arithmetic is done 256 times only."""
    scaled = (np.arange(256, dtype=np.float64) * how.scale).astype(np.float32)
    mean, std = (np.broadcast_to(np.asarray(v, np.float32), channels)[:, None] for v in (how.mean, how.std))
    return (scaled[None] - mean) / std


def _label(labels: Sequence[str] | Mapping[int, str] | None, index: int) -> str:
    if isinstance(labels, Mapping):
        return labels.get(index, str(index))
    return labels[index] if labels is not None and index < len(labels) else str(index)
