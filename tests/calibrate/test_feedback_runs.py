"""State is carried as in use: a recurrent model's over a recording, a decoder's cache over the text that it writes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from nets import Sample, net, node, normal

from edgebig.calibrate import GeneratedText, MinMax, NoFeedback, RecurrentState, collect, find_states
from edgebig.graph import Graph
from edgebig.spec import Dim, TensorSpec

Array = np.ndarray[Any, Any]


def spec(name: str, *shape: Dim, dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name, dtype, shape)


@pytest.mark.parametrize(
    ("given", "output"),
    [
        ("state", "stateN"),
        ("h", "h_n"),
        ("h", "hn"),
        ("h", "h_out"),
        ("state", "state_output"),
        ("h", "new_h"),
        ("cell", "next_cell"),
        ("cell", "cell_next"),
        ("past_key_values.11.value", "present.11.value"),
    ],
)
def test_names_of_states(given: str, output: str) -> None:
    assert find_states([spec("x", 1, 9), spec(given, 1, 4)], [spec("y", 1, 2), spec(output, "b", 4)]) == {given: output}


@pytest.mark.parametrize(
    ("given", "output"),
    [
        (spec("state", 2, 1), spec("stateN", 2, 1, dtype="float16")),
        (spec("state", 2, 1), spec("stateN", 2)),
        (spec("state", 2, 1), spec("state", 2, 1)),
        (spec("state", 2, 1), spec("STATEN", 2, 1)),
        (spec("past_key_values.0.key", 1, 2), spec("present.1.key", 1, 2)),
        (spec("my_past_key_values.0.key", 1, 2), spec("my_present.0.key", 1, 2)),
        (spec("x", 1, 2), spec("y", 1, 2)),
    ],
)
def test_names_that_are_no_states(given: TensorSpec, output: TensorSpec) -> None:
    assert find_states([given], [output]) == {}


W, U = normal(3, 3, seed=1, scale=0.3), normal(3, 3, seed=2, scale=0.3)


def recurrent() -> Graph:
    """state' = tanh(x w + state u), y = state' - x: x batch x 3, state batch x 3."""
    return net(
        [
            node("MatMul", "x w", "wx"),
            node("MatMul", "state u", "us"),
            node("Add", "wx us", "sum"),
            node("Tanh", "sum", "stateN"),
            node("Sub", "stateN x", "y"),
        ],
        {"x": ["batch", 3], "state": ["batch", 3]},
        ["y", "stateN"],
        {"w": W, "u": U},
    )


def recording(seed: int, count: int, scale: float = 1.0) -> list[Array]:
    return [normal(1, 3, seed=seed * 100 + i, scale=scale) for i in range(count)]


def test_a_state_is_carried_over_a_recording_and_begins_anew_with_the_next() -> None:
    graph = recurrent()
    files = {"a.wav": recording(1, 5), "b.wav": recording(2, 4, 1.5)}
    given, reached = [], []
    for frames in files.values():
        state = np.zeros((1, 3), np.float32)
        for x in frames:
            given.append(state)
            state = np.tanh(x @ W + state @ U)
            reached.append(state)
    samples = [(f"{file}[{i}]", {"x": x}) for file, frames in files.items() for i, x in enumerate(frames)]
    feedback = RecurrentState(find_states(graph.inputs, graph.outputs), graph.inputs)
    assert feedback.carried == {"state"} and list(feedback.outputs) == ["stateN"]
    names = ["state", "stateN", "y"]
    found = collect(graph, names, samples, "made", counted=["stateN"], feedback=feedback)
    assert found.samples == 9
    for name, values in (("state", given), ("stateN", reached)):
        kept = found.statistics[name]
        each = [(v.min(), v.max()) for v in values]
        assert kept.samples == 9
        assert [kept.smallest, kept.largest] == pytest.approx([np.min(values), np.max(values)], rel=1e-5)
        # the mean feels the state of every single sample
        assert kept.mean_extremes == pytest.approx(np.mean(each, axis=0), rel=1e-5)
    zeros = [(where, {**s, "state": np.zeros((1, 3), np.float32)}) for where, s in samples]
    plain = collect(graph, names, zeros, "made").statistics["stateN"]
    assert plain.mean_extremes != pytest.approx(found.statistics["stateN"].mean_extremes, rel=1e-2)


def test_rows_of_a_batch_are_streams_side_by_side() -> None:
    feedback = RecurrentState({"state": "stateN"}, recurrent().inputs)
    x = {"x": np.zeros((1, 3), np.float32)}
    for step in range(2):
        for row in range(2):
            sample = feedback.begin(f"a.npz[{step}] row {row}", x)
            assert sample["state"].tolist() == [[10.0 * row if step else 0.0] * 3]
            feedback.follow(sample, {"stateN": np.full((1, 3), 10.0 * row, np.float32)})
    assert feedback.begin("b.npz[0] row 1", x)["state"].tolist() == [[0, 0, 0]]


def test_a_snapshot_continues_in_the_midst_of_a_recording() -> None:
    inputs, x = recurrent().inputs, {"x": np.zeros((1, 3), np.float32)}
    first, second = (RecurrentState({"state": "stateN"}, inputs) for _ in range(2))
    first.follow(first.begin("a.wav[0]", x), {"stateN": np.ones((1, 3), np.float32)})
    second.restore(first.snapshot())
    for feedback in (first, second):
        assert feedback.begin("a.wav[1]", x)["state"].tolist() == [[1, 1, 1]]
        assert feedback.begin("b.wav[0]", x)["state"].tolist() == [[0, 0, 0]]
    second.restore({})
    assert second.begin("a.wav[1]", x)["state"].tolist() == [[0, 0, 0]]


def test_a_state_in_the_data_wins() -> None:
    feedback = RecurrentState({"state": "stateN"}, recurrent().inputs)
    own = np.full((1, 3), 7, np.float32)
    assert feedback.begin("a[0]", {"x": own, "state": own})["state"] is own


VOCABULARY, WIDTH = 11, 4
TABLE = normal(VOCABULARY, WIDTH, seed=5)
PLACES = normal(32, WIDTH, seed=6)
HEAD = normal(WIDTH, VOCABULARY, seed=7)
CACHE = {"past_key_values.0.key": "present.0.key"}


def decoder() -> Graph:
    """Logits of each token's key plus the mean of all keys so far; the keys are the cache."""
    return net(
        [
            node("Gather", "table input_ids", "words"),
            node("Gather", "places position_ids", "spots"),
            node("Add", "words spots", "keys"),
            node("Concat", "past_key_values.0.key keys", "present.0.key", axis=1),
            node("Cast", "attention_mask", "mask", to=1),
            node("Unsqueeze", "mask two", "wide_mask"),
            node("Mul", "present.0.key wide_mask", "seen"),
            node("ReduceMean", "seen one", "context", keepdims=1),
            node("Add", "keys context", "hidden"),
            node("MatMul", "hidden head", "logits"),
        ],
        {
            "input_ids": ["batch", "sequence"],
            "attention_mask": ["batch", "total"],
            "position_ids": ["batch", "sequence"],
            "past_key_values.0.key": ["batch", "past", WIDTH],
        },
        ["logits", "present.0.key"],
        {"table": TABLE, "places": PLACES, "head": HEAD, "one": np.int64([1]), "two": np.int64([2])},
        types=dict.fromkeys(("input_ids", "attention_mask", "position_ids"), "int64"),
    )


def greedy(prompt: list[int], steps: int) -> tuple[list[int], list[Array]]:
    """The tokens that follow, and the hidden values of each run, without a cache."""
    ids, hidden = list(prompt), []
    for _ in range(steps + 1):
        keys = TABLE[ids] + PLACES[: len(ids)]
        new = 1 if hidden else len(prompt)
        hidden.append((keys + keys.mean(axis=0))[-new:])
        ids.append(int((hidden[-1][-1] @ HEAD).argmax()))
    return ids[len(prompt) : len(prompt) + steps], hidden


class _Watched(GeneratedText):
    """Remembers what is fed."""

    fed: list[Sample]

    def begin(self, where: str, sample: Sample) -> Sample:
        self.fed.append(super().begin(where, sample))
        return self.fed[-1]

    def follow(self, sample: Sample, outputs: Sample) -> Sample | None:
        made = super().follow(sample, outputs)
        self.fed += [] if made is None else [made]
        return made


def test_a_decoder_writes_on_with_its_cache() -> None:
    graph, steps, prompts = decoder(), 6, [[3, 1, 4], [1, 5, 9, 2, 6]]
    states = find_states(graph.inputs, graph.outputs)
    assert states == CACHE
    feedback = _Watched(states, graph.inputs, "logits", steps)
    feedback.fed = []
    samples = []
    for i, prompt in enumerate(prompts):
        ids, places = np.array([prompt]), np.arange(len(prompt))[None]
        samples.append((f"t:{i}", {"input_ids": ids, "attention_mask": np.ones_like(ids), "position_ids": places}))
    found = collect(graph, ["hidden", "keys"], samples, "text", counted=["hidden", "keys"], feedback=feedback)
    everything = []
    for i, prompt in enumerate(prompts):
        tokens, hidden = greedy(prompt, steps)
        fed = feedback.fed[i * (steps + 1) : (i + 1) * (steps + 1)]
        assert [int(f["input_ids"][0, -1]) for f in fed[1:]] == tokens
        assert all(f["input_ids"].dtype == np.int64 and f["input_ids"].shape == (1, 1) for f in fed[1:])
        lengths = [0, *range(len(prompt), len(prompt) + steps)]
        assert [f["past_key_values.0.key"].shape for f in fed] == [(1, n, WIDTH) for n in lengths]
        assert [f["position_ids"].tolist() for f in fed[1:]] == [[[n]] for n in lengths[1:]]
        assert [f["attention_mask"].tolist() for f in fed[1:]] == [[[1] * (n + 1)] for n in lengths[1:]]
        everything += hidden
    kept, joined = found.statistics["hidden"], np.concatenate(everything)
    assert [kept.smallest, kept.largest] == pytest.approx([joined.min(), joined.max()], rel=1e-5)
    assert kept.samples == 2 * (steps + 1) and found.samples == 2
    assert kept.histogram is not None and kept.histogram.total == joined.size
    assert found.ranges(MinMax()).samples == 2


def test_what_has_no_state_is_left_alone() -> None:
    feedback, sample = NoFeedback(), {"x": np.zeros(1, np.float32)}
    assert feedback.begin("a", sample) is sample
    assert feedback.follow(sample, {}) is None
    assert feedback.snapshot() == {} and not feedback.carried
