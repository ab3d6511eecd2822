"""Buffers that are made once."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import runnets
import tiny

from edgebig.errors import BackendError, InputError, UsageError
from edgebig.runtime import Session, load
from edgebig.runtime.core import Loaded
from edgebig.spec import TensorSpec


def opened(folder: Path, model: onnx.ModelProto) -> Session:
    tiny.write_bundle(folder / "b", {"model": model})
    return load(folder / "b", threads=1)


def test_what_is_written_into_the_inputs_is_computed_into_the_outputs(tmp_path: Path) -> None:
    with opened(tmp_path, tiny.two_inputs()) as session:
        binding = session.bind({"batch": 2})
        assert {name: (a.shape, str(a.dtype)) for name, a in binding.inputs.items()} == {
            "left": ((2, 2), "float32"),
            "right": ((2, 2), "float32"),
        }
        before = binding.outputs["sum"]
        for number in range(3):
            binding.inputs["left"][...] = number
            binding.inputs["right"][...] = [[1, 2], [3, 4]]
            found = binding.run()
            assert found is binding.outputs and list(found) == ["sum", "product"]
            assert found["sum"].tolist() == [[number + 1, number + 2], [number + 3, number + 4]]
            assert found["product"].tolist() == [[number, 2 * number], [3 * number, 4 * number]]
        assert binding.outputs["sum"] is before
        assert session.stats().calls == 3


@pytest.mark.parametrize("batch", [0, 1, 7])
def test_a_binding_gives_what_run_gives(tmp_path: Path, batch: int) -> None:
    with opened(tmp_path, tiny.mlp()) as session:
        binding = session.bind({"batch": batch})
        for seed in range(3):
            x = np.random.default_rng(seed).normal(size=(batch, 8)).astype(np.float32)
            binding.inputs["x"][...] = x
            np.testing.assert_array_equal(binding.run()["y"], session.run({"x": x})["y"])


def test_inputs_cannot_be_replaced_by_mistake(tmp_path: Path) -> None:
    with opened(tmp_path, runnets.static()) as session:
        binding = session.bind()
        with pytest.raises(TypeError, match="does not support item assignment"):
            binding.inputs["x"] = np.zeros((2, 3), np.float32)  # type: ignore[index]


def test_chosen_outputs_come_in_the_order_asked(tmp_path: Path) -> None:
    with opened(tmp_path, tiny.two_inputs()) as session:
        binding = session.bind({"batch": 1}, outputs=["product", "sum"])
        binding.inputs["left"][...] = 3
        binding.inputs["right"][...] = 4
        assert {name: a.tolist() for name, a in binding.run().items()} == {"product": [[12, 12]], "sum": [[7, 7]]}
        assert list(session.bind({"batch": 1}, outputs=["product"]).run()) == ["product"]
        with pytest.raises(InputError, match="^no output 'quotient': the model gives sum, product$"):
            session.bind({"batch": 1}, outputs=["quotient"])


def test_outputs_that_depend_on_the_data_are_new_arrays(tmp_path: Path) -> None:
    with opened(tmp_path, runnets.nonzero()) as session:
        binding = session.bind()
        kept = []
        for values in ([1, 0, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0], [0, 1, 0, 1]):
            binding.inputs["x"][...] = values
            found = binding.run()
            assert found["where"].tolist() == [[i for i, value in enumerate(values) if value]]
            assert found["negative"].tolist() == [-value for value in values]
            kept.append(found["where"])
        assert [array.tolist() for array in kept] == [[[0]], [[0, 1, 2]], [[]], [[1, 3]]]


def test_a_graph_that_is_wrong_about_its_axes_works_all_the_same(tmp_path: Path) -> None:
    with opened(tmp_path, runnets.misnamed()) as session:
        binding = session.bind({"length": 2})
        assert binding.outputs["y"].shape == (2,)
        for number in range(3):
            binding.inputs["x"][...] = [number, 5]
            assert binding.run()["y"].tolist() == [number, 5, number, 5]
        assert session.stats().errors == 0


class Shaky:
    """A backend that fails when it is told to: ``y = x + 1``, and ``twice = concat(x, x)``, whose axis is misnamed."""

    fails = 0

    def run(self, outputs: Sequence[str], feeds: dict[str, Any]) -> list[Any]:
        if self.fails:
            self.fails -= 1
            raise BackendError("not now")
        answers = {"y": feeds["x"] + 1, "twice": np.concatenate([feeds["x"], feeds["x"]])}
        return [answers[name] for name in outputs]

    def close(self) -> None:
        pass


def test_a_failure_that_passes_leaves_the_buffers_in_place() -> None:
    spec = TensorSpec("x", "float32", ("n",))
    outputs = [TensorSpec("y", "float32", ("n",)), TensorSpec("twice", "float32", ("n",))]
    backend = Shaky()
    with Session(Loaded(backend, "shaky", [spec], outputs)) as session:
        only = session.bind({"n": 2}, outputs=["y"])
        y = only.outputs["y"]
        for fails, errors in ((0, 0), (1, 0), (2, 1), (0, 0)):
            backend.fails = fails
            only.inputs["x"][...] += 1
            if errors:
                with pytest.raises(BackendError, match="^not now$"):
                    only.run()
            else:
                assert only.run()["y"] is y and y.tolist() == (only.inputs["x"] + 1).tolist()
        both = session.bind({"n": 2})
        y = both.outputs["y"]
        for value in (1, 2):
            both.inputs["x"][...] = value
            found = both.run()
            assert found["y"] is y and y.tolist() == [value + 1] * 2
            assert found["twice"].tolist() == [value] * 4


def test_a_binding_keeps_its_session(tmp_path: Path) -> None:
    binding = opened(tmp_path, runnets.static()).bind()
    gc.collect()
    assert binding.run()["y"].tolist() == [[0, 0, 0]] * 2


def test_sizes_that_are_nowhere_are_asked_for(tmp_path: Path) -> None:
    with opened(tmp_path, tiny.add_one()) as session, pytest.raises(UsageError) as caught:
        session.bind()
    assert str(caught.value) == (
        "axis 0 of the input x: float32 batchx3 has no fixed size, and the bundle names none that is usual: "
        "give it, as shapes={'x': (…, …)}, or {'batch': …}"
    )


def test_a_failure_leaves_the_binding_as_it_was(tmp_path: Path) -> None:
    model = tiny.add_one()
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[1].dim_param = "wide"  # the Add takes 3, or 1
    with opened(tmp_path, model) as session:
        binding = session.bind({"x": (1, 5)})
        for _ in range(2):
            with pytest.raises(BackendError, match="^ONNX Runtime failed while running model.onnx: "):
                binding.run()
        assert session.stats().errors == 2
        good = session.bind({"x": (1, 3)})
        assert good.run()["y"].tolist() == [[1, 1, 1]]


def test_a_closed_session_has_no_bindings(tmp_path: Path) -> None:
    session = opened(tmp_path, runnets.static())
    binding = session.bind()
    session.close()
    with pytest.raises(BackendError, match="^the session is closed: load the bundle again$"):
        binding.run()
    with pytest.raises(BackendError, match="^the session is closed: load the bundle again$"):
        session.bind()


def test_a_closed_binding_says_so_and_its_session_goes_on(tmp_path: Path) -> None:
    with opened(tmp_path, tiny.add_one()) as session:
        binding = session.bind({"batch": 1})
        y = binding.run()["y"]
        binding.close()
        binding.close()
        for _ in range(2):
            with pytest.raises(BackendError, match=r"^the binding is closed: make another one with session.bind\(\)$"):
                binding.run()
        assert y.tolist() == [[1, 1, 1]]
        assert session.bind({"batch": 1}).run()["y"].tolist() == [[1, 1, 1]]


def test_two_threads_in_one_binding_are_refused(tmp_path: Path) -> None:
    with opened(tmp_path, runnets.slow()) as session:
        binding = session.bind()
        binding.inputs["x"][...] = 3
        errors: list[Exception] = []
        ready = threading.Barrier(2)

        def work() -> None:
            ready.wait()
            for _ in range(3):
                try:
                    binding.run()
                except UsageError as error:
                    errors.append(error)

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors and "make one for each thread" in str(errors[0])
        assert binding.run()["y"].tolist() == np.full((256, 256), 3).tolist()


def test_each_thread_has_a_binding_of_its_own(tmp_path: Path) -> None:
    with opened(tmp_path, tiny.add_one()) as session:
        wrong: list[int] = []

        def work(number: int) -> None:
            binding = session.bind({"batch": 1})
            for turn in range(200):
                binding.inputs["x"][...] = number * 1000 + turn
                if binding.run()["y"].tolist() != [[number * 1000 + turn + 1] * 3]:
                    wrong.append(number)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == [] and session.stats().calls == 800


class Plain:
    """A backend that cannot bind: ``y = x + 1``, and ``found`` of one size more with each run."""

    def __init__(self) -> None:
        self.runs = 0

    def run(self, outputs: Sequence[str], feeds: dict[str, Any]) -> list[Any]:
        self.runs += 1
        answers = {"y": feeds["x"] + 1, "found": np.arange(self.runs)}
        return [answers[name] for name in outputs]

    def close(self) -> None:
        self.runs = -1


def test_a_backend_that_cannot_bind_copies() -> None:
    specs = TensorSpec("x", "float32", (2,)), TensorSpec("y", "float32", (2,)), TensorSpec("found", "int64", (None,))
    with Session(Loaded(Plain(), "plain", specs[:1], specs[1:])) as session:
        binding = session.bind()
        y = binding.outputs["y"]
        for number in (1, 2):
            binding.inputs["x"][...] = number
            found = binding.run()
            assert found["y"] is y and y.tolist() == [number + 1] * 2
            assert found["found"].tolist() == list(range(number))


def test_buffers_begin_at_a_cache_line(tmp_path: Path) -> None:
    with opened(tmp_path, runnets.static()) as session:
        binding = session.bind()
        for array in (*binding.inputs.values(), *binding.outputs.values()):
            assert array.ctypes.data % 64 == 0 and array.flags.c_contiguous and not array.any()


def test_buffers_of_the_caller_are_used(tmp_path: Path) -> None:
    tiny.write_bundle(tmp_path / "b", {"model": tiny.add_one()})
    x, y = np.zeros((2, 3), np.float32), np.zeros((2, 3), np.float32)
    with load(tmp_path / "b", threads=1) as session:
        binding = session.bind({"x": (2, 3)}, buffers={"x": x, "y": y})
        assert (binding.inputs["x"] is x, binding.outputs["y"] is y) == (True, True)
        x[...] = 4
        binding.run()
        assert y.tolist() == [[5, 5, 5]] * 2
        other = session.bind({"x": (1, 3)}, buffers={"y": y})
        assert other.run()["y"].tolist() == [[1, 1, 1]]
        assert y.tolist() == [[5, 5, 5]] * 2


def _odd() -> np.ndarray[Any, Any]:
    return np.zeros(25, np.uint8)[1:].view(np.float32).reshape(2, 3)


def _read_only() -> np.ndarray[Any, Any]:
    array = np.zeros((2, 3), np.float32)
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("buffers", "kind", "message"),
    [
        ({"z": np.zeros((2, 3), np.float32)}, UsageError, "names 'z', which is neither an input nor an output"),
        ([np.zeros((2, 3), np.float32)], UsageError, "buffers must be a dict of arrays by input or output, found list"),
        ({"x": [[0.0] * 3] * 2}, InputError, "x: float32 batchx3 must be a NumPy array, found list"),
        ({"x": np.zeros((2, 3))}, InputError, "x: .* must be of that type, found float64"),
        ({"x": np.zeros((2, 3), ">f4")}, InputError, "x: .* must be of that type, found >f4"),
        ({"y": np.zeros((2, 3))}, InputError, "y: .* must be of that type, found float64"),
        ({"x": np.zeros((4, 3), np.float32)}, InputError, r"x: .* must be of the shape \(2, 3\), found \(4, 3\)"),
        ({"x": np.zeros((3, 2), np.float32).T}, InputError, "x: .* must be contiguous, in C order"),
        ({"y": np.zeros((2, 6), np.float32)[:, ::2]}, InputError, "y: .* must be contiguous, in C order"),
        ({"x": _odd()}, InputError, "x: .* must be contiguous, in C order and aligned"),
        ({"y": _read_only()}, InputError, "y: .* must be writeable, found a read-only one"),
    ],
)
def test_a_buffer_that_the_engine_would_copy_or_misread_is_refused(
    tmp_path: Path, buffers: Any, kind: type[Exception], message: str
) -> None:
    tiny.write_bundle(tmp_path / "b", {"model": tiny.add_one()})
    with load(tmp_path / "b", threads=1) as session, pytest.raises(kind, match=message):
        session.bind({"batch": 2}, buffers=buffers)


def test_an_input_may_be_read_only(tmp_path: Path) -> None:
    tiny.write_bundle(tmp_path / "b", {"model": tiny.add_one()})
    with load(tmp_path / "b", threads=1) as session:
        assert session.bind({"batch": 2}, buffers={"x": _read_only()}).run()["y"].tolist() == [[1, 1, 1]] * 2


def test_sessions_and_bindings_are_not_copied(tmp_path: Path) -> None:
    with opened(tmp_path, runnets.static()) as session:
        for made, advice in ((session, "load the bundle in the process"), (session.bind(), "make another one with")):
            for way in (pickle.dumps, copy.copy, copy.deepcopy):
                with pytest.raises(UsageError, match=f"cannot be copied or pickled: {advice}"):
                    way(made)
