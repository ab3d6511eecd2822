"""MiniLM, a sentence model: FP32 against Optimum's export, INT8 against that export and quantize_static."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from benchmarks.common import ROOT, Comparison, Cost, Row, in_turn
from benchmarks.compile import sides
from benchmarks.compile.sides import Options

CALIBRATION = ROOT / "calibration" / "sentences.txt"
UNSEEN = ROOT / "examples" / "sentences.txt"
# edgebig reads the recipe's 128 and 4 more, of which it keeps 4 as evidence; the peer calibrates with all of them.
SAMPLES = 132

_EXPORT = "optimum-cli export onnx"
_TUNED = (
    f"{_EXPORT}, then quantize_static tuned (quant_pre_process, QDQ, unsigned activations, signed weights per "
    "channel, min-max, only MatMul and Gather, MatMul's outputs float)"
)
_PLAIN = f"{_EXPORT}, then quantize_static with its defaults"


def compare(model: Path, work: Path, options: Options) -> list[Comparison]:
    """Measures everything about MiniLM.

    Args:
        model: the Hugging Face folder.
        work: an empty folder for what is made.
        options: how thoroughly.

    Raises:
        ValueError: a sentence is in both the calibration and the unseen set.
        CommandFailed: a side failed.
    """
    check_apart()
    export = work / "optimum"
    files = {name: work / f"{name}.bundle" for name in ("fp32", "int8")}
    files |= {"export": export / "model.onnx", "tuned": work / "tuned.onnx", "plain": work / "plain.onnx"}

    def compiled(precision: str) -> Cost:
        how = ("--recipe", "sentence-embedding", "--calib", CALIBRATION, "--precision", precision)
        return sides.compile_bundle(model, files[precision], *how)

    def quantized(name: str, *extra: str) -> Cost:
        data = (export / "tokenizer.json", CALIBRATION)
        how = ("--samples", str(SAMPLES), *extra)
        return sides.run_peer("peer_minilm.py", files["export"], *data, files[name], *how)

    costs = in_turn(
        {
            "fp32": lambda: compiled("fp32"),
            "export": lambda: sides.export_with_optimum(model, export),
            "int8": lambda: compiled("int8"),
            "tuned": lambda: quantized("tuned"),
            "plain": lambda: quantized("plain", "--defaults"),
        },
        options.runs,
    )
    found = sides.quality("minilm", model, UNSEEN, files, options)
    tokenizer = sum(f.stat().st_size for f in export.iterdir() if f.suffix != ".onnx")

    def table(ours: str, theirs: str, peer: str) -> Comparison:
        chain = [costs["export"]] + ([costs[theirs]] if theirs != "export" else [])
        peer_costs = [run[0] if len(run) == 1 else run[0].then(run[1]) for run in zip(*chain, strict=True)]
        sizes = (sides.bundle_bytes(files[ours]), files[theirs].stat().st_size + tokenizer)
        rows = quality_rows(found[ours], found[theirs])
        return sides.comparison(f"MiniLM, {ours.upper()}, CPU", peer, costs[ours], peer_costs, sizes, rows)

    return [table("fp32", "export", _EXPORT), table("int8", "tuned", _TUNED), table("int8", "plain", _PLAIN)]


def check_apart() -> None:
    """Refuses to measure on sentences that a side was calibrated with."""
    seen, unseen = (set(file.read_text(encoding="utf-8").splitlines()) for file in (CALIBRATION, UNSEEN))
    both = sorted((seen & unseen) - {""})
    if both:
        raise ValueError(f"{both[0]!r} is in both {CALIBRATION.name} of calibration/ and of examples/: remove it")


def quality_rows(ours: Mapping[str, float], theirs: Mapping[str, float]) -> tuple[Row, ...]:
    """Latency and closeness as quality.py gives them."""

    def row(figure: str, key: str, digits: int, noise: float = 0.0) -> Row:
        return Row(figure, ours[key], theirs[key], digits, noise)

    return (
        row("latency, 16 tokens, median, ms", "ms_16", 2),
        row("latency, 128 tokens, median, ms", "ms_128", 2),
        row("sentence vector's distance from PyTorch's (1 - cosine), mean", "mean_distance", 5, 1e-6),
        row("the same, of the worst sentence", "largest_distance", 5, 1e-6),
    )
