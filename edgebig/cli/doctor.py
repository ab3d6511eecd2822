"""``edgebig doctor``: what this machine has, and what each target would need."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from edgebig.cli.console import guarded_stdout, print_json, size_text, table
from edgebig.cli.extras import absent_modules, missing_extra
from edgebig.errors import BackendError, UsageError
from edgebig.manifest import this_architecture

if TYPE_CHECKING:
    from edgebig.target import Target

_EPILOG = """\b
Examples:
  edgebig doctor
  edgebig doctor --json > machine.json      to send along with a question
  edgebig doctor --need gpu,tensorrt        fails (exit code 16) where one of them is missing: for health checks"""

_NEEDS = ("gpu", "tensorrt", "tensorrt-rtx", "onnxruntime")


@click.command(epilog=_EPILOG, short_help="Says what this machine has and can compile.")
@click.option(
    "--need",
    metavar="NAME,...",
    help=f"Fails where one of these is missing or does not load: {', '.join(_NEEDS)}.",
)
@click.option("--json", "as_json", is_flag=True, help="Prints one JSON object.")
def command(need: str | None, as_json: bool) -> None:
    """Says what this machine has, and what it can compile for each target."""
    from edgebig.cli.machine import machine_facts

    needs = _parse_needs(need)
    with guarded_stdout():
        facts = machine_facts()
        lacks = [line for name in needs for line in _lacks(name, facts["engines"])]
        if lacks:
            raise BackendError(f"this machine lacks what is needed: {'; '.join(lacks)}")
        verdicts, problem = _verdicts()
    if as_json:
        print_json({**facts, "targets": verdicts, "targets_need": problem})
        return
    click.echo("\n".join([*_machine_lines(facts), "", *_extra_lines(facts), "", *_target_lines(verdicts, problem)]))


def _verdicts() -> tuple[dict[str, str] | None, str | None]:
    """What each target needs here; or ``None`` and why the table cannot be read."""
    try:
        from edgebig.target import targets
    except ImportError as error:
        missing = missing_extra(error)
        if missing is None:
            raise
        return None, str(missing)
    return {name: verdict(target) for name, target in targets().items()}, None


def _parse_needs(need: str | None) -> list[str]:
    names = [] if need is None else [name.strip() for name in need.split(",")]
    unknown = [name for name in names if name not in _NEEDS]
    if unknown:
        raise UsageError(f"--need {need}: no such thing as {unknown[0]!r}: choose of {', '.join(_NEEDS)}")
    return names


def _lacks(name: str, engines: dict[str, Any]) -> list[str]:
    """Why a thing that is needed is not there; empty where it is."""
    if name == "gpu":
        from edgebig.device.facts import read_facts

        facts = read_facts(versions=(None, None))
        return [] if facts.machine.capability else [f"gpu: {facts.problem}"]
    found = engines[name.replace("-", "_")]
    if found is None:
        return [f"{name}: not installed"]
    return [f"{name}: it does not load: {found['problem']}"] if "problem" in found else []


def verdict(target: Target) -> str:
    """One line: whether this machine compiles for the target, and where the result runs."""
    needs = ["compile", "rtx"] if target.is_nvidia else ["compile"]
    absent = [extra for extra in needs if absent_modules(extra)]
    extras = f"edgebig[{','.join(absent or needs)}]"
    if absent:
        return f'compile here: not yet: pip install "{extras}"'
    if target.engine == "on-device":
        return "the graph can be compiled and parser-checked here, the engine is built on the device"
    if target.engine == "ahead":
        capability = f"compute capability {target.compute_capability}"
        return f"compile here: yes, engine and all ({extras} is installed); runs on {capability}"
    here = this_architecture()
    if target.architecture in ("native", "any", here):
        return f"compile here: yes ({extras} is installed); runs here"
    return f"compile here: yes ({extras} is installed); runs on {target.architecture}"


def _machine_lines(facts: dict[str, Any]) -> list[str]:
    cpu, memory = facts["cpu"], facts["memory"]
    extensions = " ".join(cpu["extensions"]) or "no vector extensions that are known"
    rows = [
        ["Python", facts["python"]],
        ["system", facts["system"]],
        ["processor", f"{cpu['model']}, {cpu['architecture']}, {cpu['cores']} cores: {extensions}"],
    ]
    if memory["total_bytes"] is not None:
        free = memory["available_bytes"]
        rows.append(["memory", size_text(memory["total_bytes"]) + (f", {size_text(free)} free" if free else "")])
    for gpu in facts["gpus"]:
        capability = f"compute capability {gpu['compute_capability']}"
        rows.append(["GPU", f"{gpu['name']}, {gpu['memory']}, {capability}, driver {gpu['driver']}"])
    if facts["jetson"] is not None:
        jetson = facts["jetson"]
        rows.append(["Jetson", f"{jetson['model']}, L4T {jetson['l4t']}, JetPack {jetson['jetpack']}"])
        rows.append(["power mode", f"{jetson['power_mode']}, GPU clocks {jetson['clocks']}"])
    if not facts["gpus"] and facts["jetson"] is None:
        rows.append(["GPU", "none that nvidia-smi shows"])
    rows += [[name, _engine_text(found)] for name, found in facts["engines"].items()]
    return table(rows)


def _engine_text(found: dict[str, Any] | None) -> str:
    if found is None:
        return "not installed"
    if "problem" in found:
        return f"{found['version']}, but it does not load: {found['problem']}"
    providers = ", ".join(found.get("providers", ()))
    return f"{found['version']}: {providers}" if providers else str(found["version"])


def _extra_lines(facts: dict[str, Any]) -> list[str]:
    rows = [
        [f"edgebig[{extra}]", "complete" if found["complete"] else f"lacks {', '.join(found['absent'])}"]
        for extra, found in facts["extras"].items()
    ]
    return table(rows)


def _target_lines(verdicts: dict[str, str] | None, problem: str | None) -> list[str]:
    if verdicts is None:
        return [f"targets: {problem}"]
    return table([[name, line] for name, line in verdicts.items()])
