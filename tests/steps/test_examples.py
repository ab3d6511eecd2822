"""Examples at shapes that an engine takes."""

from __future__ import annotations

import numpy as np

from edgebig.build import Profile
from edgebig.spec import TensorSpec
from edgebig.steps.examples import fit_examples

PREFILL = {
    "ids": Profile((1, 1), (1, 5), (8, 64)),
    "past": Profile((1, 2, 0, 1), (1, 2, 0, 1), (8, 2, 0, 1)),
}
DECODE = {
    "ids": Profile((1, 1), (1, 1), (8, 1)),
    "past": Profile((1, 2, 1, 1), (1, 2, 3, 1), (8, 2, 63, 1)),
}


def test_each_set_has_an_example_of_the_models_own_values() -> None:
    example = {
        "ids": np.array([[7, 8, 9]]),
        "past": np.arange(4, dtype=np.float32).reshape(1, 2, 2, 1),
        "k": np.ones(1),
    }
    prompt, step = fit_examples([example], [PREFILL, DECODE])
    assert prompt["ids"].tolist() == [[7, 8, 9, 7, 8]] and prompt["past"].shape == (1, 2, 0, 1)
    assert step["ids"].tolist() == [[7]] and step["past"][0, :, :, 0].tolist() == [[0, 1, 0], [2, 3, 2]]
    assert prompt["k"] is step["k"] is example["k"]


def test_what_fits_stays_as_it_is() -> None:
    example = {"ids": np.array([[7]]), "past": np.zeros((1, 2, 4, 1), np.float32)}
    assert fit_examples([example], [DECODE]) == [example]
    assert fit_examples([example], []) == [example] and fit_examples([], [DECODE]) == []
    prompt = fit_examples([example], [DECODE, PREFILL])[1]
    assert prompt["past"].dtype == np.float32 and prompt["past"].shape == (1, 2, 0, 1)


def test_an_empty_cache_is_filled_with_zeros() -> None:
    example = {"ids": np.array([[7]]), "past": np.zeros((1, 2, 0, 1), np.float32)}
    (whole, step) = fit_examples([example], [PREFILL, DECODE])
    assert whole is example and step["past"].shape == (1, 2, 3, 1) and not step["past"].any()


def test_sizes_that_were_fixed_hold_for_every_example() -> None:
    """``--shapes input_ids:1x4`` of a model whose own examples are of two rows."""
    inputs = [TensorSpec("ids", "int64", (1, 4)), TensorSpec("types", "int64", (1, "length"))]
    example = {"ids": np.array([[1, 2, 3], [4, 5, 6]]), "types": np.zeros((2, 3), np.int64)}
    lengths = {"types": Profile((1, 1), (1, 4), (1, 8))}
    for any_size in (False, True):
        (fitted,) = fit_examples([example], [lengths], inputs, any_size=any_size)
        assert fitted["ids"].tolist() == [[1, 2, 3, 1]] and fitted["types"].shape == (1, 4)
    (fitted,) = fit_examples([{"ids": example["ids"]}], [], inputs[:1])
    assert fitted["ids"].tolist() == [[1, 2, 3, 1]]
    fits = {"ids": np.array([[1, 2, 3, 4]]), "types": np.zeros((1, 11), np.int64)}
    assert fit_examples([fits], [lengths], inputs, any_size=True) == [fits]
    assert fit_examples([fits], [lengths], inputs)[0]["types"].shape == (1, 4)
