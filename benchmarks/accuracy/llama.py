"""What INT4 weights cost a small Llama in perplexity: rounded to nearest, MSE clipping, GPTQ, AdaRound and AWQ.

    python benchmarks/accuracy/llama.py [--json] [--steps N] [--windows N]

The model is trained here on the docstrings of Python's standard library (see llama_model.py) and kept under
benchmarks/.models. Every row is the perplexity on modules that it was not trained on, from one run, and its ratio to
FP32. Calibration reads 128 windows of the training text.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.accuracy.llama_model import CONFIG, STEPS, trained
from benchmarks.common import machine, versions
from edgebig.graph import Executor, Graph
from edgebig.graph.passes import FoldConstants, NameNodes, RaiseOpset, RaiseToFloat32, RemoveNoOps, run_passes
from edgebig.quantize import insert_qdq, rules_weights
from edgebig.quantize.assignment import Assignment
from edgebig.quantize.formats import INT4, INT8, Format, ScaleMethod
from edgebig.quantize.repair.awq import awq
from edgebig.quantize.repair.rounding import Method
from edgebig.quantize.repair.weights import round_weights
from edgebig.source import export_huggingface

Array = np.ndarray[Any, Any]
Sample = dict[str, Array]

_OPSET = 21
_CALIBRATION = 128
_BATCH = 8
_TO_REACH = 1.01
_PACKAGES = ("numpy", "onnx", "onnx-ir", "onnxruntime", "optimum-onnx", "torch", "transformers", "tokenizers")


@dataclass(frozen=True)
class Way:
    """A way to make the weights.

    Attributes:
        title: for people.
        fmt: their format.
        block: elements with one scale; ``None``: one for each output channel.
        clip: how scales are made.
        awq: whether AWQ scales come first.
        method: how weights are rounded.
        limit: the largest ratio that edgebig means to need.
    """

    title: str
    fmt: Format = INT4
    block: int | None = 128
    clip: ScaleMethod = "max"
    awq: bool = False
    method: Method = "nearest"
    limit: float | None = None


WAYS = (
    Way("INT4 block 128, rounded to nearest"),
    Way("INT4 block 128, nearest, MSE clipping", clip="mse"),
    Way("INT4 block 128, GPTQ", method="gptq", limit=_TO_REACH),
    Way("INT4 block 128, GPTQ, MSE clipping", clip="mse", method="gptq", limit=_TO_REACH),
    Way("INT4 block 128, AdaRound, MSE clipping", clip="mse", method="adaround", limit=_TO_REACH),
    Way("INT4 block 128, AWQ", awq=True, limit=_TO_REACH),
    Way("INT4 block 128, AWQ + GPTQ", awq=True, method="gptq", limit=_TO_REACH),
    Way("INT4 block 32, rounded to nearest", block=32),
    Way("INT4 block 32, AWQ + GPTQ", block=32, awq=True, method="gptq", limit=_TO_REACH),
    Way("INT8 per channel, rounded to nearest", fmt=INT8, block=None),
)


@dataclass(frozen=True)
class Row:
    """One result.

    Attributes:
        title: the way.
        perplexity: on held-out text.
        ratio: to FP32.
        divergence: from FP32's distribution, nats a token; it scatters less than perplexity.
        limit: to reach, if any.
        seconds: that the weights took.
    """

    title: str
    perplexity: float
    ratio: float
    divergence: float
    limit: float | None
    seconds: float


def main() -> int:
    """Measures and prints; the exit code is 0 whatever was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--steps", type=int, default=STEPS, help="of training")
    parser.add_argument("--windows", type=int, default=512, help="held-out windows of 128 tokens")
    given = parser.parse_args()
    model = trained(say, given.steps)
    with tempfile.TemporaryDirectory(prefix="edgebig-llama-") as folder:
        graph = exported(model.folder, Path(folder))
        held_out = model.held_out[: given.windows]
        rows = measure(graph, samples(graph, model.training[:: len(model.training) // _CALIBRATION]), held_out)
    if given.json:
        setup = {"machine": machine(), "versions": versions(_PACKAGES), "steps": given.steps, "config": CONFIG}
        print(json.dumps({**setup, "tokens": held_out[:, 1:].size, "rows": [asdict(r) for r in rows]}))
    else:
        print(table(rows, held_out[:, 1:].size))
    return 0


def exported(model: Path, folder: Path) -> Graph:
    """The decoder as edgebig exports and simplifies it."""
    source = export_huggingface(str(model), folder, "text-generation", _OPSET, 1e-3)
    graph = source.parts[0].graph
    run_passes(graph, [RaiseOpset(_OPSET), RaiseToFloat32(), FoldConstants(), RemoveNoOps(), NameNodes()])
    return graph


def measure(graph: Graph, calibration: list[Sample], held_out: Array) -> list[Row]:
    """FP32, then every way."""
    say("FP32")
    base, _ = loss(graph, held_out)
    rows = [Row("FP32", base, 1.0, 0.0, None, 0.0)]
    for way in WAYS:
        say(way.title)
        started = time.perf_counter()
        quantized = quantize(graph, way, calibration)
        seconds = time.perf_counter() - started
        found, divergence = loss(quantized, held_out, graph)
        rows.append(Row(way.title, found, found / base, divergence, way.limit, seconds))
    return rows


def quantize(graph: Graph, way: Way, calibration: list[Sample]) -> Graph:
    """A quantized copy of the graph."""
    made = graph.clone()
    name = "int4" if way.fmt is INT4 else "int8-weights"
    plan = rules_weights.make(made, Assignment(name), way.block, way.fmt, way.clip)
    clipped = awq(made, plan, calibration).scales if way.awq and way.method == "nearest" else None
    if way.awq and way.method != "nearest":
        awq(made, plan, calibration)
    insert_qdq(made, plan, round_weights(made, plan, calibration, method=way.method), clipped)
    return made


def loss(graph: Graph, windows: Array, reference: Graph | None = None) -> tuple[float, float]:
    """Perplexity, and the divergence from the reference.

    Args:
        graph: a decoder.
        windows: token ids, int64 ``[windows, tokens]``.
        reference: gives the distribution that the graph's is compared with.

    Returns:
        The exponential of the mean negative log-likelihood of each window's tokens after its first, and the mean
        Kullback-Leibler divergence KL(reference || graph) of a token, nats.
    """
    likelihood, divergence = 0.0, 0.0
    with Executor(graph, "basic") as executor, Executor(reference or graph, "basic") as other:
        for sample in samples(graph, windows):
            found = log_probabilities(executor, sample)
            likelihood += float(np.take_along_axis(found, sample["input_ids"][:, 1:, None], axis=-1).sum())
            if reference is not None:
                expected = log_probabilities(other, sample)
                divergence += float((np.exp(expected) * (expected - found)).sum())
    count = windows[:, 1:].size
    return float(np.exp(-likelihood / count)), divergence / count


def log_probabilities(executor: Executor, sample: Sample) -> Array:
    """Of each next token, float64 ``[windows, tokens - 1, vocabulary]``."""
    logits: Array = executor.run(sample, ["logits"])["logits"][:, :-1].astype(np.float64)
    logits -= logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def samples(graph: Graph, windows: Array) -> list[Sample]:
    """The windows as inputs of the decoder, with an empty cache."""
    return [_sample(graph, part) for part in _parts(windows)]


def _parts(windows: Array) -> Iterator[Array]:
    for start in range(0, len(windows), _BATCH):
        yield windows[start : start + _BATCH]


def _sample(graph: Graph, ids: Array) -> Sample:
    found: Sample = {}
    for spec in graph.inputs:
        if spec.name == "input_ids":
            found[spec.name] = ids
        elif spec.name == "attention_mask":
            found[spec.name] = np.ones_like(ids)
        elif spec.name == "position_ids":
            found[spec.name] = np.broadcast_to(np.arange(ids.shape[1]), ids.shape).copy()
        else:
            head = CONFIG["hidden_size"] // CONFIG["num_attention_heads"]
            found[spec.name] = np.zeros((len(ids), CONFIG["num_key_value_heads"], 0, head), np.float32)
    return found


def table(rows: list[Row], tokens: int) -> str:
    """Markdown."""
    lines = [f"### Perplexity of a small Llama on {tokens} held-out tokens", ""]
    lines += ["| weights | perplexity | ratio to FP32 | to reach | KL to FP32, 1e-3 nats | s |"]
    lines += ["|---|--:|--:|--:|--:|--:|"]
    for row in rows:
        limit = f"<= {row.limit:g}" if row.limit is not None else ""
        figures = f"{row.perplexity:.3f} | {row.ratio:.4f} | {limit} | {1000 * row.divergence:.2f} | {row.seconds:.1f}"
        lines.append(f"| {row.title} | {figures} |")
    return "\n".join(lines)


def say(what: str) -> None:
    """Progress."""
    print(f"{what} ...", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
