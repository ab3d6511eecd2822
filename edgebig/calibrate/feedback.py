"""Feedback: models with state see in calibration what they see in use, where outputs become inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from edgebig.calibrate.data.reading import Sample, file_of, recording_of
from edgebig.spec import Dim, TensorSpec

Array = np.ndarray[Any, Any]

_RECORDING = "edgebig.recording"


class Feedback(Protocol):
    """Makes inputs of outputs.

    Attributes:
        carried: the inputs that it gives, which samples may lack.
    """

    carried: frozenset[str]

    @property
    def outputs(self) -> Sequence[str]:
        """The outputs that it needs to see."""

    def begin(self, where: str, sample: Sample) -> Sample:
        """A sample from the data, completed with the state; ``where`` tells when a recording begins."""

    def follow(self, sample: Sample, outputs: Sample) -> Sample | None:
        """Takes what a run gave; returns a further sample that follows from it, or ``None``."""

    def snapshot(self) -> Sample:
        """What it carries between samples, as arrays."""

    def restore(self, state: Sample) -> None:
        """Takes over a snapshot; an empty one is the beginning."""


class NoFeedback:
    """For models without state."""

    carried: frozenset[str] = frozenset()
    outputs: Sequence[str] = ()

    def begin(self, where: str, sample: Sample) -> Sample:
        """The sample as it is."""
        return sample

    def follow(self, sample: Sample, outputs: Sample) -> Sample | None:
        """Nothing follows."""
        return None

    def snapshot(self) -> Sample:
        """Nothing."""
        return {}

    def restore(self, state: Sample) -> None:
        """Nothing is carried."""


class RecurrentState:
    """Carries a recurrent model's state from each sample to the next, from zeros at each recording's start."""

    def __init__(self, states: Mapping[str, str], inputs: Sequence[TensorSpec]) -> None:
        """``states``: the output that becomes each state input."""
        self._states = dict(states)
        self._specs = {spec.name: spec for spec in inputs}
        self.carried = frozenset(states)
        # by name and row: the rows of a batch are streams side by side
        self._values: Sample = {}
        self._recording: str | None = None
        self._row = ""
        self.outputs: Sequence[str] = tuple(dict.fromkeys(states.values()))

    def begin(self, where: str, sample: Sample) -> Sample:
        """Adds the state, or zeros where a recording begins."""
        recording = recording_of(where)
        file = file_of(recording)
        if file != self._recording:
            self._recording, self._values = file, {}
        self._row = recording.removeprefix(file)
        sizes = axis_sizes(self._specs.values(), sample)
        state = {n: self._values.get(n + self._row, _zeros(self._specs[n], sizes)) for n in self._states}
        # a state that the data brings wins
        return {**state, **sample}

    def follow(self, sample: Sample, outputs: Sample) -> Sample | None:
        """Keeps the new state; no sample follows."""
        self._values.update({name + self._row: outputs[output] for name, output in self._states.items()})
        return None

    def snapshot(self) -> Sample:
        """The state, and the recording that it belongs to."""
        return {**self._values, _RECORDING: np.array(self._recording or "")}

    def restore(self, state: Sample) -> None:
        """Continues in the midst of a recording."""
        self._recording = str(state[_RECORDING]) if _RECORDING in state else None
        self._values = {name: array for name, array in state.items() if name != _RECORDING}


class GeneratedText:
    """Lets a decoder with a key-value cache write on after each text, as it does in use.

    The text fills an empty cache; then the likeliest token is fed back ``steps`` times, each with the
    cache of the run before.
    """

    def __init__(self, caches: Mapping[str, str], inputs: Sequence[TensorSpec], logits: str, steps: int) -> None:
        """``caches``: the output that becomes each cache input."""
        self.carried = frozenset(caches)
        self._caches = dict(caches)
        self._specs = {spec.name: spec for spec in inputs}
        self._logits = logits
        self._steps = steps
        self._left = 0
        self.outputs: Sequence[str] = (logits, *caches.values())

    def begin(self, where: str, sample: Sample) -> Sample:
        """Adds the empty cache."""
        self._left = self._steps
        sizes = axis_sizes(self._specs.values(), sample)
        empty = {name: _zeros(self._specs[name], sizes, unknown=0) for name in self._caches}
        return {**empty, **sample}

    def follow(self, sample: Sample, outputs: Sample) -> Sample | None:
        """The next token with the cache that holds all before it."""
        if self._left == 0:
            return None
        self._left -= 1
        token = outputs[self._logits][:, -1:].argmax(axis=-1)
        # what does not change from token to token, as an encoder's cache, stays
        following: Sample = {**sample, **{name: outputs[output] for name, output in self._caches.items()}}
        following["input_ids"] = token.astype(sample["input_ids"].dtype)
        if "attention_mask" in sample:
            mask = sample["attention_mask"]
            following["attention_mask"] = np.concatenate([mask, np.ones((mask.shape[0], 1), mask.dtype)], axis=1)
        if "position_ids" in sample:
            following["position_ids"] = sample["position_ids"][:, -1:] + 1
        return following

    def snapshot(self) -> Sample:
        """Nothing: each text begins with an empty cache."""
        return {}

    def restore(self, state: Sample) -> None:
        """Nothing is carried from text to text."""


def axis_sizes(specs: Sequence[TensorSpec] | Any, sample: Sample) -> dict[str, int]:
    """Sizes of the named axes, read off the arrays that a sample has."""
    sizes: dict[str, int] = {}
    for spec in specs:
        if spec.name in sample:
            pairs = zip(spec.shape, sample[spec.name].shape, strict=False)
            sizes.update({dim: size for dim, size in pairs if isinstance(dim, str)})
    return sizes


def _zeros(spec: TensorSpec, sizes: Mapping[str, int], unknown: int = 1) -> Array:
    def size(dim: Dim) -> int:
        return dim if isinstance(dim, int) else sizes.get(dim, unknown) if dim is not None else unknown

    return np.zeros([size(dim) for dim in spec.shape], spec.dtype)
