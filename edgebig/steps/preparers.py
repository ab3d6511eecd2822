"""How pictures, text and recordings become samples of one part."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from edgebig.calibrate.data.samples import Preparers
from edgebig.errors import RecipeError
from edgebig.preprocess import Audio
from edgebig.request import Request
from edgebig.source import Source
from edgebig.spec import TensorSpec
from edgebig.steps.work import PartWork, Sample
from edgebig.tasks.speech import frames, read_wav
from edgebig.tasks.vision import prepare

File = Path | IO[bytes]


def preparers_for(part: PartWork, source: Source, request: Request) -> Preparers:
    """The recipe's ``preprocess`` and ``audio``, else what the model brings.

    Raises:
        RecipeError: the recipe prepares an input that the part lacks.
    """
    picture = source.picture
    if request.recipe.preprocess is not None:
        picture = _picture_by_recipe(part, request)
    return Preparers(_fitted(picture, part), _fitted(source.text, part), _sound(part, source, request))


def _picture_by_recipe(part: PartWork, request: Request) -> Callable[[File], Sample]:
    how = request.recipe.preprocess
    takes = [s for s in part.graph.inputs if len(s.shape) == 4]
    if how is None or len(takes) != 1:
        names = ", ".join(str(s) for s in part.graph.inputs)
        raise RecipeError(f"preprocess makes one picture tensor, the model takes {names}: give .npz samples instead")
    spec: TensorSpec = takes[0]
    return lambda file: {spec.name: prepare(file, how).astype(spec.dtype)}


def _fitted(make: Callable[[Any], Sample] | None, part: PartWork) -> Callable[[Any], Sample] | None:
    """A processor whose samples also hold the empty cache that a decoder starts from."""
    if make is None:
        return None
    caches = [s for s in part.graph.inputs if s.name.startswith("past_key_values")]

    def to_sample(item: Any) -> Sample:
        sample = make(item)
        for spec in caches:
            sizes = [d if isinstance(d, int) else 1 if "batch" in str(d) else 0 for d in spec.shape]
            sample.setdefault(spec.name, np.zeros(sizes, spec.dtype))
        return sample

    return to_sample


def _sound(part: PartWork, source: Source, request: Request) -> Callable[[File], Iterator[Sample]] | None:
    audio, brought = request.recipe.audio, source.sound
    if audio is not None:
        return _sound_by_recipe(part, audio)
    if brought is None:
        return None
    wave_input = next((s for s in part.graph.inputs if s.name == "input_values"), None)
    size = wave_input.shape[-1] if wave_input is not None else None

    def read(file: File) -> Iterator[Sample]:
        recording = read_wav(file, brought.rate)
        count = -(-len(recording) // brought.longest)
        pieces = frames(recording, size) if isinstance(size, int) else np.array_split(recording, count)
        for piece in pieces:
            yield brought.to_sample(piece)

    return read


def _sound_by_recipe(part: PartWork, audio: Audio) -> Callable[[File], Iterator[Sample]]:
    takes = [s for s in part.graph.inputs if s.name == audio.input or (audio.input is None and s.dtype == "float32")]
    if len(takes) != 1 or not takes[0].shape:
        names = ", ".join(str(s) for s in part.graph.inputs)
        raise RecipeError(
            f"audio.input: name the input that takes sound, found {audio.input!r}; {part.name} has {names}"
        )
    spec = takes[0]

    def read(file: File) -> Iterator[Sample]:
        recording = read_wav(file, audio.rate)
        cut = recording[None] if audio.frame is None else frames(recording, audio.frame, audio.context)
        for piece in cut:
            yield {spec.name: piece.reshape(*[1] * (len(spec.shape) - 1), -1).astype(spec.dtype)}

    return read
