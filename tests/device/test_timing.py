"""Timing caches of a device: named, exported to an equal one, imported, cleared; and what a finish does with them.

TensorRT itself is the recording module of tests/build: only it could join what two devices timed.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "build"))
import trt_fake
from device.machines import FACTS, L4, l4_bundle, on_the_cpu
from trt_fake import make_trt

from edgebig.build import BuildOptions, Flavour, timing_cache
from edgebig.build.timing_cache import TimingKey, read_timing, write_timing
from edgebig.bundle import Bundle, Engine, hash_file, manifest_text
from edgebig.device import finish as finish_module
from edgebig.device.facts import Facts
from edgebig.device.finish import Listener, finish, options_of
from edgebig.device.history import History, timing_folder
from edgebig.device.preflight import preflight
from edgebig.device.timing import clear_timing, export_timing, import_timing, timing_entries
from edgebig.errors import UsageError
from edgebig.runtime import load

ORIN = replace(L4, tensorrt="10.3.0", tensorrt_rtx=None, device="Orin")
KEY = TimingKey("tensorrt", "10.3.0", "Orin, 8.9", "")


@pytest.fixture(autouse=True)
def engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEBIG_ENGINES", str(tmp_path / "one"))
    flavour = Flavour("tensorrt", "10.3.0", make_trt(version="10.3.0"))
    monkeypatch.setattr(finish_module, "find_flavours", lambda: (flavour,))
    return tmp_path / "one"


def built(path: Path, **more: Any) -> list[str]:
    """Finishes a new bundle with TensorRT 10.3; the graph itself answers for the engine."""
    heard: list[str] = []
    l4_bundle(path)
    finish(
        path,
        listener=Listener(heard.append),
        facts=Facts(ORIN),
        opened=lambda bundle, part, engine: load(bundle, part=part, prefer="onnxruntime-cpu"),
        **more,
    )
    return heard


def written(name: str, kernels: bytes, **changes: str) -> Path:
    key = replace(KEY, **changes)
    write_timing(timing_folder() / key.file_name(), key, kernels)
    return timing_folder() / key.file_name()


def test_what_one_device_timed_comes_to_an_equal_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built(tmp_path / "a")
    (entry,) = timing_entries()
    assert (entry.key, entry.bytes, entry.pending, entry.problem) == (KEY, len(b"kernel-of-10.3.0"), 0, "")
    export_timing(tmp_path / "fleet.timing")
    monkeypatch.setenv("EDGEBIG_ENGINES", str(tmp_path / "two"))
    written("mine", b"kernel-of-mine")
    (taken,) = import_timing(tmp_path / "fleet.timing")
    assert (taken.key, taken.pending) == (KEY, 1)
    assert timing_entries()[0].pending == 1
    import_timing(tmp_path / "fleet.timing")
    assert timing_entries()[0].pending == 1
    built(tmp_path / "b")
    assert timing_entries()[0].pending == 0
    assert read_timing(timing_entries()[0].path)[1] == b"kernel-of-10.3.0 kernel-of-mine"
    import_timing(tmp_path / "fleet.timing")


def test_finish_reads_and_writes_the_fleets_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = tmp_path / "fleet.timing"
    built(tmp_path / "a", timing_cache=fleet)
    assert read_timing(fleet) == (KEY, b"kernel-of-10.3.0")
    monkeypatch.setenv("EDGEBIG_ENGINES", str(tmp_path / "two"))
    write_timing(fleet, KEY, b"kernel-of-theirs")
    built(tmp_path / "b", timing_cache=fleet)
    assert read_timing(fleet) == read_timing(timing_entries()[0].path) == (KEY, b"kernel-of-10.3.0 kernel-of-theirs")
    write_timing(fleet, replace(KEY, device="Orin NX, 8.7"), b"kernel")
    with pytest.raises(UsageError, match=r"serves another build: device Orin NX, 8\.7, here Orin, 8\.9: leave it out"):
        built(tmp_path / "c", timing_cache=fleet)
    assert Bundle.open(tmp_path / "c").part().engines == ()
    assert any("cannot write" in line for line in built(tmp_path / "d", timing_cache="/proc/absent/fleet.timing"))
    assert len(Bundle.open(tmp_path / "d").part().engines) == 1


def test_the_fleets_file_needs_no_folder_of_this_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build takes many minutes: where only the device's own folder cannot be written nothing of it is lost."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGEBIG_ENGINES", str(tmp_path / "file"))
    fleet = tmp_path / "fleet.timing"
    built(tmp_path / "a", timing_cache=fleet)
    assert read_timing(fleet) == (KEY, b"kernel-of-10.3.0")
    write_timing(fleet, KEY, b"kernel-of-theirs")
    built(tmp_path / "b", timing_cache=fleet)
    assert read_timing(fleet) == (KEY, b"kernel-of-10.3.0 kernel-of-theirs")
    assert len(Bundle.open(tmp_path / "b").part().engines) == 1
    assert fleet.stat().st_mode & 0o777 == 0o644


def test_a_file_that_cannot_be_read_is_told_before_the_build(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"cannot read the timing cache {tmp_path}: Is a directory"):
        built(tmp_path / "a", timing_cache=tmp_path)
    assert Bundle.open(tmp_path / "a").part().engines == ()


def test_caches_that_tensorrt_cannot_read_or_join_cost_time_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "model: TensorRT declined a timing cache, of another CUDA or driver: timed anew"
    real = trt_fake.Config.create_timing_cache
    written("mine", b"old")
    import_timing(exported(tmp_path, b"theirs"))
    with monkeypatch.context() as patch:
        patch.setattr(trt_fake.Config, "create_timing_cache", lambda config, data: None if data else real(config, data))
        assert said in built(tmp_path / "a")
    (entry,) = timing_entries()
    assert (read_timing(entry.path)[1], entry.pending) == (b"kernel-of-10.3.0", 0)
    import_timing(exported(tmp_path, b"theirs"))
    with monkeypatch.context() as patch:
        patch.setattr(trt_fake.Cache, "combine", lambda cache, other, ignore: False)
        assert said in built(tmp_path / "b")
    assert said not in built(tmp_path / "c")
    with monkeypatch.context() as patch:
        patch.setattr(trt_fake.Cache, "serialize", lambda cache: None)
        built(tmp_path / "d", timing_cache=tmp_path / "new.timing")
    assert read_timing(entry.path)[1].startswith(b"kernel-of-10.3.0")


def test_a_build_that_was_killed_goes_on_from_what_it_had_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(builder: Any, network: object, config: trt_fake.Config) -> bytes:
        config.cache.kernels.add(b"timed-before")
        config.progress_monitor.phase_start("Timing graph nodes", None, 9)
        config.progress_monitor.step_complete("Timing graph nodes", 0)
        config.cache.kernels.add(b"lost")
        os.kill(os.getpid(), signal.SIGKILL)
        return b""

    child = os.fork()
    if child == 0:
        (flavour,) = finish_module.find_flavours()
        flavour.module.Builder.build_serialized_network = dies
        monkeypatch.setattr(timing_cache, "_EVERY", 0.0)
        built(tmp_path / "a")
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    (entry,) = timing_entries()
    assert read_timing(entry.path) == (KEY, b"timed-before")
    Bundle.open(tmp_path / "a").verify()
    finish(
        tmp_path / "a",
        facts=Facts(ORIN),
        opened=lambda bundle, part, engine: load(bundle, part=part, prefer="onnxruntime-cpu"),
    )
    assert read_timing(entry.path) == (KEY, b"kernel-of-10.3.0 timed-before")
    assert len(Bundle.open(tmp_path / "a").part().engines) == 1


def test_what_was_begun_and_never_ended_goes_after_an_hour(tmp_path: Path) -> None:
    built(tmp_path / "a")
    old, new = timing_folder() / "tmpa.partial", timing_folder() / "tmpb.partial"
    old.write_bytes(b"cut")
    new.write_bytes(b"at work")
    os.utime(old, (time.time() - 4000,) * 2)
    built(tmp_path / "b")
    assert not old.exists() and new.exists()


def exported(folder: Path, kernels: bytes) -> Path:
    write_timing(folder / "other.timing", KEY, kernels)
    return folder / "other.timing"


def test_rtx_leaves_the_file_alone_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("EDGEBIG_ENGINES", str(tmp_path / "one"))
    l4_bundle(tmp_path / "a")
    heard: list[str] = []
    finish(
        tmp_path / "a",
        timing_cache=tmp_path / "fleet.timing",
        listener=Listener(heard.append),
        facts=FACTS,
        opened=on_the_cpu,
    )
    assert any(line.endswith(f"times nothing: {tmp_path / 'fleet.timing'} is left alone") for line in heard)
    assert not (tmp_path / "fleet.timing").exists() and timing_entries() == []
    (past,) = History().builds()
    assert past.seconds > 0 and past.marks and not past.warm
    assert list(past.marks.values()) == sorted(past.marks.values()) and 0 < max(past.marks.values()) <= 1
    bundle = replace(Bundle.open(tmp_path / "a").manifest.parts["model"], engines=())
    plain = Bundle(tmp_path / "a", replace(Bundle.open(tmp_path / "a").manifest, parts={"model": bundle}))
    found = preflight(plain, "model", L4)
    assert (found.seconds, found.basis) == (pytest.approx(past.seconds), "an earlier build here")


def test_where_the_full_tensorrt_is_too_an_engine_of_rtx_is_not_the_last_word(tmp_path: Path) -> None:
    bundle = l4_bundle(tmp_path / "a")
    (bundle.path / "finished").mkdir()
    (bundle.path / "finished/e").write_bytes(b"an engine")
    rtx = Engine("finished/e", "tensorrt-rtx", str(L4.tensorrt_rtx), ("8.9",), built={"options": "damaged"})
    part, files = replace(bundle.part(), engines=(rtx,)), {**bundle.manifest.files}
    files[rtx.path] = hash_file(bundle.path / rtx.path)
    (bundle.path / "manifest.json").write_text(
        manifest_text(replace(bundle.manifest, parts={"model": part}, files=files))
    )
    heard: list[str] = []
    both = Facts(replace(ORIN, tensorrt_rtx=L4.tensorrt_rtx))
    finish(bundle.path, listener=Listener(heard.append), facts=both)
    assert heard[-1].endswith(
        "runs here: nothing to build (TensorRT 10.3.0 is here too: --force builds an engine of it, which goes first)"
    )


def test_the_second_build_knows_what_the_first_took(tmp_path: Path) -> None:
    begun: list[float | None] = []
    left: list[float | None] = []
    l4_bundle(tmp_path / "a")
    for _ in range(2):
        finish(
            tmp_path / "a",
            force=True,
            listener=Listener(begin=lambda part, seconds: begun.append(seconds), left=left.append),
            facts=Facts(ORIN),
            opened=lambda bundle, part, engine: load(bundle, part=part, prefer="onnxruntime-cpu"),
        )
    first, second = History().builds()
    assert begun == [None, first.seconds] and (first.warm, second.warm) == (False, True)


def test_several_caches_go_into_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no timing cache is here: 'edgebig finish' makes one where TensorRT builds"):
        export_timing(tmp_path / "x")
    written("plain", b"a")
    written("dla", b"b", flags="dla")
    with pytest.raises(UsageError, match=r"2 timing caches are here \(.*\): name one with --name, or a folder for all"):
        export_timing(tmp_path / "x")
    names = [entry.name for entry in timing_entries()]
    export_timing(tmp_path / "x", names[0])
    assert read_timing(tmp_path / "x")[0] == timing_entries()[0].key
    (tmp_path / "all").mkdir()
    assert len(export_timing(tmp_path / "all")) == 2
    assert clear_timing([names[0]]) == 1 and [e.name for e in timing_entries()] == names[1:]
    assert clear_timing(None) == 1 and timing_entries() == []
    assert len(import_timing(tmp_path / "all")) == 2
    with pytest.raises(UsageError, match="no timing cache is called nothing"):
        clear_timing([names[0], "nothing"])
    assert len(timing_entries()) == 2


def test_bad_files_are_told_and_nothing_is_taken_in(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "some").mkdir()
    write_timing(tmp_path / "some" / "a.timing", KEY, b"kernel")
    (tmp_path / "some" / "b.timing").write_bytes((tmp_path / "some" / "a.timing").read_bytes() + b"!")
    for place, says in (
        (tmp_path / "absent", "cannot read the timing cache .*absent: No such file or directory"),
        (tmp_path / "empty", "holds no timing cache"),
        (tmp_path / "some", r"b\.timing is damaged: copy it anew"),
    ):
        with pytest.raises(UsageError, match=says):
            import_timing(place)
    assert timing_entries() == []
    damaged = written("x", b"kernel")
    damaged.write_bytes(damaged.read_bytes() + b"!")
    (entry,) = timing_entries()
    assert entry.key is None and entry.problem.endswith("is damaged: copy it anew")


def test_a_bundles_recipe_says_what_finish_asks_of_the_builder(tmp_path: Path) -> None:
    bundle = l4_bundle(tmp_path / "a")
    asked = {"workspace": 1 << 30, "dla_core": None, "version_compatible": True}
    manifest = replace(bundle.manifest, recipe={"build": asked})
    kept = Bundle(bundle.path, manifest)
    assert options_of(kept) == BuildOptions(workspace_bytes=1 << 30, version_compatible=True)
    assert options_of(kept, {"workspace": "2G"}).workspace_bytes == 2 << 30
    assert options_of(Bundle(bundle.path, replace(manifest, recipe={"build": 3}))) == BuildOptions()


def test_options_are_in_the_engines_facts(tmp_path: Path) -> None:
    options = BuildOptions(hardware_compatible="ampere+", strip_weights=True, weight_streaming=True)
    built(tmp_path / "a", options=options)
    (engine,) = Bundle.open(tmp_path / "a").part().engines
    assert (engine.hardware_compatible, engine.stripped, engine.weight_streaming) == (True, True, "auto")
    assert (engine.built or {})["hardware_level"] == "ampere+"
    with pytest.raises(UsageError, match="for discrete GPUs: TensorRT lacks it on a Jetson"):
        finish(tmp_path / "a", options=options, facts=Facts(replace(ORIN, is_jetson=True)))
