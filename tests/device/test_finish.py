"""Finishing with real TensorRT-RTX builds: whole bundles at any moment, one build for several processes."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")

from device.machines import FACTS, L4, l4_bundle, on_the_cpu, wrong

from edgebig.build import BuildOptions
from edgebig.bundle import Bundle, File, hash_file, manifest_text
from edgebig.device.facts import Facts
from edgebig.device.finish import Listener, finish
from edgebig.device.locking import only_one
from edgebig.device.store import Store, with_stored
from edgebig.errors import AccuracyError, BackendError, BundleError, OutputError, TargetError, UsageError
from edgebig.loading import load
from edgebig.manifest import BUILT

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEBIG_ENGINES", str(tmp_path / "engines"))
    return tmp_path / "engines"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    l4_bundle(tmp_path / "b")
    return tmp_path / "b"


def lines(path: Path, **options: object) -> list[str]:
    heard: list[str] = []
    finish(path, listener=Listener(heard.append), facts=FACTS, opened=on_the_cpu, **options)  # type: ignore[arg-type]
    return heard


def start(path: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "tests/device/finish_process.py"), "finish", str(path), *options]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}:{ROOT / 'tests/device'}"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_an_engine_is_built_checked_and_put_into_the_bundle(path: Path) -> None:
    heard = lines(path)
    bundle = Bundle.open(path)
    bundle.verify()
    (engine,) = bundle.part().engines
    assert (engine.kind, engine.version, engine.hardware) == ("tensorrt-rtx", L4.tensorrt_rtx, ("8.9",))
    assert engine.profiles == ({"x": {"min": [1, 8], "opt": [4, 8], "max": [16, 8]}},)
    assert engine.built is not None and set(engine.built) <= set(BUILT)
    assert engine.built["device"] == "NVIDIA L4" and engine.built["driver"] == "580.65.06"
    assert 0 < engine.built["seconds"] < 60
    assert bundle.file(engine.path).read_bytes()[:4] == b"vtrt"
    assert any(line.startswith("model: golden inputs: cosine 1.0000") for line in heard)
    assert lines(path)[-1] == f"model: {engine.path} runs here: nothing to build"
    assert Bundle.open(path).manifest == bundle.manifest


def test_a_forced_build_replaces_the_devices_own_engine_alone(path: Path) -> None:
    lines(path)
    first = Bundle.open(path).part().engines[0]
    lines(path, force=True)
    bundle = Bundle.open(path)
    bundle.verify()
    assert len(bundle.part().engines) == 1 and bundle.part().engines[0].path != first.path
    assert sorted(p.name for p in (path / "finished").iterdir()) == [Path(bundle.part().engines[0].path).name]


def test_an_engine_that_answers_otherwise_is_refused_and_the_old_one_kept(path: Path) -> None:
    lines(path)
    before = Bundle.open(path).manifest
    with pytest.raises(AccuracyError, match=r"output 'y' has an SQNR of .* dB .* the engine is not taken"):
        finish(path, force=True, facts=FACTS, opened=wrong)
    bundle = Bundle.open(path)
    bundle.verify()
    assert bundle.manifest == before
    assert [p.name for p in (path / "finished").iterdir()] == [Path(before.parts["model"].engines[0].path).name]
    finish(path, force=True, facts=FACTS, opened=wrong, min_sqnr=-100)
    assert Bundle.open(path).manifest != before


def test_the_evidence_of_the_compile_says_how_near_is_near_enough(tmp_path: Path) -> None:
    noisy = {"y": {"cosine": 0.9, "sqnr_db": 0.0, "max_abs": 1.0, "max_relative": 1.0}}
    l4_bundle(tmp_path / "noisy", similarity=noisy)
    finish(tmp_path / "noisy", facts=FACTS, opened=wrong)
    assert len(Bundle.open(tmp_path / "noisy").part().engines) == 1


def test_bad_machines_and_bundles_each_get_one_line(path: Path, tmp_path: Path) -> None:
    cases = [
        (
            Facts(replace(L4, capability=None), problem="the driver shows no GPU"),
            BackendError,
            "the driver shows no GPU",
        ),
        (
            Facts(replace(L4, tensorrt_rtx=None)),
            BackendError,
            "no TensorRT is installed for this Python: JetPack brings",
        ),
        (Facts(replace(L4, capability="8.6")), TargetError, r"for l4 \(sm_89\), this machine is .*sm_86.*--any-device"),
    ]
    for facts, kind, message in cases:
        with pytest.raises(kind, match=message) as caught:
            finish(path, facts=facts, opened=on_the_cpu)
        assert "\n" not in str(caught.value)
    graph = path / "graphs/model.onnx"
    graph.write_bytes(graph.read_bytes()[:-1])
    with pytest.raises(BundleError, match=r"graphs/model\.onnx is not the file of the manifest"):
        finish(path, facts=FACTS, opened=on_the_cpu)
    import tiny

    tiny.write_bundle(tmp_path / "cpu", {"model": tiny.mlp()})
    with pytest.raises(UsageError, match="is for cpu, a processor"):
        finish(tmp_path / "cpu", facts=FACTS)


def test_another_capability_is_built_when_asked(path: Path) -> None:
    finish(path, facts=Facts(replace(L4, capability="8.6")), opened=on_the_cpu, any_device=True)
    assert Bundle.open(path).part().engines[0].hardware == ("8.6",)


@contextmanager
def read_only(path: Path) -> Iterator[Path]:
    """The bundle where it cannot be written: mounted so, which holds for root too, or a copy without the permission."""
    mounted = path.with_name(f"{path.name}-mounted")
    mounted.mkdir()
    if os.geteuid() == 0:
        if subprocess.run(["mount", "--bind", path, mounted], capture_output=True).returncode != 0:
            pytest.skip("mounting is not permitted here")
        subprocess.run(["mount", "-o", "remount,ro,bind", mounted], check=True)
    else:
        shutil.rmtree(mounted)
        shutil.copytree(path, mounted)
        mounted.chmod(0o500)
    try:
        yield mounted
    finally:
        if os.geteuid() == 0:
            subprocess.run(["umount", mounted], check=True)
        else:
            mounted.chmod(0o700)


def test_a_bundle_that_cannot_be_written_gets_its_engine_elsewhere(path: Path, engines: Path) -> None:
    with read_only(path) as mounted:
        bundle = finish(mounted, facts=FACTS, opened=on_the_cpu)
        (engine,) = bundle.part().engines
        stored = bundle.file(engine.path)
        assert stored.is_relative_to(engines) and stored.read_bytes()[:4] == b"vtrt"
        assert Bundle.open(mounted).part().engines == ()
        found = with_stored(Bundle.open(mounted), "model", L4)
        assert found.part().engines == (engine,) and found.file(engine.path) == stored
        assert with_stored(Bundle.open(mounted), "model", replace(L4, capability="8.6")).part().engines == ()
        content = bytearray(stored.read_bytes())
        content[100] ^= 1
        stored.write_bytes(content)
        assert Store(Bundle.open(mounted)).find("model", L4) is None
        with pytest.raises(BundleError, match="is not the file of the manifest"):
            found.verify()


def dying(path: Path) -> list[dict[str, int]]:
    command = [sys.executable, str(ROOT / "tests/device/dying.py"), str(path)]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}:{ROOT / 'tests/device'}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_killed_at_any_step_the_bundle_is_whole_and_a_second_run_completes(path: Path) -> None:
    steps = dying(path)
    assert len(steps) > 30 and [s["killed"] for s in steps] == [True] * (len(steps) - 1) + [False]
    assert {s["engines"] for s in steps} == {1}
    assert max(s["files"] for s in steps) <= 3, "what one leaves goes before the next one writes"
    assert steps[-1]["files"] == 1


def test_killed_at_any_step_the_store_keeps_an_engine_that_runs(path: Path, engines: Path) -> None:
    with read_only(path) as mounted:
        steps = dying(mounted)
    assert len(steps) > 25 and [s["killed"] for s in steps] == [True] * (len(steps) - 1) + [False]
    assert {s["engines"] for s in steps} == {1}
    assert max(s["files"] for s in steps) <= 3
    assert steps[-1]["files"] == 1


def test_of_two_processes_one_builds_and_the_other_waits(path: Path) -> None:
    processes = [start(path), start(path)]
    outputs = [p.communicate(timeout=120) for p in processes]
    assert [p.returncode for p in processes] == [0, 0], outputs
    texts = [out for out, _ in outputs]
    assert sum("built" in t for t in texts) == 1
    assert sum("nothing to build" in t for t in texts) == 1
    Bundle.open(path).verify()


def test_who_waits_goes_on_when_the_holder_is_killed(path: Path, tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from edgebig.device.locking import only_one\n"
        "with only_one(Path(sys.argv[1]), Path(sys.argv[2]), lambda: None): print('held', flush=True); time.sleep(600)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, path, tmp_path / "a.lock"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
    waiting = start(path)
    assert waiting.stdout is not None
    said = [waiting.stdout.readline() for _ in range(2)]
    assert said[1] == f"another process is finishing {path}: waiting for it\n"
    assert waiting.poll() is None and Bundle.open(path).part().engines == ()
    holder.kill()
    holder.communicate()
    rest = waiting.communicate(timeout=120)
    assert waiting.returncode == 0 and "is in the bundle" in rest[0], rest
    assert len(Bundle.open(path).part().engines) == 1


def test_of_two_copies_that_cannot_be_written_one_builds(path: Path, engines: Path) -> None:
    shutil.copytree(path, path.with_name("c"))
    with read_only(path) as one, read_only(path.with_name("c")) as two:
        processes = [start(one), start(two)]
        outputs = [p.communicate(timeout=120) for p in processes]
        assert [p.returncode for p in processes] == [0, 0], outputs
        texts = [out for out, _ in outputs]
        assert sum("built" in t for t in texts) == 1 and sum("nothing to build" in t for t in texts) == 1
        for mounted in (one, two):
            with_stored(Bundle.open(mounted), "model", L4).verify()


def test_no_engine_is_kept_or_taken_where_others_write(path: Path, engines: Path) -> None:
    with read_only(path) as mounted:
        mask = os.umask(0o002)
        try:
            finish(mounted, facts=FACTS, opened=on_the_cpu)
        finally:
            os.umask(mask)
        store = Store(Bundle.open(mounted))
        assert store.find("model", L4) is not None
        for folder, mode, is_safe in ((store.folder, 0o775, False), (engines, 0o777, False), (engines, 0o1777, True)):
            before = folder.stat().st_mode & 0o7777
            folder.chmod(mode)
            assert (store.find("model", L4) is not None) == is_safe
            if not is_safe:
                with pytest.raises(OutputError, match="others can write there, and an engine is code: chmod -R go-w"):
                    finish(mounted, facts=FACTS, opened=on_the_cpu)
            folder.chmod(before)
        assert store.find("model", L4) is not None


def test_an_engine_of_the_store_stays_out_of_a_bundle_that_can_be_written_again(path: Path, engines: Path) -> None:
    bundle = Bundle.open(path)
    parts = {"a": bundle.part(), "b": bundle.part()}
    (path / "manifest.json").write_text(manifest_text(replace(bundle.manifest, parts=parts)))
    with read_only(path) as mounted:
        finish(mounted, part="a", facts=FACTS, opened=on_the_cpu)
    done = finish(path, facts=FACTS, opened=on_the_cpu)
    assert all(len(done.part(name).engines) == 1 for name in "ab")
    done.verify()
    kept = Bundle.open(path)
    kept.verify()
    assert [len(kept.part(name).engines) for name in "ab"] == [0, 1]


def test_a_link_out_of_the_bundle_is_told_before_anything_is_built(path: Path, tmp_path: Path) -> None:
    (tmp_path / "large-disk").mkdir()
    (path / "finished").symlink_to(tmp_path / "large-disk")
    with pytest.raises(BundleError, match="finished/ leads outside the bundle: remove the link"):
        finish(path, facts=FACTS, opened=on_the_cpu)
    (path / "finished").unlink()
    Bundle.open(path).verify()


def test_an_engine_that_runs_but_was_built_otherwise_is_told(path: Path) -> None:
    lines(path)
    asked = BuildOptions(version_compatible=True)
    assert lines(path, options=asked)[-1].endswith("(other options were asked for: --force builds it anew with them)")
    lines(path, options=asked, force=True)
    assert lines(path, options=asked)[-1].endswith("runs here: nothing to build")
    with pytest.raises(UsageError, match="a number of decibels, found nan"):
        lines(path, min_sqnr=float("nan"))


def test_a_folder_that_cannot_be_locked_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(descriptor: int, how: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        real(descriptor, how)

    real = fcntl.flock
    monkeypatch.setattr(fcntl, "flock", flock)
    with only_one(tmp_path, tmp_path / "locks/a.lock", lambda: None):
        assert (tmp_path / "locks/a.lock").exists()
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(OutputError, match="locks no folders, nor .*: File exists: name a folder .* EDGEBIG_ENGINES"),
        only_one(tmp_path, tmp_path / "file/a.lock", lambda: None),
    ):
        pass


def test_an_interrupt_ends_it_with_its_code_and_leaves_nothing(path: Path) -> None:
    process = start(path)
    for line in process.stdout or ():
        if "building" in line:
            break
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode in (130, 0)
    Bundle.open(path).verify()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=60k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("mounting a small file system is not permitted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_told_and_the_bundle_stays_whole(small_disk: Path) -> None:
    l4_bundle(small_disk / "b")
    (small_disk / "filler").write_bytes(bytes(shutil.disk_usage(small_disk).free - 8192))
    with pytest.raises(OutputError, match="No space left on device: free some space and run it again"):
        finish(small_disk / "b", facts=FACTS, opened=on_the_cpu)
    Bundle.open(small_disk / "b").verify()
    (small_disk / "filler").unlink()
    sized = l4_bundle(small_disk / "c", sizes={"weight_bytes": 10**9, "nodes": 3})
    with pytest.raises(OutputError, match=r"the engine may need 1142 MB, .* are free: free some space"):
        finish(sized.path, facts=FACTS, opened=on_the_cpu)


def test_loading_builds_what_is_missing_when_asked(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgebig.device import facts as facts_module
    from edgebig.device import finish as finish_module

    monkeypatch.setattr(facts_module, "read_facts", lambda **_: FACTS)
    monkeypatch.setattr(finish_module, "finish", lambda path, **given: finish(path, **{**given, "opened": on_the_cpu}))
    x = np.ones((2, 8), np.float32)
    with pytest.warns(RuntimeWarning, match="runs on the CPU here"), load(path) as session:
        expected = session.run({"x": x})["y"]
    assert Bundle.open(path).part().engines == ()
    with pytest.warns(RuntimeWarning), load(path, build="if-missing") as session:
        np.testing.assert_allclose(session.run({"x": x})["y"], expected)
    (engine,) = Bundle.open(path).part().engines
    with pytest.warns(RuntimeWarning), load(path, build="if-missing"):
        pass
    assert Bundle.open(path).part().engines == (engine,)
    with pytest.raises(UsageError, match="build is never or if-missing, found 'always'"):
        load(path, build="always")  # type: ignore[arg-type]


def test_an_engine_of_the_store_is_hashed_once_for_a_load(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgebig import bundle as bundle_module
    from edgebig.device import store as store_module

    hashed: list[str] = []

    def counting(file: Path) -> File:
        hashed.append(file.suffix)
        return hash_file(file)

    with read_only(path) as mounted:
        finish(mounted, facts=FACTS, opened=on_the_cpu)
        for module in (bundle_module, store_module):
            monkeypatch.setattr(module, "hash_file", counting)
        found = with_stored(Bundle.open(mounted), "model", L4)
        stored = found.file(found.part().engines[0].path)
        assert hashed == [".engine"]
        stored.write_bytes(b"another")
        with pytest.raises(BundleError, match="is not the file of the manifest"):
            found.verify()
