"""Synthetic samples: inputs made from what the model itself tells, where there is no data at all.

Pictures are scenes (:mod:`edgebig.calibrate.synthetic.scenes`), chosen by the graph's BatchNormalizations where
it has any, else by the model's answers; texts are tokens by Zipf's law or what a decoder writes
itself; sound is made at the level of speech. An input that is none of these is refused: random
numbers are never passed off as data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgebig.calibrate.data.samples import Located, Reading, Sample, Samples, check_sample
from edgebig.calibrate.synthetic.batchnorm import NormMoments, choose
from edgebig.calibrate.synthetic.kinds import Taken, kinds_of
from edgebig.calibrate.synthetic.makers import (
    FRAMES,
    Aids,
    Maker,
    longest_text,
    pictures_by,
    sounds,
    texts,
    texts_of,
)
from edgebig.calibrate.synthetic.tokens import LENGTHS, can_generate, generate, text_length, zipf
from edgebig.errors import CalibrationError
from edgebig.graph import Executor, Graph
from edgebig.spec import TensorSpec

Array = np.ndarray[Any, Any]
Tick = Callable[[int], None]

_CANDIDATES = 3
"""Scenes that each kept one is chosen from."""


def synthetic_samples(
    graph: Graph,
    original: Path,
    inputs: Sequence[TensorSpec],
    count: int,
    aids: Aids,
    *,
    seed: int = 0,
    tick: Tick | None = None,
) -> Samples:
    """Samples made for a graph; the same ones every time, each made when it is read.

    Args:
        graph: in float32.
        original: the ONNX file that it came from, whose BatchNormalizations are not folded.
        inputs: the graph's inputs that need values: all but states that are carried from sample to sample.
        count: number of samples.
        aids: what is known of the inputs beyond the graph.
        seed: of all draws.
        tick: called with the number of samples chosen or written so far, where that takes time.

    Returns:
        The samples. Their source begins with ``synthetic:`` and tells how they were made.

    Raises:
        CalibrationError: an input is neither a picture nor a text nor sound, or how its pictures are
            prepared is not known.
    """
    taken = kinds_of(graph, tuple(inputs))
    _refuse_unknown(taken)
    makers: list[Maker] = []
    told: list[str] = []
    numbers: Sequence[int] = range(count)
    for kind, build in (("tokens", _texts), ("sound", _sounds)):
        if any(t.kind == kind for t in taken):
            made = build(graph, taken, count, aids, seed, tick)
            makers.append(made[0])
            told.append(made[1])
    picture = next((t.spec for t in taken if t.kind == "picture"), None)
    if picture is not None:
        makers.append(_pictures(picture, aids, seed))
        numbers, how = _choice(graph, original, _joined(taken, makers), count, aids, tick)
        told.append(f"dead-leaves pictures, prepared as the model's are, {how}")
    make = _joined(taken, makers)
    framed = FRAMES if aids.recurrent else 0
    reading = Reading(asked=count)

    def read() -> Iterator[Located]:
        reading.restart()
        for number in numbers:
            where = f"made recording {number // framed}[{number % framed}]" if framed else f"made sample {number}"
            sample = make(number)
            check_sample(where, sample, inputs)
            reading.read, reading.used = reading.read + 1, reading.used + 1
            yield where, sample

    return Samples(f"synthetic: {count} {'; '.join(told)}", read, reading)


def _refuse_unknown(taken: Sequence[Taken]) -> None:
    known = {"picture", "sound", "tokens"}
    for item in taken:
        if item.kind is None:
            raise CalibrationError(
                f"--calib synthetic cannot make {item.spec}: it is neither a picture nor sound nor tokens, and noise "
                "would calibrate it wrongly: give recorded values, an .npz with an array for each input"
            )
    if not known & {t.kind for t in taken}:
        raise CalibrationError(
            f"--calib synthetic found no picture, sound or tokens among {', '.join(str(t.spec) for t in taken)}: "
            "give recorded values, an .npz with an array for each input"
        )


def _joined(taken: Sequence[Taken], makers: Sequence[Maker]) -> Maker:
    """One maker of all inputs; masks that no maker gave are ones."""

    def make(number: int) -> Sample:
        sample: Sample = {}
        for maker in makers:
            sample.update(maker(number))
        for item in taken:
            if item.spec.name not in sample and item.kind == "mask":
                sample[item.spec.name] = _mask(item, taken, sample)
        missing = [str(t.spec) for t in taken if t.spec.name not in sample]
        if missing:
            raise CalibrationError(f"--calib synthetic: the model's processor gave nothing for {missing[0]}")
        return {item.spec.name: sample[item.spec.name] for item in taken}

    return make


def _mask(mask: Taken, taken: Sequence[Taken], sample: Sample) -> Array:
    """Ones over the whole of the sound or the picture that a mask belongs to."""
    for kind, skipped in (("picture", 2), ("sound", 0)):
        covered = next((t.spec for t in taken if t.kind == kind), None)
        if covered is not None and (kind == "sound" or "pixel" in mask.spec.name):
            shape = sample[covered.name].shape
            sizes = (shape[0], *shape[skipped:]) if skipped else (shape[0], shape[-1])
            return np.ones(sizes, mask.spec.dtype)
    return np.ones([d if isinstance(d, int) else 1 for d in mask.spec.shape], mask.spec.dtype)


def _pictures(spec: TensorSpec, aids: Aids, seed: int) -> Maker:
    """Scenes as the model takes them.

    Which preparation that is cannot be found out from the graph: even real pictures lead to moments
    nearer to the stored ones when they are prepared in a wrong but similar way.
    """
    if aids.picture is None:
        raise CalibrationError(
            f"--calib synthetic: nothing tells how a picture becomes {spec}: add a preprocess section to the recipe "
            "(scale, mean, std), or give --calib"
        )
    return pictures_by(aids.picture, spec, aids, seed)


def _choice(
    graph: Graph, original: Path, make: Maker, count: int, aids: Aids, tick: Tick | None
) -> tuple[Sequence[int], str]:
    """Numbers of the samples that fit the model, and what to say of them."""
    if aids.recurrent:
        return range(count), "their distribution assumed"
    with NormMoments(original, aids.constants) as norms:
        if not norms.layers:
            numbers = strongest(graph, make, count, _CANDIDATES, tick)
            return numbers, (
                f"those of {_CANDIDATES * count} that the model answers to most strongly, their distribution assumed "
                "(the graph keeps no BatchNorm statistics)"
            )
        numbers, near, far = choose(norms, make, count, _CANDIDATES, tick)
    return numbers, (
        f"chosen by the statistics of {norms.layers} BatchNormalizations (distance {near:.3f}, of all tried {far:.3f})"
    )


def strongest(graph: Graph, make: Maker, count: int, candidates: int, tick: Tick | None) -> list[int]:
    """Of each ``candidates`` neighbouring numbers that one whose sample the model answers to most strongly.

    The last layers of a network are loud only where it finds what it was trained to find; scenes drawn
    blindly leave them quiet, and their ranges would clip what real data brings. The strength is the sum
    over the float outputs of the logarithms of their norms, so that the unit of an output does not count.
    """

    def strength(executor: Executor, number: int) -> float:
        values = [v for v in executor.run(make(number)).values() if v.dtype.kind == "f"]
        return sum(float(np.log(np.linalg.norm(v.astype(np.float64)) + 1e-12)) for v in values)

    chosen = []
    with Executor(graph, "all") as executor:
        for index in range(count):
            strengths = [strength(executor, index * candidates + i) for i in range(candidates)]
            chosen.append(index * candidates + int(np.argmax(strengths)))
            if tick is not None:
                tick(index + 1)
    return chosen


def _texts(
    graph: Graph, taken: Sequence[Taken], count: int, aids: Aids, seed: int, tick: Tick | None
) -> tuple[Maker, str]:
    tokens = next(t for t in taken if t.kind == "tokens")
    is_sole = sum(t.kind == "tokens" for t in taken) == 1 and all(t.kind != "picture" for t in taken)
    if not (is_sole and can_generate(graph, taken)):
        what = "the tokenizer's vocabulary" if aids.vocabulary else f"a table of {tokens.rows} tokens"
        return texts(taken, aids, seed), f"texts drawn from {what} by Zipf's law, {LENGTHS}"
    random = np.random.default_rng([seed, 1])
    lengths = [text_length(random, longest_text(tokens.spec, aids)) for _ in range(count)]

    def prompt(draws: np.random.Generator) -> Array:
        first = int(zipf(draws, len(aids.vocabulary.ids) if aids.vocabulary else tokens.rows, 1)[0])
        if aids.vocabulary is None:
            return np.array([first])
        # what the tokenizer puts before a text comes before this one too
        return np.array([*aids.vocabulary.prefix, aids.vocabulary.ids[first]])

    written = generate(graph, taken, prompt, lengths, seed, tick)
    return texts_of(taken, written), f"texts that the model wrote itself, {LENGTHS}"


def _sounds(
    graph: Graph, taken: Sequence[Taken], count: int, aids: Aids, seed: int, tick: Tick | None
) -> tuple[Maker, str]:
    spec = next(t.spec for t in taken if t.kind == "sound")
    return sounds(spec, aids, seed), f"made voices, noises, tones and sweeps at the level of speech, {aids.rate} Hz"
