"""MiniLM, a sentence model: FP32 against Optimum's export, INT8 against that export and quantize_static."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.common import ROOT, Comparison, Cost, Row, in_turn, typical
from benchmarks.compile import sides
from benchmarks.compile.sides import Options

CALIBRATION = ROOT / "calibration" / "sentences.txt"
UNSEEN = ROOT / "examples" / "sentences.txt"
# The recipe reads 128 and 4 more, of which it keeps 4 for evidence; the peer may calibrate with all of them.
SAMPLES = 132
_TUNED = (
    "optimum-cli export onnx, then quantize_static tuned: quant_pre_process, QDQ, unsigned activations, signed "
    "weights per channel, min-max, only MatMul and Gather, MatMul's outputs float"
)
_PLAIN = "optimum-cli export onnx, then quantize_static with its defaults"


def compare(model: Path, work: Path, options: Options) -> list[Comparison]:
    """Measures everything about MiniLM.

    Args:
        model: the Hugging Face folder.
        work: a folder for what is made.
        options: how thoroughly.

    Raises:
        ValueError: a sentence is in both the calibration and the unseen set.
        CommandFailed: a side failed.
    """
    check_apart(CALIBRATION, UNSEEN)
    export, tokenizer = work / "optimum", work / "optimum" / "tokenizer.json"
    fp32, int8 = work / "fp32.bundle", work / "int8.bundle"
    tuned, plain = work / "tuned.onnx", work / "plain.onnx"
    exported = export / "model.onnx"
    recipe = ("--recipe", "sentence-embedding")

    def quantize(out: Path, *extra: str) -> Cost:
        return sides.run_peer(
            "peer_minilm.py", exported, tokenizer, CALIBRATION, out, "--samples", str(SAMPLES), *extra
        )

    costs = in_turn(
        {
            "fp32": lambda: sides.compile_bundle(model, fp32, *recipe, "--precision", "fp32"),
            "export": lambda: sides.export_with_optimum(model, export),
            "int8": lambda: sides.compile_bundle(
                model, int8, *recipe, "--precision", "int8", "--calib", CALIBRATION
            ),
            "tuned": lambda: quantize(tuned),
            "plain": lambda: quantize(plain, "--defaults"),
        },
        options.runs,
    )
    median = {name: typical(found) for name, found in costs.items()}
    files = {"fp32": fp32, "int8": int8, "export": exported, "tuned": tuned, "plain": plain}
    found = sides.quality("minilm", model, UNSEEN, files, options)
    text = sum(f.stat().st_size for f in export.iterdir() if f.suffix != ".onnx")
    ...
