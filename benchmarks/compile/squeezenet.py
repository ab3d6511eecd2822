"""SqueezeNet 1.1, a picture classifier: INT8 against quantize_static, tuned and with its defaults."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from benchmarks.common import Comparison, Cost, Row, in_turn
from benchmarks.compile import sides
from benchmarks.compile.sides import Options

_TUNED = (
    "quantize_static tuned (quant_pre_process, QDQ, unsigned activations, signed weights per channel, min-max, "
    "every operator that it can)"
)
_PLAIN = "quantize_static with its defaults"


def compare(data: Path, work: Path, options: Options) -> list[Comparison]:
    """Measures everything about SqueezeNet.

    Args:
        data: the folder with ``squeezenet/squeezenet1.1_fp32.onnx`` and ``images/``.
        work: an empty folder for what is made.
        options: how thoroughly.

    Raises:
        CommandFailed: a side failed.
    """
    model = data / "squeezenet" / "squeezenet1.1_fp32.onnx"
    seen, unseen = split_pictures(data / "images", work)
    files = {"int8": work / "int8.bundle", "tuned": work / "tuned.onnx", "plain": work / "plain.onnx"}

    def compiled() -> Cost:
        how = ("--recipe", "imagenet-caffe", "--precision", "int8", "--calib", seen)
        return sides.compile_bundle(model, files["int8"], *how)

    def quantized(name: str, *extra: str) -> Cost:
        return sides.run_peer("peer_squeezenet.py", model, seen, files[name], *extra)

    costs = in_turn(
        {
            "int8": compiled,
            "tuned": lambda: quantized("tuned"),
            "plain": lambda: quantized("plain", "--defaults"),
        },
        options.runs,
    )
    found = sides.quality("squeezenet", model, unseen, files, options)
    count = len(list(unseen.iterdir()))

    def table(theirs: str, peer: str) -> Comparison:
        sizes = (sides.bundle_bytes(files["int8"]), files[theirs].stat().st_size)
        rows = quality_rows(found["int8"], found[theirs], count)
        return sides.comparison("SqueezeNet 1.1, INT8, CPU", peer, costs["int8"], costs[theirs], sizes, rows)

    return [table("tuned", _TUNED), table("plain", _PLAIN)]


def split_pictures(folder: Path, work: Path) -> tuple[Path, Path]:
    """Every second picture for calibration, the others unseen: two folders of links.

    Pictures that are byte for byte the same under two names count once, or an unseen one might have been seen.
    """
    different = {hashlib.sha256(file.read_bytes()).digest(): file for file in sorted(folder.glob("*.jpg"))}
    halves = work / "seen", work / "unseen"
    for half in halves:
        half.mkdir()
    for index, file in enumerate(sorted(different.values())):
        (halves[index % 2] / file.name).symlink_to(file.resolve())
    return halves


def quality_rows(ours: Mapping[str, float], theirs: Mapping[str, float], count: int) -> tuple[Row, ...]:
    """Latency and closeness as quality.py gives them, over so many pictures."""
    return (
        Row("latency, one picture, median, ms", ours["ms"], theirs["ms"], 2),
        Row(f"of {count} unseen pictures, first class not FP32's", ours["changed"], theirs["changed"], 0),
        Row("output's distance from FP32's (1 - cosine), mean", ours["mean_distance"], theirs["mean_distance"], 5),
    )
