"""What every source gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from edgebig.errors import ExportMismatch
from edgebig.graph import Executor, Graph
from edgebig.similarity import compare

Sample = dict[str, np.ndarray[Any, Any]]
Extent = tuple[int, int, int]


@dataclass(frozen=True)
class Sound:
    """A feature extractor for recordings.

    Attributes:
        rate: sampling rate that it takes, in Hz.
        longest: samples that it takes at once.
        to_sample: makes a sample of float32 ``[samples]``, mono, -1 to 1.
    """

    rate: int
    longest: int
    to_sample: Callable[[np.ndarray[Any, Any]], Sample]


@dataclass(frozen=True)
class SourcePart:
    """One graph of a model.

    Attributes:
        name: ``model``, or ``encoder_model`` and the like.
        graph: as it was exported or read.
        original: the ONNX file that it came from, which reference runs use.
        examples: inputs that fit it, where the source knows some.
        axes: smallest, best and largest size of named dynamic axes, as far as the source knows them.
        fixed: shapes that inputs should have although the graph leaves them open.
        positions: the largest number of tokens, those of a cache among them, where the source knows it.
        given: what the original takes beside the graph's inputs.
        answers: the original's outputs that the graph has; ``None``: all.
    """

    name: str
    graph: Graph
    original: Path
    examples: tuple[Sample, ...] = ()
    axes: Mapping[str, Extent] = field(default_factory=dict)
    fixed: Mapping[str, tuple[int | str | None, ...]] = field(default_factory=dict)
    positions: int | None = None
    given: Mapping[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    answers: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Source:
    """A trained model, as graphs.

    Attributes:
        kind: ``onnx``, ``huggingface`` or ``torch``.
        name: the model's name, without its path.
        parts: its graphs.
        task: Optimum's name of the task, where there is one.
        sha256: of the file or weights, where there is one file.
        processor: folder with the tokenizer and image processor, where the model brings them.
        text: makes a sample of a line of text, where the model brings a tokenizer.
        picture: makes a sample of a picture, where the model brings an image processor.
        sound: makes a sample of a recording, where the model brings a feature extractor.
        notes: what was done, a line each.
    """

    kind: str
    name: str
    parts: tuple[SourcePart, ...]
    task: str | None = None
    sha256: str | None = None
    processor: Path | None = None
    text: Callable[[str], Sample] | None = None
    picture: Callable[[Path | IO[bytes]], Sample] | None = None
    sound: Sound | None = None
    notes: tuple[str, ...] = ()


def check_export(name: str, path: Path, inputs: Sample, expected: Sample, tolerance: float) -> str:
    """Compares an exported file with the original's outputs; returns a line on how near it is.

    Args:
        name: of the part, for the message.
        path: the ONNX file.
        inputs: example inputs.
        expected: the original's outputs by the graph's output names.
        tolerance: largest difference relative to an output's largest magnitude.

    Raises:
        ExportMismatch: an output differs in shape or beyond the tolerance.
    """
    with Executor(path, "basic") as executor:
        found = executor.run(inputs)
    worst = 0.0
    for output, values in expected.items():
        if output not in found:
            continue
        if found[output].shape != values.shape:
            raise ExportMismatch(
                f"export of {name}: the output {output!r} has shape {found[output].shape}, "
                f"the original {values.shape}: the model may hold Python control flow that the exporter cannot follow"
            )
        difference = compare(values, found[output]).max_relative
        if not difference <= tolerance:
            raise ExportMismatch(
                f"export of {name}: the output {output!r} differs from the original by {difference:.2g} "
                f"of its largest value, allowed are {tolerance:.2g}: check the model, "
                "or allow more with tolerance in the recipe"
            )
        worst = max(worst, difference)
    compared = len(set(expected) & set(found))
    if compared == 0:
        raise ExportMismatch(
            f"export of {name}: no output could be compared: {', '.join(found)} against {', '.join(expected)}"
        )
    return f"{name}: {compared} outputs equal the original's within {worst:.1e}"
