"""Shapes of real exports with random weights: what each demands, and an engine that is built for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("optimum")
pytest.importorskip("tensorrt_rtx_bindings")

import torch
import transformers as hf
from source.tiny_models import save

import edgebig
from edgebig.build import Profile, ProfileSet, build_engine, find_flavour
from edgebig.errors import BuildError, GraphError
from edgebig.graph import Executor, Graph
from edgebig.request import Request, Shapes
from edgebig.runtime import golden
from edgebig.source import Source, SourcePart, export_huggingface
from edgebig.stages import StageNotes
from edgebig.steps import prepare_graph
from edgebig.steps.work import PartWork


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Source]:
    """The exports of each architecture, made when they are first asked for."""

    class Exports(dict[str, Source]):
        def __missing__(self, name: str) -> Source:
            folder = tmp_path_factory.mktemp(name)
            self[name] = export_huggingface(str(save(name, folder)), folder / "onnx", None, 17, 1e-3)
            return self[name]

    return Exports()


def prepared(part: SourcePart, *, knows: bool, target: str = "l4") -> tuple[PartWork, StageNotes]:
    """The part with its shapes; without what the source knows it is an ONNX file like any other."""
    if not knows:
        part = SourcePart(part.name, part.graph, part.original)
    part = replace(part, graph=part.graph.clone())
    notes = StageNotes("graph", lambda event: None)
    request = Request.resolve(None, target, None, Shapes(), {})
    return prepare_graph(part, Source("onnx", "model", (part,)), request, notes), notes


def part_of(source: Source, name: str) -> SourcePart:
    return next(part for part in source.parts if part.name == name)


def builds(work: PartWork, folder: Path, sets: tuple[ProfileSet, ...] | None = None) -> bool:
    work.graph.save(folder / "m.onnx")
    profiles = work.profile_sets if sets is None else sets
    try:
        found = build_engine(folder / "m.onnx", find_flavour("tensorrt-rtx"), profiles=profiles, capabilities=["8.9"])
    except BuildError:
        return False
    return len(found.engine) > 1000


def computes(work: PartWork, **shapes: tuple[int, ...]) -> bool:
    """Whether ONNX Runtime computes the graph at these shapes, the others as they are best."""
    best = {name: profile.opt for name, profile in work.profiles.items()}
    feeds = {}
    for spec in work.graph.inputs:
        shape = shapes.get(spec.name, best.get(spec.name, spec.shape))
        feeds[spec.name] = np.zeros(shape, spec.dtype)  # type: ignore[arg-type]
    try:
        with Executor(work.graph, "off") as executor:
            executor.run(feeds)
    except GraphError:
        return False
    return True


UNTHINKING = (1, 8, 16)


def unthinking(work: PartWork) -> tuple[ProfileSet, ...]:
    """1, 8 and 16 on every dynamic axis."""
    ends = [
        {s.name: tuple(d if isinstance(d, int) else end for d in s.shape) for s in work.graph.inputs}
        for end in UNTHINKING
    ]
    dynamic = [s.name for s in work.graph.inputs if not s.is_static]
    return ({name: Profile(*(end[name] for end in ends)) for name in dynamic},)


def test_a_vit_keeps_the_one_size_of_its_positions(exported: Mapping[str, Source], tmp_path: Path) -> None:
    work, notes = prepared(exported["vit"].parts[0], knows=False)
    assert work.profiles["pixel_values"].min == (1, 3, 32, 32)
    low, high = (work.profiles["pixel_values"].min, work.profiles["pixel_values"].max)
    assert low[1:] == (3, 32, 32) and high[0] == 8 and all(32 <= side < 40 for side in high[2:])
    assert "found by trying" in " ".join(notes.notes)
    assert builds(work, tmp_path) and not builds(work, tmp_path, unthinking(work))


def test_sound_is_as_long_as_the_convolutions_demand(tmp_path: Path) -> None:
    config = hf.Wav2Vec2Config(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=(8,) * 7,
        conv_stride=(5, 4, 4, 4, 4, 2, 2),
        conv_kernel=(10, 4, 4, 4, 4, 2, 2),
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
        vocab_size=12,
    )
    hf.Wav2Vec2ForCTC(config).save_pretrained(tmp_path / "model")
    source = export_huggingface(str(tmp_path / "model"), tmp_path / "onnx", None, 17, 1e-3)
    work, _ = prepared(source.parts[0], knows=False)
    profile = work.profiles["input_values"]
    shortest = profile.min[1]
    assert 1600 < shortest < 16000 and profile.opt == (1, 16000) and profile.max[1] == 320000
    assert computes(work, input_values=(1, shortest))
    assert not computes(work, input_values=(1, shortest - 32))
    assert builds(work, tmp_path) and not builds(work, tmp_path, unthinking(work))


@pytest.mark.parametrize(("name", "tokens"), [("marian", "input_ids"), ("whisper", "input_ids")])
def test_texts_end_where_the_positions_do(
    name: str, tokens: str, exported: Mapping[str, Source], tmp_path: Path
) -> None:
    part = part_of(exported[name], "decoder_model")
    assert part.positions == 64
    for knows in (True, False):  # by the config, and by trying
        work, _ = prepared(part, knows=knows)
        assert work.profiles[tokens].max[1] == 64 and not work.more_profiles
        assert computes(work, **{tokens: (1, 64)}) and not computes(work, **{tokens: (1, 65)})
        assert builds(work, tmp_path)


@pytest.mark.parametrize("name", ["marian", "whisper", "t5"])
def test_a_decoder_that_goes_on_takes_one_token(name: str, exported: Mapping[str, Source], tmp_path: Path) -> None:
    part = part_of(exported[name], "decoder_with_past_model")
    work, _ = prepared(part, knows=True)
    assert len(work.profile_sets) == 1
    assert work.profiles["input_ids"].max == (8, 1)
    cache = work.profiles["past_key_values.0.decoder.key"]
    longest = {"marian": 63, "whisper": 63, "t5": 511}[name]
    assert (cache.min[2], cache.max[2]) == (1, longest)
    if name == "whisper":
        assert {p.opt[2] for n, p in work.profiles.items() if ".encoder." in n} == {1500}
    if name != "t5":  # T5's positions are relative
        caches = {n: (*p.opt[:2], longest + 1, p.opt[3]) for n, p in work.profiles.items() if ".decoder." in n}
        assert not computes(work, **caches)
    assert builds(work, tmp_path)


@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_a_language_model_gets_prefill_and_decode(name: str, exported: Mapping[str, Source], tmp_path: Path) -> None:
    (part,) = exported[name].parts
    work, notes = prepared(part, knows=True)
    prefill, decode = work.profile_sets
    assert prefill["input_ids"] == Profile((1, 1), (1, 32), (8, 64))
    assert prefill["past_key_values.0.key"].max[2] == 0  # 64 positions, and the prompt may take them all
    assert decode["input_ids"] == Profile((1, 1), (1, 1), (8, 1))
    assert [decode["past_key_values.1.value"].min[2], decode["past_key_values.1.value"].max[2]] == [1, 63]
    assert decode["attention_mask"] == Profile((1, 2), (1, 32), (8, 64))
    assert "a set of shapes for prefill and one for decode" in " ".join(notes.notes)
    assert builds(work, tmp_path)
    on_cpu, _ = prepared(part, knows=True, target="cpu")
    assert len(on_cpu.profile_sets) == 1 and on_cpu.profiles["input_ids"].opt == (1, 32)


class Halves(torch.nn.Module):
    """Five times half the size, and back to be added to the input: sides are multiples of 32."""

    def __init__(self) -> None:
        super().__init__()
        self.down = torch.nn.ModuleList([torch.nn.Conv2d(3 if i == 0 else 4, 4, 2, stride=2) for i in range(5)])
        self.up = torch.nn.ModuleList([torch.nn.ConvTranspose2d(4, 3 if i == 4 else 4, 2, stride=2) for i in range(5)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x
        for layer in (*self.down, *self.up):
            y = layer(y)
        return x + y


def test_sides_are_multiples_of_what_the_network_halves(tmp_path: Path) -> None:
    axes = {"x": {0: "batch", 2: "height", 3: "width"}}
    example = torch.zeros(1, 3, 64, 64)
    torch.onnx.export(
        Halves(), (example,), tmp_path / "u.onnx", input_names=["x"], dynamic_axes=axes, opset_version=17, dynamo=False
    )
    graph = Graph.load(tmp_path / "u.onnx")
    side = (30, 224, 650)
    part = SourcePart("model", graph, tmp_path / "u.onnx", axes={"height": side, "width": side})
    work, notes = prepared(part, knows=True)
    assert work.profiles["x"] == Profile((1, 3, 32, 32), (1, 3, 224, 224), (8, 3, 640, 640))
    assert "found by trying" in " ".join(notes.notes)
    assert not any(computes(work, x=(1, 3, side, 224)) for side in (30, 100, 650))
    assert builds(work, tmp_path)  # TensorRT-RTX would take the other range too, and fail where it runs


@pytest.mark.parametrize(
    ("name", "shapes", "sizes", "left"),
    [
        ("bert", "input_ids:1x16", (1, 16), {}),
        ("llama", "input_ids:1x8", (1, 8), {"attention_mask": 8}),
        ("llama", "input_ids:1x1,past_key_values.0.key:1x2x5x8", (1, 1), {}),
    ],
)
def test_a_models_own_examples_come_to_the_sizes_that_were_asked(
    name: str, shapes: str, sizes: tuple[int, ...], left: dict[str, int], tmp_path: Path
) -> None:
    """Optimum's are of two rows and of its own lengths; a decoder's mask is as long as cache and tokens together."""
    model = save(name, tmp_path / "model")
    bundle = edgebig.compile(str(model), target="l4", precision="fp16", shapes=shapes, out=tmp_path / "b")
    part = bundle.part()
    assert {spec.name: spec.shape for spec in part.inputs}["input_ids"] == sizes
    pairs = golden(bundle)
    assert pairs and all(inputs["input_ids"].shape == sizes for inputs, _ in pairs)
    for mask, tokens in left.items():
        found = part.profiles[mask]
        past = next(p for n, p in part.profiles.items() if n.startswith("past"))
        assert all(found[end][1] == past[end][2] + tokens for end in ("min", "opt", "max"))
    if not left:
        assert part.profiles == {} and all(spec.is_static for spec in part.inputs)
    assert part.similarity and all(one["cosine"] > 0.999 for one in part.similarity.values())
