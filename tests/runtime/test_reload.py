"""A new bundle in the place of one that runs."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import runnets
import tiny
from onnx import numpy_helper

from edgebig.bundle import Part
from edgebig.errors import AccuracyError, BackendError, BundleError, InputError, UsageError
from edgebig.runtime import Session, load
from edgebig.runtime.core import Loaded
from edgebig.runtime.evidence import least_sqnr

X = {"x": np.zeros((1, 3), np.float32)}


def adds(number: float) -> onnx.ModelProto:
    """``y = x + number``."""
    model = tiny.add_one()
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.full(3, number, np.float32), "one"))
    return model


def pairs(number: float) -> dict[str, Any]:
    """Golden arrays of a model that adds the number."""
    x = np.array([[1, 2, 3]], np.float32)
    return {"in.x.0": x, "out.y.0": x + number}


def write(folder: Path, number: float, claimed: float | None = None) -> Path:
    golden = pairs(number if claimed is None else claimed)
    return tiny.write_bundle(folder, {"model": adds(number)}, golden=golden).path


def test_a_session_and_its_bindings_move_to_the_new_bundle(tmp_path: Path) -> None:
    old, new = write(tmp_path / "old", 1), write(tmp_path / "new", 10)
    with load(old, threads=1) as session:
        binding = session.bind({"batch": 1})
        y = binding.run()["y"]
        assert y.tolist() == [[1, 1, 1]] and session.run(X)["y"].tolist() == [[1, 1, 1]]
        session.reload(new)
        assert session.run(X)["y"].tolist() == [[10, 10, 10]]
        binding.inputs["x"][...] = 5
        assert binding.run()["y"] is y and y.tolist() == [[15, 15, 15]]
        assert session.run_async(X).result(10)["y"].tolist() == [[10, 10, 10]]
        assert session.stats().calls == 5 and session.stats().errors == 0


def test_one_that_fails_its_golden_inputs_is_not_taken(tmp_path: Path) -> None:
    old, wrong = write(tmp_path / "old", 1), write(tmp_path / "wrong", 2, claimed=3)
    with load(old, threads=1) as session:
        with pytest.raises(
            AccuracyError, match=r"wrong: its output 'y' has an SQNR of .* dB was expected .* stays with"
        ):
            session.reload(wrong)
        assert session.run(X)["y"].tolist() == [[1, 1, 1]]
        damaged = write(tmp_path / "damaged", 2)
        (damaged / "graphs/model.onnx").write_bytes(b"x")
        with pytest.raises(BundleError, match="not the file of the manifest"):
            session.reload(damaged)
        with pytest.raises(BundleError, match="is not a bundle"):
            session.reload(tmp_path / "nowhere")
        assert session.run(X)["y"].tolist() == [[1, 1, 1]] and session.stats().errors == 0


def test_evidence_without_the_ratio_is_no_evidence(tmp_path: Path) -> None:
    """The schema lets measures be left out: an output is then held to what is asked of one that was not measured."""
    part = replace(Part((), (), "g", 17), similarity={"y": {"cosine": 1.0}, "z": {"sqnr_db": 26.0}})
    assert [least_sqnr(part, name) for name in ("y", "z", "absent")] == [20.0, 20.0, 20.0]
    assert least_sqnr(replace(part, similarity={"y": {"sqnr_db": 30.0}}), "y") == 24.0


def test_other_inputs_are_refused_unless_allowed(tmp_path: Path) -> None:
    other = tiny.write_bundle(tmp_path / "other", {"model": runnets.static()}).path
    with load(write(tmp_path / "old", 1), threads=1) as session:
        with pytest.raises(InputError) as caught:
            session.reload(other)
        assert str(caught.value) == (
            f"{other} has the inputs x: float32 2x3, the session's are x: float32 batchx3: it stays with the bundle it "
            "has; open the new one on its own, or allow it with allow_changes=True"
        )
        session.reload(other, allow_changes=True)
        assert [str(spec) for spec in session.inputs] == ["x: float32 2x3"]
        assert session.run({"x": np.ones((2, 3), np.float32)})["y"].tolist() == [[2, 2, 2]] * 2
        with pytest.raises(InputError, match="axis 0 of input 'x' must be 2"):
            session.run(X)


@pytest.mark.parametrize(
    ("kind", "shape", "message"),
    [
        (onnx.TensorProto.DOUBLE, ["batch", 3], "input 'x' must be float64 batchx3, found float32 1x3: .*"),
        (onnx.TensorProto.FLOAT, [7, 3], r"axis 0 of input 'x' must be 7 \(float32 7x3\), found 1 \(1x3\)"),
    ],
)
def test_a_binding_that_fits_no_more_says_so(tmp_path: Path, kind: int, shape: list[Any], message: str) -> None:
    node = onnx.helper.make_node("Neg", ["x"], ["y"])
    other = tiny.write_bundle(
        tmp_path / "other", {"model": runnets.model([node], [("x", kind, shape)], [("y", kind, shape)])}
    ).path
    with load(write(tmp_path / "old", 1), threads=1) as session:
        binding = session.bind({"batch": 1})
        session.reload(other, allow_changes=True)
        for _ in range(2):
            with pytest.raises(
                BackendError, match=f"^the session was reloaded and this binding does not fit .*{message}"
            ):
                binding.run()
        session.reload(tmp_path / "old", allow_changes=True)
        assert binding.run()["y"].tolist() == [[1, 1, 1]]


def test_an_output_of_another_type_fits_no_buffer(tmp_path: Path) -> None:
    node = onnx.helper.make_node("Cast", ["x"], ["y"], to=onnx.TensorProto.INT64)
    model = runnets.model(
        [node], [("x", onnx.TensorProto.FLOAT, ["batch", 3])], [("y", onnx.TensorProto.INT64, ["batch", 3])]
    )
    with load(write(tmp_path / "old", 1), threads=1) as session:
        binding = session.bind({"batch": 1})
        session.reload(tiny.write_bundle(tmp_path / "other", {"model": model}).path, allow_changes=True)
        with pytest.raises(BackendError, match="output 'y' is int64, and was float32: make another one with session"):
            binding.run()


def test_no_call_is_lost_while_bundles_change(tmp_path: Path) -> None:
    bundles = [write(tmp_path / str(number), number) for number in (1, 2)]
    session = load(bundles[0], threads=1)
    stop, wrong = threading.Event(), []
    binding = session.bind({"batch": 1})

    def work(run: Any) -> None:
        while not stop.is_set():
            try:
                value = float(run()["y"][0, 0])
            except Exception as error:
                wrong.append(error)
                return
            if value not in (1, 2):
                wrong.append(value)

    runs = [lambda: session.run(X), lambda: session.run(X), binding.run, lambda: session.run_async(X).result(10)]
    threads = [threading.Thread(target=work, args=(run,)) for run in runs]
    for thread in threads:
        thread.start()
    for turn in range(30):
        session.reload(bundles[turn % 2])
    stop.set()
    for thread in threads:
        thread.join(20)
    assert wrong == [] and session.stats().errors == 0
    session.close()


def test_a_closed_session_and_one_of_no_bundle_have_nothing_to_reload(tmp_path: Path) -> None:
    session = load(write(tmp_path / "old", 1), threads=1)
    session.close()
    with pytest.raises(Exception, match="^the session is closed: load the bundle again$"):
        session.reload(tmp_path / "old")

    class Nothing:
        def run(self, outputs: Any, feeds: Any) -> list[Any]:
            return []

        def close(self) -> None:
            pass

    with pytest.raises(UsageError, match="was not made by load"):
        Session(Loaded(Nothing(), "none", [], [])).reload(tmp_path / "old")
