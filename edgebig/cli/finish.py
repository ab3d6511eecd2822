"""``edgebig finish``: builds a bundle's engine on the device that runs it."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, TextIO

import click

from edgebig.cli.console import guarded_stdout, print_json
from edgebig.cli.interrupts import interrupts
from edgebig.cli.recipe_options import asked_build, build_options

if TYPE_CHECKING:
    from edgebig.build.options import BuildOptions
    from edgebig.device.finish import Listener

_EVERY = 10.0
_EPILOG = """\b
Examples:
  edgebig finish resnet50.bundle                on a Jetson or a GPU host, once
  edgebig finish resnet50.bundle --dry-run      says what is missing, how long it takes and how much memory
  edgebig finish resnet50.bundle --force        builds anew, after a change of the power mode
  EDGEBIG_ENGINES=/data/engines edgebig finish /opt/models/resnet50.bundle
      a bundle that cannot be written: the engine goes to that folder, and 'edgebig run' finds it there

It can be interrupted, or lose its power, at any time: the bundle stays whole, and what was timed is kept."""


@click.command(epilog=_EPILOG, short_help="Builds BUNDLE's engine on this device.")
@click.argument("bundle")
@click.option("--part", metavar="NAME", help="One of the model's graphs alone; by default each.")
@click.option("-n", "--dry-run", is_flag=True, help="Says what runs here and what is missing, and builds nothing.")
@click.option("-f", "--force", is_flag=True, help="Builds also where an engine runs here already.")
@click.option("--any-device", is_flag=True, help="Builds also for another compute capability than was compiled for.")
@click.option(
    "--min-sqnr", type=float, metavar="DB", help="Takes an engine whose outputs are this near the original's."
)
@build_options
@click.option(
    "--timing-cache",
    metavar="FILE",
    help="Timings of an equal device: read where the file is there, and written with what was timed here.",
)
@click.option("--json", "as_json", is_flag=True, help="Prints one JSON object and nothing else on standard output.")
@click.option("-q", "--quiet", is_flag=True, help="Prints only errors.")
@click.pass_context
def command(
    context: click.Context,
    bundle: str,
    part: str | None,
    dry_run: bool,
    force: bool,
    any_device: bool,
    min_sqnr: float | None,
    timing_cache: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Builds the engine that BUNDLE lacks on this device, checks it and puts it into the bundle.

    The new engine answers the bundle's golden inputs first; one that differs from the original by more than the compile
    saw is not taken, and the old one is kept. Where the bundle cannot be written the engine goes to a folder of yours.
    """
    from edgebig.bundle import Bundle
    from edgebig.device.finish import finish, options_of

    options = options_of(Bundle.open(bundle), asked_build(context))
    if dry_run:
        _dry_run(bundle, part, options, as_json)
        return
    with guarded_stdout() as stdout:
        listener = _listener(sys.stderr if as_json else stdout, quiet)
        try:
            done = finish(
                bundle,
                part=part,
                options=options,
                force=force,
                any_device=any_device,
                min_sqnr=min_sqnr,
                timing_cache=timing_cache,
                listener=listener,
            )
        finally:
            interrupts.deferred = False
    if as_json:
        parts = {n: [asdict(e) for e in p.engines] for n, p in done.manifest.parts.items() if part in (None, n)}
        print_json({"bundle": bundle, "engines": parts})


def _dry_run(path: str, part: str | None, options: BuildOptions, as_json: bool) -> None:
    from edgebig.bundle import Bundle
    from edgebig.device.facts import read_facts
    from edgebig.device.preflight import machine_line, preflight
    from edgebig.device.store import with_stored

    bundle = Bundle.open(path)
    bundle.part(part or next(iter(bundle.manifest.parts)))
    with guarded_stdout():
        facts = read_facts()
        names = list(bundle.manifest.parts) if part is None else [part]
        stored = {name: with_stored(bundle, name, facts.machine) for name in names}
        found = [preflight(whole, name, facts.machine, dla=options.dla_core) for name, whole in stored.items()]
    if as_json:
        print_json({"bundle": path, "machine": facts.to_json(), "parts": {f.part: asdict(f) for f in found}})
        return
    click.echo(machine_line(facts.machine))
    click.echo("\n".join(line for one in found for line in one.lines(path)))


def _listener(stream: TextIO, quiet: bool) -> Listener:
    from edgebig.device.finish import Listener

    shown = _Shown(stream, quiet)
    return Listener(shown.say, shown.progress, shown.begin, shown.left)


class _Shown:
    """Lines for people: each thing done, and while an engine is built now and then how far it is."""

    def __init__(self, stream: TextIO, quiet: bool) -> None:
        self._stream, self._quiet = stream, quiet
        self._start = self._told = time.monotonic()
        self._left: float | None = None

    def say(self, line: str) -> None:
        """A thing that was done."""
        interrupts.deferred = False
        interrupts.check()
        self._write(line)

    def begin(self, part: str, seconds: float | None) -> None:
        """A build begins."""
        from edgebig.device.history import span

        self._start = self._told = time.monotonic()
        self._left = seconds
        about = "for a time that is unknown" if seconds is None else f"about {span(seconds)} (an estimate)"
        self._write(f"{part}: building, {about}")
        interrupts.deferred = True

    def left(self, seconds: float | None) -> None:
        """The seconds that are left, as far as they are known."""
        self._left = seconds

    def progress(self, phase: str, done: int, steps: int) -> None:
        """The builder's steps; a signal that came ends the build here."""
        interrupts.check()
        now = time.monotonic()
        if now - self._told >= _EVERY:
            from edgebig.device.history import span

            self._told = now
            about = "time left unknown" if self._left is None else f"about {span(self._left)} left"
            self._write(f"  {span(now - self._start)}, {about}: {phase} {done}/{steps}")

    def _write(self, line: str) -> None:
        if self._quiet:
            return
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except BrokenPipeError:
            self._quiet = True
