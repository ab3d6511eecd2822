"""Finishing with real TensorRT-RTX builds: whole bundles at any moment, one build for several processes."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")

from device.machines import FACTS, L4, l4_bundle, on_the_cpu, wrong

from edgebig.bundle import Bundle
from edgebig.device.facts import Facts
from edgebig.device.finish import Listener, finish
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


def test_a_bundle_that_cannot_be_written_gets_its_engine_elsewhere(path: Path, engines: Path) -> None:
    mounted = path.parent / "mounted"
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
    finally:
        if os.geteuid() == 0:
            subprocess.run(["umount", mounted], check=True)
        else:
            mounted.chmod(0o700)


def test_killed_at_any_point_the_bundle_is_whole_and_a_second_run_completes(path: Path) -> None:
    begun = time.monotonic()
    whole = start(path)
    assert whole.communicate()[0] and whole.returncode == 0
    full = time.monotonic() - begun
    rng, killed = random.Random(0), 0
    for index in range(12):
        process = start(path, "--force")
        time.sleep(full * (0.45 + 0.55 * (index + rng.random()) / 12))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
        Bundle.open(path).verify()
        assert len(Bundle.open(path).part().engines) == 1
    assert killed >= 6
    lines(path, force=True)
    bundle = Bundle.open(path)
    bundle.verify()
    assert [p.name for p in (path / "finished").iterdir()] == [Path(bundle.part().engines[0].path).name]


def test_of_two_processes_one_builds_and_the_other_waits(path: Path) -> None:
    processes = [start(path), start(path)]
    outputs = [p.communicate(timeout=120) for p in processes]
    assert [p.returncode for p in processes] == [0, 0], outputs
    texts = [out for out, _ in outputs]
    assert sum("built" in t for t in texts) == 1
    assert sum("nothing to build" in t for t in texts) == 1
    Bundle.open(path).verify()


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
