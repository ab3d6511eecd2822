"""What the full TensorRT is asked, told by a module that records it: no machine of the tests has one."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgebig.build import BuildOptions, Flavour, Profile, TimingCache, build_engine, find_flavour, find_flavours
from edgebig.build.listening import in_words
from edgebig.errors import BuildError, MissingExtra, UsageError

sys.path.insert(0, str(Path(__file__).parent))
from trt_fake import Network, make_trt

GRAPH = Path("net.onnx")


def full(version: str = "10.3.0", **more: Any) -> Flavour:
    return Flavour("tensorrt", version, make_trt(version=version, **more))


def test_the_full_tensorrt_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", make_trt(version="10.3.0"))
    monkeypatch.setitem(sys.modules, "tensorrt_rtx_bindings", make_trt(version="1.7.1"))
    assert [str(f) for f in find_flavours()] == ["TensorRT 10.3.0", "TensorRT-RTX 1.7.1"]
    assert find_flavour("tensorrt").version == "10.3.0"
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert [f.name for f in find_flavours()] == ["tensorrt-rtx"]
    with pytest.raises(MissingExtra, match=r"edgebig\[gpu\]"):
        find_flavour("tensorrt")


@pytest.mark.parametrize(("version", "bit", "flags"), [("10.3.0", 1, 2), ("11.4.0", 0, 1), ("12.0", None, 0)])
def test_networks_are_strongly_typed_by_each_versions_own_flag(version: str, bit: int | None, flags: int) -> None:
    flavour = full(version, strongly_typed=bit)
    built = build_engine(GRAPH, flavour)
    assert built.engine == b"engine" and built.warnings == ("slow here",)
    assert flavour.module.network_flags == flags
    assert flavour.module.config.said == [("profiling_verbosity", "DETAILED")]


def test_options_and_profiles_reach_the_builder() -> None:
    flavour = full()
    options = BuildOptions(
        workspace_bytes=1 << 20,
        optimization_level=5,
        aux_streams=2,
        version_compatible=True,
        hardware_compatible="ampere+",
        strip_weights=True,
        refit=True,
        weight_streaming=True,
        detailed_verbosity=False,
    )
    sets = [{"x": Profile((1, 2), (3, 2), (4, 2))}, {"x": Profile((5, 2), (5, 2), (5, 2))}]
    build_engine(GRAPH, flavour, profiles=sets, options=options)
    assert flavour.module.config.said == [
        ("WORKSPACE", 1 << 20),
        ("builder_optimization_level", 5),
        ("max_aux_streams", 2),
        ("flag", "VERSION_COMPATIBLE"),
        ("flag", "EXCLUDE_LEAN_RUNTIME"),
        ("hardware_compatibility_level", "AMPERE_PLUS"),
        ("flag", "REFIT"),
        ("flag", "STRIP_PLAN"),
        ("flag", "WEIGHT_STREAMING"),
        ("profile", {"x": ((1, 2), (3, 2), (4, 2))}),
        ("profile", {"x": ((5, 2), (5, 2), (5, 2))}),
    ]


@pytest.mark.parametrize("fallback", [True, False])
def test_a_dla_core_with_and_without_the_gpu_behind_it(fallback: bool) -> None:
    flavour = full()
    options = BuildOptions(dla_core=1, gpu_fallback=fallback, detailed_verbosity=False)
    built = build_engine(GRAPH, flavour, options=options)
    assert (built.beside_dla, built.layers) == (("GlobalAveragePool",), 3)
    core, behind = [("default_device_type", "DLA"), ("DLA_core", 1)], [("flag", "GPU_FALLBACK")] if fallback else []
    typed = [("flag", "FP16"), ("flag", "PREFER_PRECISION_CONSTRAINTS")]
    assert flavour.module.config.said == [*core, *typed, *behind]
    newer = full("11.4.1")
    newer.module.OnnxParserFlag.ADJUST_FOR_DLA = 4
    build_engine(GRAPH, newer, options=options)
    assert newer.module.config.said == [("parser", 4), *core, *behind]
    with pytest.raises(BuildError, match=r"TensorRT 10\.3\.0: DLA core 1 was asked for and it has 1"):
        build_engine(GRAPH, full(dla_cores=1), options=options)


def test_pairs_for_a_dla_of_tensorrt_10_need_its_int8_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Network, "first", "Dequantize")
    for version, asked in (("10.3.0", True), ("11.4.1", False)):
        flavour = full(version)
        build_engine(GRAPH, flavour, options=BuildOptions(dla_core=0))
        assert (("flag", "INT8") in flavour.module.config.said) is asked


def test_only_the_dlas_of_tensorrt_10_want_networks_that_flags_type() -> None:
    dla = BuildOptions(dla_core=0)
    for version, options, flags in (("10.3.0", dla, 0), ("10.3.0", BuildOptions(), 2), ("11.4.1", dla, 2)):
        flavour = full(version)
        build_engine(GRAPH, flavour, options=options)
        assert flavour.module.network_flags == flags
        precisions = [layer.precision for layer in flavour.module.network.layers]
        assert precisions == ([None, None, "FLOAT"] if flags == 0 else [None] * 3)


@pytest.mark.parametrize("version", ["10.8.0", "10.16.1", "11.3.0", "11.4.0"])
def test_tensorrt_without_dla_says_which_ones_have_it(version: str) -> None:
    flavour, options = full(version), BuildOptions(dla_core=0)
    assert flavour.refusal(options).startswith(f"TensorRT {version} has no DLA: TensorRT up to 10.7 (JetPack 6) and")
    for other in ("8.5.2", "10.3.0", "10.7.0.23", "11.4.1", "11.5"):
        assert full(other).refusal(options) == ""


def test_what_a_version_lacks_is_named_with_the_one_that_has_it() -> None:
    older = full()
    older.module.HardwareCompatibilityLevel = SimpleNamespace(AMPERE_PLUS="AMPERE_PLUS")
    within = BuildOptions(hardware_compatible="same-capability")
    assert "has no hardware compatibility same-capability: TensorRT 10.13 and later" in older.refusal(within)
    newer = full("10.13.3")
    newer.module.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY = "SAME"
    build_engine(GRAPH, newer, options=within)
    assert ("hardware_compatibility_level", "SAME") in newer.module.config.said
    del older.module.BuilderFlag.STRIP_PLAN
    found = older.refusal(BuildOptions(strip_weights=True))
    assert found == "TensorRT 10.3.0 has no STRIP_PLAN: TensorRT 10.0 and later have it"


def test_rtx_needs_a_driver_for_engines_that_can_be_refitted() -> None:
    rtx = Flavour("tensorrt-rtx", "1.7.1", make_trt(version="1.7.1"))
    for options in (BuildOptions(refit=True), BuildOptions(strip_weights=True)):
        assert "where a GPU and its driver are: leave refitting" in rtx.refusal(options, has_driver=False)
        assert rtx.refusal(options, has_driver=True) == ""


def test_a_recipes_fields_become_options() -> None:
    asked = {"workspace": "2G", "dla_core": None, "weight_streaming": "1.5G", "refit": True, "unknown": 3}
    options = BuildOptions.of(asked)
    assert options == BuildOptions(
        workspace_bytes=2 << 30, refit=True, weight_streaming=True, weight_streaming_budget=3 << 29
    )
    assert options.streaming == 3 << 29 and BuildOptions.of({"weight_streaming": "auto"}).streaming == "auto"
    assert BuildOptions().streaming is None
    assert options.key() == BuildOptions(workspace_bytes=2 << 30, refit=True, weight_streaming=True).key()


def test_capabilities_are_refused_where_only_this_machines_gpu_is_built_for() -> None:
    with pytest.raises(BuildError, match=r"3\.0 builds for the GPU of this machine alone, not for .* 8\.9"):
        build_engine(GRAPH, full(), capabilities=["8.9"])


def test_what_the_error_recorder_heard_reaches_the_user_without_the_place_in_the_source() -> None:
    said = (
        "IBuilder::buildSerializedNetwork: Error Code 10: Internal Error (Could not find any implementation for node "
        "{ForeignNode[/a/MatMul.../b/Add]}. In computeCosts at /_src/optimizer/common/tactic/optimizer.cpp:4040)"
    )
    assert in_words(said).endswith("node {ForeignNode[/a/MatMul.../b/Add]}.)")
    with pytest.raises(BuildError) as caught:
        build_engine(GRAPH, full(refuses=said))
    message = str(caught.value)
    assert message.startswith("TensorRT 10.3.0 cannot build net: Internal Error (Could not find")
    assert "ForeignNode[/a/MatMul.../b/Add]" in message and "_src" not in message
    with pytest.raises(BuildError, match="give more workspace, or leave its limit out"):
        build_engine(GRAPH, full(refuses="found no tactics within the workspace"))


@pytest.mark.parametrize(
    "options",
    [
        {"optimization_level": 6},
        {"workspace_bytes": 0},
        {"dla_core": -1},
        {"dla_core": 0, "hardware_compatible": "ampere+"},
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="found|DLA|needs"):
        BuildOptions(**options)


def test_the_key_is_equal_for_equal_options_alone() -> None:
    assert BuildOptions().key() == BuildOptions(optimization_level=None).key()
    assert len({BuildOptions().key(), BuildOptions(refit=True).key(), BuildOptions(aux_streams=0).key()}) == 3


def test_a_build_reads_and_writes_its_timing_cache(tmp_path: Path) -> None:
    flavour = full()
    cache = TimingCache.open(tmp_path, flavour, "Orin, 8.7", BuildOptions())
    build_engine(GRAPH, flavour, timing_cache=cache)
    assert cache.payloads() == [b"kernel-of-10.3.0"]
    assert ("timing cache", False) in flavour.module.config.said
    for other in (
        TimingCache.open(tmp_path, full("10.13.3"), "Orin, 8.7", BuildOptions()),
        TimingCache.open(tmp_path, flavour, "Thor, 11.0", BuildOptions()),
        TimingCache.open(tmp_path, flavour, "Orin, 8.7", BuildOptions(version_compatible=True)),
    ):
        assert other.payloads() == []


def test_a_timing_cache_goes_from_device_to_equal_device(tmp_path: Path) -> None:
    flavour = full()
    first = TimingCache.open(tmp_path / "one", flavour, "Orin, 8.7", BuildOptions())
    with pytest.raises(UsageError, match="build an engine there first"):
        first.export(tmp_path / "fleet.timing")
    build_engine(GRAPH, flavour, timing_cache=first)
    first.export(tmp_path / "fleet.timing")
    second = TimingCache.open(tmp_path / "two", flavour, "Orin, 8.7", BuildOptions())
    second.merge(b"kernel-of-mine")
    second.import_(tmp_path / "fleet.timing")
    assert sorted(second.payloads()) == [b"kernel-of-10.3.0", b"kernel-of-mine"]
    build_engine(GRAPH, full(), timing_cache=second)
    assert second.payloads() == [b"kernel-of-10.3.0 kernel-of-mine"]
    other = TimingCache.open(tmp_path / "three", flavour, "Thor, 11.0", BuildOptions())
    with pytest.raises(UsageError, match=r"serves another build: device Orin, 8\.7, here Thor, 11\.0: leave it out"):
        other.import_(tmp_path / "fleet.timing")


def test_a_damaged_timing_cache_is_told_on_import_and_passed_over_by_a_build(tmp_path: Path) -> None:
    flavour = full()
    cache = TimingCache.open(tmp_path, flavour, "Orin", BuildOptions())
    cache.merge(b"kernel")
    cache.path.write_bytes(cache.path.read_bytes()[:-1] + b"X")
    with pytest.raises(UsageError, match="is damaged: copy it anew"):
        TimingCache.open(cache.path, flavour, "Orin", BuildOptions())
    (tmp_path / "text.timing").write_text("no cache")
    with pytest.raises(UsageError, match="is no timing cache of edgebig"):
        cache.import_(tmp_path / "text.timing")
    build_engine(GRAPH, flavour, timing_cache=cache)
    assert cache.payloads() == [b"kernel-of-10.3.0"]


def test_it_is_saved_every_30_seconds_while_a_build_runs(tmp_path: Path) -> None:
    flavour, clock = full(), [0.0]
    opened = TimingCache.open(tmp_path, flavour, "Orin", BuildOptions())
    cache = TimingCache(opened.path, opened.key, now=lambda: clock[0])
    config = flavour.module.config
    cache.attach(config)
    config.cache.kernels.add(b"slow")
    for now, saved in ((29.0, []), (31.0, [b"slow"]), (59.0, [b"slow"]), (62.0, [b"more slow"])):
        clock[0] = now
        cache.tick()
        assert cache.payloads() == saved
        if now == 31.0:
            config.cache.kernels.add(b"more")


def test_rtx_times_nothing_and_leaves_the_file_alone(tmp_path: Path) -> None:
    trt = pytest.importorskip("tensorrt_rtx_bindings")
    assert trt.__version__
    rtx = find_flavour("tensorrt-rtx")
    assert not rtx.has_timing_cache and rtx.builds_ahead and "8.9" in rtx.capabilities
