"""Finishing: the device builds the engine that only it can build, once, and puts it into the bundle."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edgebig.build.flavour import Flavour, find_flavours
from edgebig.build.options import BuildOptions
from edgebig.build.profiles import Profile
from edgebig.build.tensorrt import build_engine
from edgebig.build.timing_cache import TimingCache
from edgebig.bundle import FINISHED, MANIFEST, Bundle, Engine, Part, hash_file, manifest_text, sync
from edgebig.compatibility import Machine, sm
from edgebig.device.facts import Facts, read_facts
from edgebig.device.folders import clean, hold, is_open, is_writable
from edgebig.device.golden import OpenEngine, check_golden, open_engine
from edgebig.device.history import Expected, History, TimeLeft, timing_folder
from edgebig.device.preflight import Preflight, machine_line, preflight, this_build
from edgebig.device.store import Store, engines_folder, with_stored, write_synced
from edgebig.device.timing import device_key, remove_partials
from edgebig.errors import BackendError, OutputError, TargetError, UsageError

Say = Callable[[str], None]
Progress = Callable[[str, int, int], None]
"""Called with the builder's phase, the steps done and the number of steps."""

_SPARE = 16 << 20


@dataclass(frozen=True)
class Listener:
    """What hears of a finish.

    Attributes:
        say: takes a line for each thing done.
        progress: takes the builder's steps.
        begin: told before a build of a part, with the seconds that it may take where they are known.
        left: told with each step, before it, the seconds that are left; ``None`` where they are unknown.
    """

    say: Say = lambda line: None
    progress: Progress = lambda phase, done, steps: None
    begin: Callable[[str, float | None], None] = lambda part, seconds: None
    left: Callable[[float | None], None] = lambda seconds: None


def finish(
    path: str | os.PathLike[str],
    *,
    part: str | None = None,
    options: BuildOptions | None = None,
    force: bool = False,
    any_device: bool = False,
    min_sqnr: float | None = None,
    timing_cache: str | os.PathLike[str] | None = None,
    listener: Listener | None = None,
    facts: Facts | None = None,
    opened: OpenEngine = open_engine,
) -> Bundle:
    """Builds the engines that a bundle lacks for this machine.

    Every file of the bundle is checked first. Of several processes one builds, the others wait and find its engine.
    A new engine is compared with the bundle's evidence before it takes the old one's place. Whenever the process ends,
    also by a loss of power, the bundle is whole: the old one or the new one. What was timed is kept.

    Args:
        path: the bundle's folder. Where it cannot be written the engine goes to
            :func:`edgebig.device.store.engines_folder`.
        part: one of the model's graphs; by default each.
        options: settings of the builder; by default those that the compile was asked for.
        force: build also where an engine runs here already.
        any_device: build also for another compute capability than the bundle's target has.
        min_sqnr: what the engine's outputs must reach, in decibels, instead of what the compile's evidence asks.
        timing_cache: a file of timings that goes from device to equal device: read where it is there, and written
            with what was timed here.
        listener: told of what happens.
        facts: the machine; looked at here by default.
        opened: opens the new engine for the comparison.

    Returns:
        The bundle with the engines that run here.

    Raises:
        BundleError: not a bundle, or a damaged one.
        UsageError: the bundle is for a processor, or the timing cache for another device, version or flags.
        BackendError: no TensorRT or no GPU is here, or the new engine does not run.
        TargetError: the bundle is for another compute capability.
        BuildError: the builder refuses the graph.
        AccuracyError: the new engine differs; the old one is kept.
        OutputError: the disk is full, or neither the bundle nor the folder for engines can be written.
    """
    listener, bundle = listener or Listener(), Bundle.open(path)
    options = options_of(bundle) if options is None else options
    shared = None if timing_cache is None else Path(timing_cache)
    names = list(bundle.manifest.parts) if part is None else [part]
    bundle.part(names[0])
    facts = facts or read_facts()
    flavour = check_machine(bundle, facts, any_device)
    listener.say(machine_line(facts.machine))
    _check_asked(options, facts.machine, min_sqnr)
    with ExitStack() as held:
        hold(bundle, held, listener.say)
        bundle = Bundle.open(path)
        bundle.verify()
        clean(bundle)
        stored: list[tuple[str, Engine, Path]] = []
        for name in names:
            whole = with_stored(bundle, name, facts.machine)
            found = preflight(whole, name, facts.machine, dla=options.dla_core)
            if found.fitting is not None and not force:
                said = f"{found.fitting.path} runs here: nothing to build"
                listener.say(f"{name}: {said}{_aside(found.fitting, flavour, options)}")
                if found.fitting not in bundle.part(name).engines:
                    stored.append((name, found.fitting, whole.file(found.fitting.path)))
                continue
            work = _Finishing(bundle, name, flavour, options, facts, listener, shared)
            bundle = work.run(found, opened, min_sqnr)
    for name, engine, place in stored:  # not before: what is published must lie in the bundle
        bundle = bundle.with_engine(name, engine, place)
    return bundle


def _check_asked(options: BuildOptions, machine: Machine, min_sqnr: float | None) -> None:
    if min_sqnr is not None and math.isnan(min_sqnr):
        raise UsageError("the least SQNR is a number of decibels, found nan")
    if options.hardware_compatible == "ampere+" and machine.is_jetson:
        raise UsageError(
            "hardware compatibility ampere+ is for discrete GPUs: TensorRT lacks it on a Jetson: leave it out"
        )
    if options.dla_core is not None and machine.dla_cores == 0:
        raise TargetError(f"DLA core {options.dla_core} was asked for and this machine has no DLA: leave it out")


def _aside(engine: Engine, flavour: Flavour, options: BuildOptions) -> str:
    """What to add where an engine runs, but another one could be built: of other options, or of the full TensorRT."""
    if engine.kind != flavour.name:
        return f" ({flavour} is here too: --force builds an engine of it, which goes first)"
    asked, built = json.loads(options.key()), {}
    with suppress(KeyError, TypeError, ValueError):  # an engine of an older edgebig, or of somebody else
        built = dict(json.loads((engine.built or {})["options"]))
    if any(value != asked[name] for name, value in built.items() if name in asked):
        return " (other options were asked for: --force builds it anew with them)"
    return ""


def options_of(bundle: Bundle, asked: Mapping[str, Any] | None = None) -> BuildOptions:
    """The builder's options that the bundle's recipe has, and those that are asked for here, which win.

    Raises:
        UsageError: a value that its option cannot take.
    """
    kept = bundle.manifest.recipe.get("build")
    return BuildOptions.of({**(kept if isinstance(kept, dict) else {}), **(asked or {})})


def check_machine(bundle: Bundle, facts: Facts, any_device: bool) -> Flavour:
    """The TensorRT that builds here.

    Raises:
        UsageError, BackendError, TargetError: as :func:`finish`.
    """
    target, machine = bundle.manifest.target, facts.machine
    wanted = target.get("compute_capability")
    if wanted is None:
        raise UsageError(f"{bundle.path} is for {target.get('name')}, a processor: it needs no finishing")
    if machine.capability is None:
        raise BackendError(
            f"cannot finish {bundle.path} here: {facts.problem or 'no GPU is seen'}: finish it on the device"
        )
    flavour = next((f for f in find_flavours() if machine.version_of(f.name)), None)
    if flavour is None:
        raise BackendError(
            f"cannot finish {bundle.path} here: no TensorRT is installed for this Python: JetPack brings one (make the "
            'environment with --system-site-packages); elsewhere pip install tensorrt, or "edgebig[rtx]"'
        )
    if machine.capability != wanted and not any_device:
        raise TargetError(
            f"{bundle.path} was compiled for {target.get('name')} ({sm(str(wanted))}), this machine is "
            f"{machine_line(machine)}: compile it for this device, or build all the same with --any-device"
        )
    return flavour


class _Finishing:
    """One part of a bundle whose engine is built; the lock is held."""

    def __init__(
        self,
        bundle: Bundle,
        part: str,
        flavour: Flavour,
        options: BuildOptions,
        facts: Facts,
        listener: Listener,
        shared: Path | None,
    ) -> None:
        self.shared = shared
        self.bundle, self.name, self.part = bundle, part, bundle.part(part)
        self.flavour, self.options, self.facts, self.listener = flavour, options, facts, listener
        self.machine: Machine = facts.machine
        self.is_writable = is_open(bundle)

    def run(self, found: Preflight, opened: OpenEngine, min_sqnr: float | None) -> Bundle:
        """Builds, compares, and puts the engine into its place."""
        engine = self._planned()
        final = self._final(engine)
        self._check_space(final.parent, found)
        try:
            built = self._build(found)
            engine = replace(engine, built={**(engine.built or {}), "seconds": round(built[1], 3)})
            trial = final.with_name(f".{final.name}.trial")
            try:
                write_synced(trial, built[0])
                del built
                view = self.bundle.with_engine(self.name, engine, trial)
                self.listener.say(check_golden(view, self.name, engine, opened, min_sqnr))
                os.replace(trial, final)
                sync(final.parent)
            finally:
                with suppress(OSError):
                    trial.unlink()
            return self._publish(engine, final)
        except OSError as error:
            advice = ": free some space and run it again" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
            raise OutputError(f"cannot write {final.parent}: {error.strerror or error}{advice}") from error

    def _planned(self) -> Engine:
        capability = str(self.machine.capability)
        plain = f"{self.name}.{self.flavour.name}-{self.flavour.version}.{sm(capability)}"
        path = f"{FINISHED}{plain}.{datetime.now(timezone.utc):%Y%m%dT%H%M%S%f}.engine"
        return Engine(
            path=path,
            kind=self.flavour.name,
            version=self.flavour.version,
            hardware=(capability,),
            profiles=tuple(s for s in (self.part.profiles, *self.part.more_profiles) if s),
            version_compatible=self.options.version_compatible,
            hardware_compatible=self.options.hardware_compatible == "ampere+",
            dla=self.options.dla_core,
            stripped=self.options.strip_weights,
            weight_streaming=self.options.streaming,
            built={
                **self.facts.built(),
                "hardware_level": self.options.hardware_compatible,
                "options": self.options.key(),
                "graph": self.bundle.manifest.files[self.part.graph].sha256,
                "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            },
        )

    def _final(self, engine: Engine) -> Path:
        if self.is_writable:
            return self.bundle.path / engine.path
        store = Store(self.bundle)
        final = store.place(self.name, engine, self.machine.device)
        with suppress(OSError):
            store.make()
        if not is_writable(final.parent):
            raise OutputError(
                f"cannot write {self.bundle.path}, nor {engines_folder()}: make one of them writable, or name another "
                "folder with EDGEBIG_ENGINES"
            )
        if not store.is_safe():
            raise OutputError(
                f"cannot keep an engine in {final.parent}: others can write there, and an engine is code: "
                f"chmod -R go-w {engines_folder()}, or name another folder with EDGEBIG_ENGINES"
            )
        self.listener.say(f"{self.bundle.path} cannot be written: the engine goes to {final.parent}")
        return final

    def _check_space(self, folder: Path, found: Preflight) -> None:
        needed = found.weight_bytes + found.weight_bytes // 8 + _SPARE if found.weight_bytes else 0
        exists = next(f for f in (folder, *folder.parents) if f.is_dir())
        free = shutil.disk_usage(exists).free
        if free < needed:
            raise OutputError(
                f"cannot write {folder}: the engine may need {needed / 1e6:.0f} MB, {free / 1e6:.0f} MB are free: "
                "free some space and run it again"
            )

    def _build(self, found: Preflight) -> tuple[bytes, float]:
        listener, machine = self.listener, self.machine
        for line in found.dla:
            listener.say(f"{self.name}: {line}")
        listener.begin(self.name, found.seconds)
        remove_partials()
        cache = TimingCache.open(timing_folder(), self.flavour, device_key(machine), self.options)
        shared = self.shared if self.flavour.has_timing_cache else None
        if shared is not None and shared.exists():
            cache.join(shared)
        past = this_build(self.bundle, self.name, machine, self.flavour.name)
        clock = TimeLeft(Expected(found.seconds, found.basis, found.marks))

        def progress(phase: str, done: int, steps: int) -> None:
            listener.left(clock.step(phase, done))
            listener.progress(phase, done, steps)

        capability = str(machine.capability)
        built = build_engine(
            self.bundle.path / self.part.graph,
            self.flavour,
            profiles=_profiles(self.part),
            options=self.options,
            capabilities=(capability,) if self.flavour.builds_ahead else (),
            timing_cache=cache,
            progress=progress,
        )
        History().add(replace(past, seconds=built.seconds, marks=clock.marks(built.seconds)))
        if built.layers:
            names = ", ".join(built.beside_dla[:3])
            rest = f"the GPU runs {len(built.beside_dla)} ({names}{', …' if len(built.beside_dla) > 3 else ''})"
            taken = built.layers - len(built.beside_dla)
            listener.say(f"{self.name}: the DLA takes {taken} of {built.layers} layers{'; ' + rest if names else ''}")
        if cache.declined:
            listener.say(f"{self.name}: TensorRT declined a timing cache, of another CUDA or driver: timed anew")
        if shared is not None:
            try:
                cache.export(shared)
            except (OutputError, UsageError) as error:  # the engine is worth more
                listener.say(f"{self.name}: {error}")
        elif self.shared is not None:
            listener.say(f"{self.name}: {self.flavour} times nothing: {self.shared} is left alone")
        size = f"{len(built.engine) / 1e6:.1f} MB"
        listener.say(f"{self.name}: {self.flavour} built {size} for {sm(capability)} in {built.seconds:.1f} s")
        return built.engine, built.seconds

    def _publish(self, engine: Engine, final: Path) -> Bundle:
        if not self.is_writable:
            Store(self.bundle).add(self.name, engine, final)
            Store(self.bundle).clean()
            return self.bundle.with_engine(self.name, engine, final)
        replaced = [e for e in self.part.engines if self._is_replaced_by(e, engine)]
        kept = tuple(e for e in self.part.engines if e not in replaced)
        gone = {e.path for e in replaced}
        files = {name: file for name, file in self.bundle.manifest.files.items() if name not in gone}
        manifest = replace(
            self.bundle.manifest,
            parts={**self.bundle.manifest.parts, self.name: replace(self.part, engines=(engine, *kept))},
            files={**files, engine.path: hash_file(final)},
        )
        write_synced(self.bundle.path / FINISHED / MANIFEST, manifest_text(manifest).encode())
        os.replace(self.bundle.path / FINISHED / MANIFEST, self.bundle.path / MANIFEST)
        sync(self.bundle.path)
        bundle = Bundle.open(self.bundle.path)
        clean(bundle)
        self.listener.say(f"{self.name}: {engine.path} is in the bundle")
        return bundle

    def _is_replaced_by(self, old: Engine, new: Engine) -> bool:
        """Engines that came with the bundle stay; a device's own are replaced by its next one."""
        same = (old.kind, old.hardware, old.dla) == (new.kind, new.hardware, new.dla)
        return old.path.startswith(FINISHED) and same


def _profiles(part: Part) -> Sequence[dict[str, Profile]]:
    sets = [s for s in (part.profiles, *part.more_profiles) if s]
    return [{n: Profile(tuple(p["min"]), tuple(p["opt"]), tuple(p["max"])) for n, p in s.items()} for s in sets]
