"""``edgebig timing-cache``: what TensorRT timed on this device, from one device of a fleet to the others."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgebig.cli.console import guarded_stdout, print_json, size_text, table
from edgebig.errors import UsageError

if TYPE_CHECKING:
    from edgebig.compatibility import Machine
    from edgebig.device.timing import TimingEntry

_EPILOG = """\b
Examples:
  edgebig finish resnet50.bundle                     on one device of a fleet
  edgebig timing-cache export fleet.timing
  edgebig timing-cache import fleet.timing           on the others, which are equal; then finish there
  edgebig finish resnet50.bundle --timing-cache fleet.timing
      reads the file where it is there, and writes it

A timing cache holds for one TensorRT version, one device and one set of builder flags. With it a build times only what
is new. TensorRT-RTX times nothing, and has none."""


@click.group(
    epilog=_EPILOG, invoke_without_command=True, short_help="What TensorRT timed here, for the others of a fleet."
)
@click.pass_context
def command(context: click.Context) -> None:
    """Shows and moves the timing caches that 'edgebig finish' keeps on this device.

    They lie in EDGEBIG_ENGINES, or in edgebig/engines of the user's cache folder, in timing/.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


_json = click.option("--json", "as_json", is_flag=True, help="Prints one JSON object.")


@command.command("list")
@_json
def list_command(as_json: bool) -> None:
    """Names the caches with what each holds for."""
    from edgebig.device.history import timing_folder
    from edgebig.device.timing import timing_entries

    entries = timing_entries()
    if as_json:
        print_json({"folder": str(timing_folder()), "caches": [_facts(entry) for entry in entries]})
        return
    if not entries:
        click.echo(f"no timing cache in {timing_folder()}: 'edgebig finish' makes one where TensorRT builds")
        return
    rows = [["name", "TensorRT", "device", "flags", "size", ""], *map(_row, entries)]
    click.echo("\n".join(table(rows, right=[4])))


@command.command("export", short_help="Writes a cache to a file, for an equal device.")
@click.argument("file", metavar="FILE|FOLDER")
@click.option("--name", metavar="NAME", help="Which cache, as 'list' names it; needed where there are several.")
@_json
def export_command(file: str, name: str | None, as_json: bool) -> None:
    """Writes a cache to FILE, or all into a FOLDER that is there, for 'import' on an equal device."""
    from edgebig.device.timing import export_timing

    done = export_timing(Path(file), name)
    if as_json:
        print_json({"exported": [{**_facts(entry), "file": str(place)} for entry, place in done]})
        return
    for entry, place in done:
        later = f"; {entry.pending} imported files are not in it before the next build" if entry.pending else ""
        click.echo(f"{place}: {_held(entry)}, {size_text(entry.bytes)}{later}")


@command.command("import", short_help="Takes in what another device exported.")
@click.argument("file", metavar="FILE|FOLDER")
@_json
def import_command(file: str, as_json: bool) -> None:
    """Takes in FILE, or each cache in FOLDER; the next build of its kind joins it with this device's own."""
    from edgebig.device.timing import import_timing

    with guarded_stdout():
        taken, machine = import_timing(Path(file)), _machine()
    notes = [_note(entry, machine) for entry in taken]
    if as_json:
        print_json({"imported": [{**_facts(e), "note": n} for e, n in zip(taken, notes, strict=True)]})
        return
    for entry, note in zip(taken, notes, strict=True):
        click.echo(f"taken in: {_held(entry)}, {size_text(entry.bytes)}{f': {note}' if note else ''}")


@command.command("clear", short_help="Removes caches.")
@click.argument("names", metavar="NAME...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All of this device.")
@_json
def clear_command(names: tuple[str, ...], everything: bool, as_json: bool) -> None:
    """Removes caches, by the names that 'list' gives, or --all. The next build times everything anew."""
    from edgebig.device.timing import clear_timing

    if bool(names) == everything:
        raise UsageError("clear: name the caches to remove ('edgebig timing-cache list' has them), or give --all")
    count = clear_timing(None if everything else list(names))
    if as_json:
        print_json({"removed": count})
    else:
        click.echo(f"{count} timing cache{'' if count == 1 else 's'} removed")


def _machine() -> Machine:
    from edgebig.device.facts import read_facts

    return read_facts().machine


def _note(entry: TimingEntry, machine: Machine) -> str:
    """Why this machine's builds will not read a cache; empty where they will, and where no GPU is seen."""
    from edgebig.device.timing import device_key

    key, version = entry.key, machine.tensorrt
    if key is None or machine.capability is None:
        return ""
    if version is None:
        return "no TensorRT is installed here that would read it"
    if (key.version, key.device) != (version, device_key(machine)):
        return f"builds here do not read it: this is {device_key(machine)}, TensorRT {version}"
    return ""


def _held(entry: TimingEntry) -> str:
    key = entry.key
    if key is None:
        return entry.problem
    return f"TensorRT {key.version} on {key.device}{f' ({key.flags})' if key.flags else ''}"


def _row(entry: TimingEntry) -> list[str]:
    key = entry.key
    if key is None:
        return [entry.name, "", "", "", "", entry.problem]
    more = f"and {entry.pending} imported, joined by the next build" if entry.pending else ""
    return [entry.name, key.version, key.device, key.flags or "none", size_text(entry.bytes), more]


def _facts(entry: TimingEntry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "file": str(entry.path),
        "key": None if entry.key is None else asdict(entry.key),
        "bytes": entry.bytes,
        "pending": entry.pending,
        "problem": entry.problem,
    }
