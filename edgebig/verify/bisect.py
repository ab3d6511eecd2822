"""Finds the smallest piece of a graph that still shows an error, and saves it to be looked at."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgebig.errors import OutputError
from edgebig.graph import Executor, Graph
from edgebig.graph.execute import Level
from edgebig.graph.unpack import runnable
from edgebig.similarity import Similarity
from edgebig.verify.subgraph import Piece, cut, shared_tensors, with_outputs
from edgebig.verify.tally import Tally

Array = np.ndarray[Any, Any]
Sample = Mapping[str, Array]
_ENOUGH = 0.5
"""Of the noise of the whole graph at that tensor, what a piece must make to show the error."""


@dataclass(frozen=True)
class Finding:
    """A piece of two graphs, with the inputs on which they differ.

    Attributes:
        tensor: the output, which both graphs have.
        exact: the reference's piece.
        piece: the same of the compared graph.
        inputs: what both take: the reference's values.
        expected: what the reference's piece gives.
        similarity: of what the compared graph's piece gives, over all samples.
        level: ONNX Runtime's optimization level at which that was seen.
    """

    tensor: str
    exact: Piece
    piece: Piece
    inputs: dict[str, Array]
    expected: Array
    similarity: Similarity
    level: Level


def find_smallest(
    reference: Graph, graph: Graph, tensor: str, samples: Sequence[Sample], level: Level = "off"
) -> Finding:
    """The shortest piece before ``tensor`` that, given the reference's values, makes half of its noise or more.

    A piece begins at the tensors that both graphs have up to some place in the reference's order; that place is
    bisected, which takes a logarithm of the number of layers in steps.

    Args:
        reference: what is right.
        graph: what is compared.
        tensor: a float tensor that both have.
        samples: inputs; the finding keeps those of the sample with most noise.
        level: ONNX Runtime's optimization level for ``graph``.

    Raises:
        GraphError: one of the graphs does not run on the samples.
    """
    names = shared_tensors(reference, graph)
    before = names[: names.index(tensor)]
    whole = max(_try(reference, graph, (), tensor, samples, level)[1], key=lambda t: t.noise_ratio)
    low, high = 0, len(before)
    while low < high:
        middle = (low + high + 1) // 2
        tallies = _try(reference, graph, before[:middle], tensor, samples, level)[1]
        if _shows(max(tallies, key=lambda t: t.noise_ratio), whole):
            low = middle
        else:
            high = middle - 1
    return _finding(reference, graph, before[:low], tensor, samples, level)


def save_finding(finding: Finding, folder: Path, text: str) -> None:
    """Writes both pieces, their inputs, what is expected, and a README; all of them or nothing.

    Args:
        finding: what was found.
        folder: must not exist.
        text: what was found, for a person; how to run the pieces is added.

    Raises:
        OutputError: the folder exists or cannot be written.
    """
    folder = Path(os.path.abspath(folder))
    if os.path.lexists(folder):
        raise OutputError(f"{folder} exists: choose another name with -o")
    try:
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror}") from error
    try:
        runnable(finding.piece.graph).save(partial / "subgraph.onnx")
        finding.exact.graph.save(partial / "subgraph.float.onnx")
        np.savez(partial / "inputs.npz", allow_pickle=False, **finding.inputs)
        np.savez(partial / "expected.npz", allow_pickle=False, **{finding.tensor: finding.expected})
        (partial / "README.txt").write_text(f"{text}\n{_how_to(finding)}", encoding="utf-8")
        os.chmod(partial, 0o755)
        os.rename(partial, folder)
    except OSError as error:
        full = error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
        advice = ": free some space" if full else ""
        raise OutputError(f"cannot write {folder}: {error.strerror or error}{advice}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _try(
    reference: Graph, graph: Graph, boundary: Sequence[str], tensor: str, samples: Sequence[Sample], level: Level
) -> tuple[Piece, list[Tally]]:
    """The compared graph's piece between the boundary and the tensor, and its noise on each sample."""
    piece = cut(graph, boundary, [tensor])
    known = set(boundary)
    fetched = [tensor, *(s.name for s in piece.graph.inputs if s.name in known)]
    tallies = []
    with Executor(with_outputs(reference, fetched), "basic") as exact, Executor(piece.graph, level) as alone:
        for sample in samples:
            expected = exact.run(sample)
            tally = Tally()
            found = alone.run({**sample, **expected})[piece.outputs[tensor]]
            if found.shape == expected[tensor].shape:
                tally.add(expected[tensor], found)
            else:
                tally.is_broken = True
            tallies.append(tally)
    return piece, tallies


def _shows(found: Tally, whole: Tally) -> bool:
    return found.is_broken if whole.is_broken else found.noise_ratio >= _ENOUGH * whole.noise_ratio


def _finding(
    reference: Graph, graph: Graph, boundary: Sequence[str], tensor: str, samples: Sequence[Sample], level: Level
) -> Finding:
    piece, tallies = _try(reference, graph, boundary, tensor, samples, level)
    exact = cut(reference, boundary, [tensor])
    worst = max(range(len(samples)), key=lambda i: tallies[i].noise_ratio)
    takes = {s.name for p in (piece, exact) for s in p.graph.inputs}
    with Executor(with_outputs(reference, [tensor, *(n for n in boundary if n in takes)]), "basic") as run:
        values = {**samples[worst], **run.run(samples[worst])}
    inputs = {name: np.asarray(value) for name, value in values.items() if name in takes}
    similarity = Similarity.worst(t.similarity() for t in tallies)
    return Finding(tensor, exact, piece, inputs, np.asarray(values[tensor]), similarity, level)


def _how_to(finding: Finding) -> str:
    levels = {"off": "ORT_DISABLE_ALL", "basic": "ORT_ENABLE_BASIC", "all": "ORT_ENABLE_ALL"}
    is_fp4 = runnable(finding.piece.graph) is not finding.piece.graph
    written_out = ";\n                       weights in FP4 as the floats that they stand for" if is_fp4 else ""
    return f"""
Files
  subgraph.onnx        the piece as the compiled graph has it{written_out}
  subgraph.float.onnx  the same piece of the original
  inputs.npz           what both take: the original's values
  expected.npz         what the original gives

Run it
  import numpy, onnxruntime
  options = onnxruntime.SessionOptions()
  options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.{levels[finding.level]}
  session = onnxruntime.InferenceSession("subgraph.onnx", options, providers=["CPUExecutionProvider"])
  inputs = numpy.load("inputs.npz")
  found = session.run(None, {{i.name: inputs[i.name] for i in session.get_inputs()}})[0]
  expected = numpy.load("expected.npz")[{finding.tensor!r}]
  print(abs(found.astype("float64") - expected).max(), abs(expected).max())
"""
