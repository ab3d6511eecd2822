"""The code that measures accuracy; nothing here asserts how good a precision is."""

from __future__ import annotations

import json
import subprocess
import sys
import wave
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from nets import Graph, flat_ranges, net, node, normal

from benchmarks.accuracy import figures, peer, run, sentences, share, speech
from benchmarks.accuracy.figures import Figure
from benchmarks.calibration.samples import Sample
from benchmarks.common import ROOT
from edgebig.build import optimize_for_cpu
from edgebig.graph.work import observed_shapes
from edgebig.quantize import insert_qdq, make_plan
from edgebig.recipe import Recipe
from edgebig.target import Target


def products() -> Graph:
    """A product with a weight, 4 x 64 x 32 multiplications, and one of two activations, 4 x 32 x 4."""
    return net(
        [
            node("MatMul", "x w", "a"),
            node("Transpose", "a", "t", perm=[1, 0]),
            node("MatMul", "a t", "y"),
        ],
        {"x": [4, 64]},
        ["y"],
        {"w": normal(64, 32)},
    )


@pytest.mark.parametrize(
    ("target", "precision", "expected"),
    [("cpu", "int8", (1.0, 16 / 17)), ("l4", "int8", (1.0, 16 / 17)), ("l4", "fp8", (1.0, 16 / 17))],
)
def test_the_share_of_the_work(target: str, precision: str, expected: tuple[float, float], tmp_path: Path) -> None:
    graph = products()
    sample = {"x": normal(4, 64)}
    graph.save(tmp_path / "plain.onnx")
    assert share.quantized_shares(tmp_path / "plain.onnx", sample) == (0.0, 0.0)
    plan = make_plan(graph, flat_ranges(graph), Target.load(target), Recipe(), precision)
    insert_qdq(graph, plan)
    graph.save(tmp_path / "qdq.onnx")
    assert share.quantized_shares(tmp_path / "qdq.onnx", sample) == pytest.approx(expected)
    if target == "cpu":
        optimize_for_cpu(tmp_path / "qdq.onnx", tmp_path / "built.onnx")
        assert "MatMulIntegerToFloat" in [n.op_type for n in Graph.load(tmp_path / "built.onnx").model.graph]
        assert share.quantized_shares(tmp_path / "built.onnx", sample) == pytest.approx(expected)


def test_shapes_of_a_graph_with_fp8_tensors() -> None:
    graph = products()
    insert_qdq(graph, make_plan(graph, flat_ranges(graph), Target.load("l4"), Recipe(), "fp8"))
    (quantized,) = (v for n in graph.model.graph for v in n.outputs if n.op_type == "QuantizeLinear")
    assert quantized.dtype == ir.DataType.FLOAT8E4M3FN
    for known in (True, False):
        if not known:
            quantized.type = None
        shapes = observed_shapes(graph, {"x": normal(4, 64)})
        assert shapes["y"] == (4, 4) and str(quantized.name) not in shapes


def test_the_peer_s_symmetric_quantization_has_the_same_share(tmp_path: Path) -> None:
    graph = products()
    graph.save(tmp_path / "m.onnx")
    samples: list[Sample] = [{"x": normal(4, 64, seed=i)} for i in range(3)]
    peer.ort_symmetric(tmp_path / "m.onnx", samples, tmp_path / "q.onnx")
    assert share.quantized_shares(tmp_path / "q.onnx", samples[0]) == pytest.approx((1.0, 16 / 17))


@pytest.mark.parametrize(
    ("value", "limit", "reached"),
    [
        (0.998, ">= 0.998", True),
        (0.9979, ">= 0.998", False),
        (0.1, "<= 0.1", True),
        (None, "<= 0.1", False),
        (0.5, "", None),
    ],
)
def test_a_limit_is_reached_or_not(value: float | None, limit: str, reached: bool | None) -> None:
    assert Figure("what", "side", value, limit).is_reached is reached


def test_tables_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    found = [Figure("a", "edgebig", 0.5, ">= 0.998", 3, "n"), Figure("b", "peer", None), Figure("a", "peer", 1.0)]
    assert figures.tables(found).splitlines() == [
        "### a",
        "",
        "| side | measured | to reach | reached | |",
        "|---|--:|--:|---|---|",
        "| edgebig | 0.500 | >= 0.998 | **no** | n |",
        "| peer | 1.0000 |  |  |  |",
        "",
        "### b",
        "",
        "| side | measured | to reach | reached | |",
        "|---|--:|--:|---|---|",
        "| peer | none |  |  |  |",
    ]
    figures.report("T", found, {"cores": "2"}, ("numpy",), ["x: gone"], as_json=True)
    printed = json.loads(capsys.readouterr().out)
    assert [f["reached"] for f in printed["figures"]] == [False, None, None]
    assert (printed["missing"], printed["machine"]) == (["x: gone"], {"cores": "2"})


def test_sentences_are_english_unseen_and_always_the_same() -> None:
    found = sentences.unseen(200)
    assert found == sentences.unseen(200) and len(set(found)) == 200
    assert not set(found) & set(sentences.CALIBRATION.read_text(encoding="utf-8").splitlines())
    assert all(6 <= len(s.split()) <= 40 and s[0].isupper() and s[-1] in ".!?" for s in found)
    with pytest.raises(ValueError, match="1000000 were asked for"):
        sentences.unseen(1000000)


def test_the_first_seconds_of_a_recording(tmp_path: Path) -> None:
    data = (np.arange(100) * 30).astype("<i2")
    with wave.open(str(tmp_path / "a.wav"), "wb") as written:
        written.setparams((1, 2, 10, 0, "NONE", ""))
        written.writeframes(data.tobytes())
    with wave.open(str(speech.first_seconds(tmp_path / "a.wav", tmp_path / "b.wav", 3))) as read:
        assert read.readframes(100) == data[:30].tobytes()


def test_fp16_speech_is_measured(shared_data: Path, tmp_path: Path) -> None:
    ways = [way for way in speech.DEFAULTS if way.precision == "fp16"]
    (figure,) = speech.measure(ways, tmp_path)
    assert figure.value is not None and figure.value > 95 and figure.note.startswith("after the first 20 s")


def test_a_digit_model_is_trained_and_measured(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("tensorrt_rtx_bindings")
    from benchmarks.accuracy import digits

    held_out = [digits.pictures(fold)[1][0] for fold in range(3)]
    assert sum(len(part) for part in held_out) == 1797 and held_out[0].shape[1:] == (1, 8, 8)
    found = digits.measure("LSTM", tmp_path, 1, 1)
    assert [f.side for f in found] == [f"edgebig, {p}, {t}" for t, p in digits.SIDES]
    assert all(f.value is not None and abs(f.value) < 3 for f in found) and found[0].value == 0


def test_run_gathers_what_each_prints(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fake(name: str, **how: Any) -> subprocess.CompletedProcess[str]:
        if name == "llama":
            return subprocess.CompletedProcess([], 1, "", "Traceback\nValueError: no")
        return subprocess.CompletedProcess([], 0, f'{{"title": "{name}"}}\n', "progress")

    monkeypatch.setattr(run, "run", fake)
    monkeypatch.setattr(sys, "argv", ["run.py", "--json", "--only", "speech,llama"])
    assert run.main() == 1
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {
        "benchmarks": {"speech": {"title": "speech"}},
        "failures": {"llama": "ValueError: no"},
    }
    assert "failed: llama: ValueError: no" in printed.err


@pytest.mark.parametrize("name", run.BENCHMARKS)
def test_every_benchmark_starts(name: str) -> None:
    file = ROOT / "benchmarks" / "accuracy" / f"{name}.py"
    if not file.is_file():
        pytest.skip(f"{name} is not here")
    if name == "digits":
        pytest.importorskip("sklearn")
    done = subprocess.run([sys.executable, file, "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "--json" in done.stdout, done.stderr
