"""``edgebig serve``: a bundle for the other processes of this machine."""

from __future__ import annotations

import re
import signal
from typing import TYPE_CHECKING, Any

import click

from edgebig.cli.console import print_json, size_text, table
from edgebig.cli.interrupts import interrupts
from edgebig.cli.loading import load_session
from edgebig.errors import UsageError

if TYPE_CHECKING:
    from edgebig.runtime import Session
    from edgebig.serve.layout import Layout

_EPILOG = """\b
Examples:
  edgebig serve detector.bundle --shm camera
  edgebig serve detector.bundle --shm camera --shapes image:1x3x720x1280 --slots 2 --threads 1
  edgebig serve --status camera

docs/shared-memory.md describes the memory; examples/c has a client in C, edgebig.serve.Client is one in Python."""


@click.command(epilog=_EPILOG, short_help="Serves BUNDLE to other processes through shared memory.")
@click.argument("bundle", required=False)
@click.option("--shm", "name", metavar="NAME", help="Name by which clients find it; its file is /dev/shm/edgebig.NAME.")
@click.option("--status", "asked", metavar="NAME", help="Prints what the server of that name does, and ends.")
@click.option("--slots", type=click.IntRange(1, 256), default=4, show_default=True, help="Requests under way at once.")
@click.option("--shapes", metavar="NAME:AxB,...", help="Largest shapes, where the bundle says none or larger ones.")
@click.option("--part", metavar="NAME", help="Which of the model's graphs, where it has several.")
@click.option("--threads", type=click.IntRange(min=1), help="Processor threads of one run; all cores by default.")
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Requests that run at once.")
@click.option(
    "--mode", default="600", show_default=True, help="Permissions of the memory, octal: 660 lets the group in."
)
@click.option("--spin", type=click.IntRange(0, 10_000), default=300, show_default=True, help="Microseconds, see below.")
@click.option("--json", "as_json", is_flag=True, help="Prints one JSON object: when it serves, or the status.")
def command(
    bundle: str | None,
    name: str | None,
    asked: str | None,
    slots: int,
    shapes: str | None,
    part: str | None,
    threads: int | None,
    workers: int,
    mode: str,
    spin: int,
    as_json: bool,
) -> None:
    """Serves BUNDLE to other processes of this machine through shared memory, until Ctrl-C or SIGTERM.

    Clients copy their inputs into a slot and the outputs out of it; no socket is on the way. Where requests
    follow each other within --spin microseconds the server looks for the next one that long before it sleeps.
    """
    if asked is not None:
        if bundle is not None or name is not None:
            raise UsageError("--status takes the name of a server and nothing else: leave BUNDLE and --shm out")
        _print_status(asked, as_json)
        return
    if bundle is None or name is None:
        raise UsageError("serve takes BUNDLE and --shm NAME, or --status NAME")
    if not re.fullmatch(r"0?[0-7]{3}", mode):
        raise UsageError(f"--mode takes three octal digits, as 600 or 660, found {mode!r}")
    _serve(bundle, name, slots, _shapes(shapes), part, threads, workers, int(mode, 8), spin, as_json)


def _serve(
    bundle: str,
    name: str,
    slots: int,
    shapes: dict[str, tuple[int, ...]],
    part: str | None,
    threads: int | None,
    workers: int,
    mode: int,
    spin: int,
    as_json: bool,
) -> None:
    from edgebig.bundle import Bundle
    from edgebig.serve import Server, largest_shapes, layout
    from edgebig.serve.segment import path_of, shared_words

    path = path_of(name)
    shared_words()
    with load_session(bundle, part=part, threads=threads) as session:
        sizes = largest_shapes(session, Bundle.open(bundle).part(part).profiles, shapes)
        plan = layout.plan(session.inputs, session.outputs, sizes, slots)
        server = Server(session, name, plan, mode=mode, spin_us=spin, workers=workers)
        try:
            interrupts.deferred = True  # the request at work is answered first
            _say_ready(session, str(path), plan, as_json)
            server.run(lambda: interrupts.received is not None)
        finally:
            interrupts.deferred = False
            server.close()
    if interrupts.received in (signal.SIGTERM, signal.SIGINT):
        interrupts.received = None  # the ordinary end of a server
    interrupts.check()


def _shapes(text: str | None) -> dict[str, tuple[int, ...]]:
    """``name:1x3,other:4`` by name; the last colon ends a name: as ``edgebig.recipe`` has it, which robots lack."""
    found = {}
    for item in (text or "").split(",") if text else []:
        name, colon, dims = item.strip().rpartition(":")
        if not colon or not name or not re.fullmatch(r"(\d+(x\d+)*|scalar)?", dims):
            raise UsageError(f"--shapes is written name:1x3x224x224,other:1x16; found {item.strip()!r}")
        if name in found:
            raise UsageError(f"--shapes names {name!r} twice")
        found[name] = tuple(int(d) for d in dims.split("x")) if dims not in ("", "scalar") else ()
    return found


def _say_ready(session: Session, path: str, plan: Layout, as_json: bool) -> None:
    tensors = [
        {"name": t.spec.name, "dtype": t.spec.dtype, "largest": list(t.largest), "kind": kind}
        for kind, group in (("input", plan.inputs), ("output", plan.outputs))
        for t in group
    ]
    if as_json:
        print_json(
            {"path": path, "bytes": plan.size, "slots": plan.slot_count, "backend": session.backend, "tensors": tensors}
        )
        return
    click.echo(f"serving on {path}: {plan.slot_count} slots, {size_text(plan.size)}, run by {session.backend}")
    click.echo("\n".join(_tensor_lines(tensors)))


def _tensor_lines(tensors: list[dict[str, Any]]) -> list[str]:
    return table([[t["kind"], t["name"], t["dtype"], "x".join(map(str, t["largest"])) or "scalar"] for t in tensors])


def _print_status(name: str, as_json: bool) -> None:
    from edgebig.serve import status

    found = status(name)
    if as_json:
        print_json(found)
        return
    running = f", a request has run for {found['running_ms']:.0f} ms" if found["running_ms"] is not None else ""
    lines = [f"{found['name']}: {found['state']}, process {found['pid']}{running}"]
    kinds = (("input", "inputs"), ("output", "outputs"))
    tensors = [{**tensor, "kind": kind} for kind, key in kinds for tensor in found[key]]
    lines += [f"  {line}" for line in _tensor_lines(tensors)]
    lines.append(
        f"  {found['calls']} calls, {found['refused']} refused, {found['failed']} failed; "
        f"slots of {found['reclaimed']} dead clients taken back"
    )
    for key, what in (("service_us", "in the server"), ("round_trip_us", "from request to answer")):
        if found[key] is not None:
            figures = ", ".join(f"{which} {value:.0f}" for which, value in found[key].items())
            lines.append(f"  {what}, at most, µs: {figures}")
    taken = sum(len(client["slots"]) for client in found["clients"])
    lines.append(f"  {taken} of {found['slots']} slots taken")
    lines += [f"    process {c['pid']}, {c['state']}: {', '.join(c['slots'])}" for c in found["clients"]]
    click.echo("\n".join(lines))
