"""Makers: each makes, from random draws, what some inputs of a model take."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgebig.calibrate.synthetic.kinds import Taken
from edgebig.calibrate.synthetic.scenes import scene
from edgebig.calibrate.synthetic.sounds import sound
from edgebig.calibrate.synthetic.tokens import Vocabulary, text_length, token_sample, zipf
from edgebig.spec import TensorSpec

Array = np.ndarray[Any, Any]
Sample = dict[str, Array]
Maker = Callable[[int], Sample]
"""Makes sample number N, the same one every time."""

FRAMES = 64
"""Frames of one made recording, for models that carry a state from one to the next."""

_LONGEST = 128
_MARGIN = 8 / 7
"""How much larger than the model's input a scene is drawn: processors crop."""

_PICTURE_SIZE = 224


@dataclass(frozen=True)
class Aids:
    """What a model's owner knows of its inputs, beyond its graph.

    Attributes:
        shapes: the best shape of inputs that have dynamic axes.
        constants: values of inputs that the original file still takes and samples do not hold.
        picture: the model's sample of a picture, uint8 ``[height, width, 3]`` in RGB.
        vocabulary: of the model's tokenizer.
        rate: samples of sound a second.
        normalized: whether sound is brought to mean 0 and deviation 1.
        recurrent: whether the model carries a state from one frame of sound to the next.
    """

    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    constants: Mapping[str, Array] = field(default_factory=dict)
    picture: Callable[[Array], Sample] | None = None
    vocabulary: Vocabulary | None = None
    rate: int = 16000
    normalized: bool = False
    recurrent: bool = False


def pictures_by(to_sample: Callable[[Array], Sample], spec: TensorSpec, aids: Aids, seed: int) -> Maker:
    """Scenes, prepared as the model's owner does."""
    height, width = (round(n * _MARGIN) for n in picture_size(spec, aids))
    return lambda number: to_sample(scene(np.random.default_rng([seed, number, 0]), height, width))


def picture_size(spec: TensorSpec, aids: Aids) -> tuple[int, int]:
    """Height and width in pixels, of either layout; dynamic ones by the best shape."""
    shape = aids.shapes.get(spec.name, spec.shape)
    sizes = shape[1:3] if spec.shape[-1] in (1, 3) and spec.shape[1] not in (1, 3) else shape[2:4]
    height, width = (d if isinstance(d, int) else _PICTURE_SIZE for d in sizes)
    return height, width


def texts(taken: Sequence[Taken], aids: Aids, seed: int) -> Maker:
    """Tokens by Zipf's law, through the model's tokenizer where it has one, else over the table's rows."""
    tokens = next(t for t in taken if t.kind == "tokens")
    fixed, longest = _fixed_length(tokens.spec), longest_text(tokens.spec, aids)

    def make(number: int) -> Sample:
        random = np.random.default_rng([seed, number, 1])
        length = fixed or text_length(random, longest)
        if aids.vocabulary is None:
            ids = zipf(random, tokens.rows, length * _batch(tokens.spec)).reshape(-1, length)
            return token_sample(taken, ids)
        # special tokens count too; what is too long for a fixed size is cut
        sample = aids.vocabulary.sample(random, 2 * fixed if fixed else max(length - 2, 1))
        cut = {k: v[:, :fixed] if fixed and v.ndim == 2 else v for k, v in sample.items()}
        return {**token_sample(taken, cut[tokens.spec.name]), **cut} if tokens.spec.name in cut else cut

    return make


def texts_of(taken: Sequence[Taken], written: Sequence[Array]) -> Maker:
    """Texts that are there already, as ids."""
    return lambda number: token_sample(taken, written[number % len(written)][None])


def sounds(spec: TensorSpec, aids: Aids, seed: int) -> Maker:
    """Recordings, or the frames of longer ones where the model has a state."""
    shape = aids.shapes.get(spec.name, spec.shape)
    known = shape[-1] if isinstance(shape[-1], int) else None
    fixed = _fixed_length(spec)

    def make(number: int) -> Sample:
        if aids.recurrent:
            length = known or aids.rate // 10
            whole = sound(np.random.default_rng([seed, number // FRAMES, 2]), length * FRAMES, aids.rate)
            start = number % FRAMES * length
            wave = whole[start : start + length]
        else:
            random = np.random.default_rng([seed, number, 2])
            length = fixed or round((known or 2 * aids.rate) * random.uniform(0.5, 1.5))
            wave = sound(random, length, aids.rate)
        if aids.normalized:
            wave = (wave - wave.mean()) / np.sqrt(wave.var() + 1e-7)
        rows = np.broadcast_to(wave.astype(spec.dtype), (_batch(spec), *[1] * (len(spec.shape) - 2), wave.size))
        return {spec.name: np.ascontiguousarray(rows)}

    return make


def longest_text(spec: TensorSpec, aids: Aids) -> int:
    """The largest number of tokens that is made for an input."""
    shape = aids.shapes.get(spec.name, spec.shape)
    last = shape[-1]
    return last if isinstance(last, int) else _LONGEST


def _batch(spec: TensorSpec) -> int:
    first = spec.shape[0] if spec.shape else 1
    return first if isinstance(first, int) else 1


def _fixed_length(spec: TensorSpec) -> int:
    """The last axis's size; 0 where it is dynamic."""
    last = spec.shape[-1]
    return last if isinstance(last, int) else 0
