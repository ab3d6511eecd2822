"""Options that need a GPU: engines without weights, streaming weights, what a fleet's file saves. Skipped elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from device.machines import l4_bundle

from edgebig.build import BuildOptions, find_flavours
from edgebig.bundle import Bundle
from edgebig.device.facts import Facts, read_facts
from edgebig.device.finish import Listener, finish
from edgebig.device.timing import timing_entries

pytestmark = pytest.mark.gpu


@pytest.fixture
def facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Facts:
    """This machine's; skips, with the reason, where nothing here builds for its GPU."""
    monkeypatch.setenv("EDGEBIG_ENGINES", str(tmp_path / "engines"))
    found = read_facts()
    capability = found.machine.capability
    if capability is None:
        pytest.skip(found.problem or "no GPU is seen")
    first = next((f for f in find_flavours() if found.machine.version_of(f.name)), None)
    if first is None or (first.builds_ahead and capability not in first.capabilities):
        pytest.skip(f"no TensorRT here builds for compute capability {capability}")
    return found


@pytest.mark.parametrize(
    "options",
    [
        BuildOptions(strip_weights=True),
        BuildOptions(refit=True),
        BuildOptions(weight_streaming=True),
        BuildOptions(weight_streaming=True, weight_streaming_budget=0),
        BuildOptions(version_compatible=True),
        BuildOptions(workspace_bytes=1 << 28, optimization_level=1, aux_streams=0),
    ],
    ids=lambda options: options.key(),
)
def test_the_engine_answers_the_golden_inputs(facts: Facts, options: BuildOptions, tmp_path: Path) -> None:
    """Finishing loads the new engine and compares its answers: weights that did not come from the graph would show."""
    l4_bundle(tmp_path / "b")
    heard: list[str] = []
    finish(tmp_path / "b", options=options, facts=facts, any_device=True, listener=Listener(heard.append))
    (engine,) = Bundle.open(tmp_path / "b").part().engines
    assert (engine.stripped, engine.weight_streaming) == (options.strip_weights, options.streaming)
    assert any("golden inputs: cosine 1.0000" in line for line in heard)


def test_a_stripped_engine_is_smaller_by_the_weights(facts: Facts, tmp_path: Path) -> None:
    sizes = []
    for name, options in (("whole", BuildOptions(refit=True)), ("stripped", BuildOptions(strip_weights=True))):
        l4_bundle(tmp_path / name)
        bundle = finish(tmp_path / name, options=options, facts=facts, any_device=True)
        sizes.append(bundle.file(bundle.part().engines[0].path).stat().st_size)
    assert sizes[1] < sizes[0]


def test_what_was_timed_goes_into_the_fleets_file(facts: Facts, tmp_path: Path) -> None:
    if facts.machine.tensorrt is None:
        pytest.skip("TensorRT-RTX times nothing")
    l4_bundle(tmp_path / "b")
    finish(tmp_path / "b", facts=facts, any_device=True, timing_cache=tmp_path / "fleet.timing")
    assert (tmp_path / "fleet.timing").stat().st_size > 1000 and len(timing_entries()) == 1
    heard: list[str] = []
    finish(
        tmp_path / "b",
        facts=facts,
        any_device=True,
        force=True,
        timing_cache=tmp_path / "fleet.timing",
        listener=Listener(heard.append),
    )
    assert not any("declined" in line for line in heard)
