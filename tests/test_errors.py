"""The tree of errors: one line each, an exit code of its own, whole after a trip to another process."""

from __future__ import annotations

import pickle

import pytest

from edgebig import errors
from edgebig.errors import DeadlineError, EdgebigError, InputError, MissingExtra, StreamError


def test_every_class_has_an_exit_code_of_its_own() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, EdgebigError)]
    assert sorted(kind.exit_code for kind in kinds) == list(range(1, 20))


@pytest.mark.parametrize(
    "error",
    [
        InputError("input 'x'\nis wrong"),
        MissingExtra("cpu", "onnxruntime"),
        StreamError(3, "run", ValueError("broken")),
        DeadlineError("too late"),
    ],
)
def test_an_error_comes_whole_out_of_a_worker_process(error: EdgebigError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))
