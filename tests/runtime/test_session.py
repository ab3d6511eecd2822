"""Loading bundles and running them: values, refusals, closing, threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tiny

from edgebig.errors import BackendError, BundleError, InputError, UsageError
from edgebig.runtime import load, load_original


def test_a_session_describes_and_runs_its_model(tmp_path: Path) -> None:
    tiny.write_bundle(tmp_path / "b", {"model": tiny.two_inputs()})
    with load(tmp_path / "b", threads=1) as session:
        assert [str(s) for s in session.inputs] == ["left: float32 batchx2", "right: float32 batchx2"]
        assert [s.name for s in session.outputs] == ["sum", "product"]
        assert session.backend == "onnxruntime-cpu"
        assert session.why == ("onnxruntime-cpu with graphs/model.onnx: taken: the portable graph",)
        left, right = np.array([[2, 3], [4, 5]], np.float32), np.array([[10, 20], [30, 40]], np.float32)
        outputs = session.run({"left": left, "right": right})
        assert list(outputs) == ["sum", "product"]
        assert outputs["sum"].tolist() == [[12, 23], [34, 45]]
        assert outputs["product"].tolist() == [[20, 60], [120, 200]]
        chosen = session.run({"right": right, "left": left}, outputs=["product"])
        assert list(chosen) == ["product"]
        assert chosen["product"].tolist() == [[20, 60], [120, 200]]


def test_weights_beside_the_graph_are_read(tmp_path: Path) -> None:
    inside = tiny.write_bundle(tmp_path / "inside", {"model": tiny.mlp()})
    beside = tiny.write_bundle(tmp_path / "beside", {"model": tiny.mlp()}, external=True)
    assert "graphs/model.onnx.data" in beside.manifest.files
    x = np.random.default_rng(1).normal(size=(5, 8)).astype(np.float32)
    with load(inside.path) as one, load(beside.path) as other:
        np.testing.assert_array_equal(one.run({"x": x})["y"], other.run({"x": x})["y"])


def test_damaged_weights_beside_the_graph_are_refused(tmp_path: Path) -> None:
    bundle = tiny.write_bundle(tmp_path / "b", {"model": tiny.mlp()}, external=True)
    weights = bundle.path / "graphs/model.onnx.data"
    content = bytearray(weights.read_bytes())
    content[7] ^= 1
    weights.write_bytes(content)
    with pytest.raises(BundleError, match=r"graphs/model\.onnx\.data is not the file of the manifest"):
        load(bundle.path)


def test_a_part_is_chosen_by_name(tmp_path: Path) -> None:
    tiny.write_bundle(tmp_path / "b", {"encoder": tiny.mlp(), "decoder": tiny.add_one()})
    with load(tmp_path / "b", part="decoder") as session:
        assert session.run({"x": np.zeros((1, 3), np.float32)})["y"].tolist() == [[1, 1, 1]]
    with pytest.raises(BundleError, match="name one of its parts: encoder, decoder"):
        load(tmp_path / "b")


def test_the_original_can_be_opened_to_compare(tmp_path: Path) -> None:
    tiny.write_bundle(tmp_path / "b", {"model": tiny.mlp(seed=0)}, original=tiny.mlp(seed=1))
    tiny.write_bundle(tmp_path / "direct", {"model": tiny.mlp(seed=1)})
    x = np.ones((1, 8), np.float32)
    with load_original(tmp_path / "b") as original, load(tmp_path / "direct") as direct:
        assert original.inputs == direct.inputs
        np.testing.assert_array_equal(original.run({"x": x})["y"], direct.run({"x": x})["y"])
    with pytest.raises(BundleError, match="does not keep the graph from before quantization"):
        load_original(tmp_path / "direct")


def test_unknown_outputs_are_refused(tmp_path: Path) -> None:
    tiny.write_bundle(tmp_path / "b", {"model": tiny.add_one()})
    with load(tmp_path / "b") as session:
        x = {"x": np.zeros((1, 3), np.float32)}
        with pytest.raises(InputError, match="^no output 'z': the model gives y$"):
            session.run(x, outputs=["y", "z"])
        with pytest.raises(InputError, match="^outputs is empty: the model gives y$"):
            session.run(x, outputs=[])


def test_a_closed_session_says_so(tmp_path: Path) -> None:
    tiny.write_bundle(tmp_path / "b", {"model": tiny.add_one()})
    session = load(tmp_path / "b")
    session.close()
    session.close()
    with pytest.raises(BackendError, match="^the session is closed: load the bundle again$"):
        session.run({"x": np.zeros((1, 3), np.float32)})


def test_threads_may_share_a_session_and_close_it(tmp_path: Path) -> None:
    tiny.write_bundle(tmp_path / "b", {"model": tiny.add_one()})
    session = load(tmp_path / "b", threads=1)

    def work(number: int) -> bool:
        for turn in range(200):
            x = np.full((number + 1, 3), number, np.float32)
            try:
                if (session.run({"x": x})["y"] != number + 1).any():
                    return False
            except BackendError as error:
                return str(error) == "the session is closed: load the bundle again"
            if number == 3 and turn == 100:
                session.close()
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(8)))


def test_a_failure_inside_the_engine_is_one_line(tmp_path: Path) -> None:
    model = tiny.add_one()
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "wide"  # the Add takes 3, or 1
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "wide"
    tiny.write_bundle(tmp_path / "b", {"model": model})
    with load(tmp_path / "b") as session, pytest.raises(BackendError) as caught:
        session.run({"x": np.zeros((1, 5), np.float32)})
    message = str(caught.value)
    assert message.startswith("ONNX Runtime failed while running model.onnx: ")
    assert "\n" not in message


def test_zero_threads_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="threads must be 1 or more, found 0"):
        load(tmp_path / "b", threads=0)
