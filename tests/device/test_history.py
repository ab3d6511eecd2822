"""What earlier builds took, and what that says of the time that is left."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgebig.device.history import Expected, History, PastBuild, TimeLeft, span

BUILD = PastBuild(
    "tensorrt", "10.3.0", "Orin, 8.7", "graph", 100, False, 200.0, {"Timing 1: 1": 0.3, "Timing 1: 4": 0.9}
)


def test_builds_are_remembered_and_the_newest_kept(tmp_path: Path) -> None:
    history = History(tmp_path / "deep" / "builds.json")
    assert history.builds() == [] and history.expect(BUILD) == Expected()
    for number in range(203):
        history.add(replace(BUILD, seconds=number + 1.0))
    kept = history.builds()
    assert (len(kept), kept[0].seconds, kept[-1].seconds) == (200, 4.0, 203.0)
    assert kept[-1].marks == BUILD.marks


@pytest.mark.parametrize("text", ["", "[]", '{"builds": 3}', '{"builds": [3, {"seconds": 1}, {"marks": 2}]}', "\x00"])
def test_a_damaged_file_says_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "builds.json").write_text(text)
    history = History(tmp_path / "builds.json")
    assert history.builds() == []
    history.add(BUILD)
    assert history.builds() == [BUILD]


def test_the_same_graph_counts_most_and_with_the_same_cache(tmp_path: Path) -> None:
    history = History(tmp_path / "builds.json")
    history.add(BUILD)
    warm = replace(BUILD, warm=True)
    assert history.expect(warm) == Expected(200.0, "an earlier build here without a timing cache", BUILD.marks)
    history.add(replace(warm, seconds=20.0, marks={}))
    assert history.expect(warm) == Expected(20.0, "an earlier build here")
    assert history.expect(BUILD) == Expected(200.0, "an earlier build here", BUILD.marks)


def test_other_graphs_count_by_their_nodes_and_their_first_build(tmp_path: Path) -> None:
    history = History(tmp_path / "builds.json")
    for graph, nodes, seconds in (("a", 100, 200.0), ("a", 100, 1.0), ("b", 10, 40.0), ("c", 10, 300.0)):
        history.add(replace(BUILD, graph=graph, nodes=nodes, seconds=seconds))
    assert history.expect(replace(BUILD, graph="new", nodes=50)) == Expected(200.0, "what 3 other models took here")
    for changed in ({"nodes": None}, {"device": "Thor, 11.0"}, {"version": "11.4"}, {"flavour": "tensorrt-rtx"}):
        assert history.expect(replace(BUILD, **{"graph": "new", **changed})) == Expected()


def followed(expected: Expected, *steps: tuple[float, str, int]) -> tuple[TimeLeft, list[float | None]]:
    clock = [0.0]
    left = TimeLeft(expected, now=lambda: clock[0])
    found = []
    for at, phase, done in steps:
        clock[0] = at
        found.append(left.step(phase, done))
    return left, found


def test_the_time_left_follows_the_marks_at_this_builds_own_pace() -> None:
    # the earlier build took 100 s and had a step after 30 and after 90 of them; this one is twice as slow
    steps = [(2.0, "Parsing", 1), (60.0, "Timing", 1), (120.0, "Timing", 2), (180.0, "Timing", 4), (210.0, "Tail", 1)]
    _, found = followed(Expected(100.0, "", BUILD.marks), *steps)
    assert found == [98.0, pytest.approx(140.0), pytest.approx(80.0), pytest.approx(20.0), None]


def test_early_marks_say_nothing_of_the_pace() -> None:
    _, found = followed(Expected(100.0, "", {"Timing 1: 1": 0.05}), (1.0, "Timing", 1), (3.0, "Timing", 2))
    assert found == [95.0, 93.0]


def test_a_phase_that_comes_again_is_another_one() -> None:
    steps = [(10.0, "Timing", 1), (20.0, "Timing", 2), (30.0, "Timing", 1), (40.0, "Timing", 2)]
    left, found = followed(Expected(40.0, "", {"Timing 1: 2": 0.5, "Timing 2: 2": 1.0}), *steps)
    assert found == [30.0, 20.0, 10.0, 0.0]
    assert left.marks(40.0) == {"Timing 1: 1": 0.25, "Timing 1: 2": 0.5, "Timing 2: 1": 0.75, "Timing 2: 2": 1.0}


def test_without_anything_known_the_time_left_is_unknown() -> None:
    assert followed(Expected(), (5.0, "Timing", 1))[1] == [None]
    assert followed(Expected(30.0, "the nodes"), (5.0, "Timing", 1), (31.0, "Timing", 2))[1] == [25.0, None]


def test_marks_that_lie_close_together_are_one() -> None:
    left, _ = followed(Expected(), (0.01, "a", 1), (2.0, "a", 2), (2.01, "b", 1), (9.0, "b", 2))
    assert left.marks(10.0) == {"a 1: 2": 0.2, "b 1: 2": 0.9}


def test_times_for_people() -> None:
    assert [span(s) for s in (0.4, 89.4, 90, 600)] == ["0 s", "89 s", "2 min", "10 min"]
