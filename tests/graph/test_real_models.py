"""The passes on real trained models: the prepared graph equals the file as it was published."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from textnets import Array, as_model, assert_near, run

from edgebig.graph import Graph
from edgebig.graph.passes import (
    FoldBatchNorm,
    FoldConstants,
    FreezeInputs,
    NameNodes,
    Pass,
    RaiseOpset,
    RaiseToFloat32,
    RemoveNoOps,
    SetShapes,
    run_passes,
)
from edgebig.spec import Dim


@dataclass(frozen=True)
class Case:
    """A model file with what is asked for it, and the sizes of its dynamic axes in the run."""

    file: str
    freeze: Mapping[str, int] = field(default_factory=dict)
    shapes: Mapping[str, tuple[Dim, ...]] = field(default_factory=dict)
    sizes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    relative: float = 1e-5


SILERO = {"input": (1, 576), "state": (2, 1, 128)}
CASES = {
    "squeezenet": Case("squeezenet/squeezenet1.1_fp32.onnx"),
    # the published file computes in FP16, the prepared graph in float32
    "squeezenet fp16": Case("squeezenet/SqueezeNet_fp16.onnx", relative=5e-3),
    "twinlitenet": Case("twinlitenet/best.onnx"),
    "ultraface": Case("ultraface/version-RFB-320.onnx"),
    "silero": Case("silero-vad/silero_vad.onnx", {"sr": 16000}, {}, SILERO),
    "silero 16k": Case("silero-vad/silero_vad_16k_op15.onnx", {"sr": 16000}, {}, SILERO),
    "silero ifless": Case("silero-vad/silero_vad_op18_ifless.onnx", {"sr": 16000}, {}, SILERO),
    "silero static": Case("silero-vad/silero_vad.onnx", {"sr": 16000}, SILERO, SILERO),
    "silero 16k static": Case("silero-vad/silero_vad_16k_op15.onnx", {"sr": 16000}, SILERO, SILERO),
    "silero ifless static": Case("silero-vad/silero_vad_op18_ifless.onnx", {"sr": 16000}, SILERO, SILERO),
}


def prepared(path: Path, case: Case) -> Graph:
    graph = Graph.load(path)
    takes = {spec.name for spec in graph.inputs}
    freeze = {k: v for k, v in case.freeze.items() if k in takes}
    passes: list[Pass] = [FreezeInputs(freeze), SetShapes(case.shapes), RaiseOpset(19), RaiseToFloat32()]
    run_passes(graph, [*passes, FoldBatchNorm(), FoldConstants(), RemoveNoOps(), NameNodes()])
    return graph


@pytest.mark.parametrize("name", CASES)
def test_the_prepared_graph_equals_the_file(name: str, shared_data: Path) -> None:
    case = CASES[name]
    path = shared_data / case.file
    original = Graph.load(path)
    graph = prepared(path, case)

    feeds: dict[str, Array] = {}
    rng = np.random.default_rng(0)
    for spec in original.inputs:
        if spec.name in case.freeze:
            feeds[spec.name] = np.array(case.freeze[spec.name], np.int64)
            continue
        shape = case.sizes.get(spec.name) or tuple(d if isinstance(d, int) else 1 for d in spec.shape)
        feeds[spec.name] = rng.normal(0, 0.3, shape).astype(spec.dtype)
    taken = {spec.name: feeds[spec.name] for spec in graph.inputs}
    assert set(feeds) - set(taken) == set(case.freeze) & {s.name for s in original.inputs}
    assert_near(run(as_model(graph), taken), run(path, feeds), case.relative)

    assert [(s.name, s.dtype) for s in graph.outputs] == [(s.name, s.dtype) for s in original.outputs]
    kinds = {n.op_type for n in graph.nodes()}
    assert not kinds & ({"Dropout", "Constant"} if "If" in kinds else {"Identity", "Dropout", "Constant"})
    assert len({n.name for n in graph.nodes()}) == len(graph.nodes())
    if case.shapes:
        assert "If" not in kinds
        assert {s.name: s.shape for s in graph.inputs} == case.shapes
    assert len(as_model(graph).SerializeToString()) < 2.2 * path.stat().st_size
