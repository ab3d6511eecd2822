"""Latency of compiled models in turn, and how near each is to the original: prints one JSON object.

    python quality.py minilm ORIGINAL SENTENCES NAME=MODEL [NAME=MODEL ...] --seconds S --threads T
    python quality.py squeezenet FP32.onnx PICTURES NAME=MODEL [NAME=MODEL ...] --seconds S --threads T

MODEL is a bundle, run by edgebig's runtime, or an .onnx file, run by ONNX Runtime alone. The original is
MiniLM in PyTorch (ORIGINAL: its Hugging Face folder) or SqueezeNet's FP32 file in ONNX Runtime.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np
import onnxruntime as ort

import edgebig
from edgebig.recipe import Recipe
from edgebig.tasks.text import Tokenizer, mean_pool
from edgebig.tasks.vision import prepare

Array = np.ndarray[Any, Any]
Run = Callable[[Mapping[str, Array]], Array]
LENGTHS = (16, 128)
_ROUNDS = 5


def open_model(path: str, threads: int, stack: ExitStack) -> Run:
    """What runs the model and returns its first output; feeds that it does not take are left out."""
    if Path(path).is_dir():
        bundle = stack.enter_context(edgebig.load(path, threads=threads))
        taken, first = {spec.name for spec in bundle.inputs}, bundle.outputs[0].name
        return lambda feeds: bundle.run({k: v for k, v in feeds.items() if k in taken})[first]
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    wanted, outputs = {i.name for i in session.get_inputs()}, [session.get_outputs()[0].name]
    return lambda feeds: session.run(outputs, {k: v for k, v in feeds.items() if k in wanted})[0]


def latencies(models: Mapping[str, Run], feeds: Mapping[str, Array], seconds: float) -> dict[str, float]:
    """Median milliseconds of one run of each model, in blocks that take turns; ``seconds`` for each in all."""
    times: dict[str, list[int]] = {name: [] for name in models}
    for run in models.values():
        run(feeds)
    for _ in range(_ROUNDS):
        for name, run in models.items():
            end = perf_counter_ns() + int(seconds / _ROUNDS * 1e9)
            run(feeds)  # a model's data has left the caches while the others ran
            while True:
                before = perf_counter_ns()
                run(feeds)
                now = perf_counter_ns()
                times[name].append(now - before)
                if now > end:
                    break
    return {name: float(np.median(found)) / 1e6 for name, found in times.items()}


def minilm(original: str, sentences: Path, models: Mapping[str, Run], seconds: float) -> dict[str, dict[str, float]]:
    """Latency at two lengths, and the distance of sentence vectors from PyTorch's (1 - cosine)."""
    import torch
    from transformers import AutoModel

    tokenizer = Tokenizer(original)
    lines = [line for line in sentences.read_text(encoding="utf-8").splitlines() if line.strip()]
    tokens = [tokenizer([line]) for line in lines]
    module = AutoModel.from_pretrained(original).eval()
    with torch.inference_mode():
        expected = [
            _vector(module(**{k: torch.from_numpy(v) for k, v in t.items()}).last_hidden_state.numpy(), t)
            for t in tokens
        ]
    del module
    times = {n: latencies(models, tokenizer([" ".join(lines)], n, n), seconds) for n in LENGTHS}
    found: dict[str, dict[str, float]] = {}
    for name, run in models.items():
        vectors = [_vector(run(t), t) for t in tokens]
        distances = [1 - float(a @ b) for a, b in zip(expected, vectors, strict=True)]
        found[name] = {f"ms_{n}": times[n][name] for n in LENGTHS}
        found[name] |= {"mean_distance": float(np.mean(distances)), "largest_distance": max(distances)}
    return found


def _vector(token_vectors: Array, tokens: Mapping[str, Array]) -> Array:
    """The sentence's vector in float64, of length 1."""
    vector = mean_pool(token_vectors, tokens["attention_mask"])[0].astype(np.float64)
    return np.asarray(vector / np.linalg.norm(vector))


def squeezenet(original: Run, pictures: Path, models: Mapping[str, Run], seconds: float) -> dict[str, dict[str, float]]:
    """Latency of one picture, how many pictures' first class is another, and the mean distance of the outputs."""
    how = Recipe.load("imagenet-caffe").preprocess
    assert how is not None
    feeds = [{"data_0": prepare(file, how)} for file in sorted(pictures.iterdir())]
    expected = [original(f).ravel().astype(np.float64) for f in feeds]
    times = latencies(models, feeds[0], seconds)
    found: dict[str, dict[str, float]] = {}
    for name, run in models.items():
        outputs = [run(f).ravel().astype(np.float64) for f in feeds]
        pairs = list(zip(expected, outputs, strict=True))
        found[name] = {
            "ms": times[name],
            "changed": float(sum(a.argmax() != b.argmax() for a, b in pairs)),
            "mean_distance": float(np.mean([1 - a @ b / (np.linalg.norm(a) * np.linalg.norm(b)) for a, b in pairs])),
        }
    return found


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("minilm", "squeezenet"))
    parser.add_argument("original")
    parser.add_argument("unseen", type=Path)
    parser.add_argument("models", nargs="+", metavar="NAME=MODEL")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--threads", type=int, required=True)
    asked = parser.parse_args()
    with ExitStack() as stack:
        named = dict(model.split("=", 1) for model in asked.models)
        models = {name: open_model(path, asked.threads, stack) for name, path in named.items()}
        if asked.what == "minilm":
            found = minilm(asked.original, asked.unseen, models, asked.seconds)
        else:
            fp32 = open_model(asked.original, asked.threads, stack)
            found = squeezenet(fp32, asked.unseen, models, asked.seconds)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
