"""The ``edgebig`` command: finds the subcommand, runs it, and turns every error into one line and an exit code."""

from __future__ import annotations

import os
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

import click

from edgebig import __version__
from edgebig.cli.console import print_json
from edgebig.cli.extras import missing_extra
from edgebig.cli.interrupts import interrupts
from edgebig.errors import EdgebigError

_COMMANDS: tuple[str, ...] = (
    "compile",
    "finish",
    "run",
    "inspect",
    "bench",
    "eval",
    "debug",
    "targets",
    "recipes",
    "doctor",
)
_COMMANDS += ("timing-cache",)
_MODULES = {"eval": "evaluate", "timing-cache": "timing_cache"}
_BROKEN_PIPE = 141
_EPILOG = """\b
Examples:
  edgebig doctor                                      what this machine can do
  edgebig compile model.onnx -o model.bundle          for this machine's processor
  edgebig compile ./resnet50 -t l4 -p fp16 -o r.bundle
  edgebig finish r.bundle                             on the device: builds the engine there
  edgebig run model.bundle -i image=cat.jpg
  edgebig bench model.bundle

Each command explains itself: edgebig COMMAND -h."""


class _Commands(click.Group):
    """Imports a subcommand's module when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of a first day's work."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of the module of that name; ``None`` if there is none."""
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = import_module(f"edgebig.cli.{_MODULES.get(cmd_name, cmd_name)}").command
        return command


@click.group(
    cls=_Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog=_EPILOG,
)
@click.version_option(__version__, prog_name="edgebig")
@click.pass_context
def cli(context: click.Context) -> None:
    """A trained model goes in, a verified bundle for a named device comes out, and runs there."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command line and ends the process with its exit code.

    Args:
        arguments: without the program's name; the process's own by default.
    """
    args = list(sys.argv[1:] if arguments is None else arguments)
    _prepare_process()
    try:
        code = _run(args)
        sys.stdout.flush()
    except BrokenPipeError:
        _drop_stdout()
        code = _BROKEN_PIPE
    sys.exit(code)


def _run(args: list[str]) -> int:
    json_wanted = "--json" in args
    try:
        with cli.make_context("edgebig", args) as context:
            cli.invoke(context)
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as error:
        return _report("UsageError", _of_click(error), error.exit_code, json_wanted)
    except BrokenPipeError:
        raise
    except (Exception, KeyboardInterrupt) as error:
        if interrupts.received is not None or isinstance(error, KeyboardInterrupt):  # whatever the signal led to
            code = 128 + (interrupts.received or signal.SIGINT)
            return _report("KeyboardInterrupt", "interrupted", code, json_wanted)
        if isinstance(error, EdgebigError):
            return _report(type(error).__name__, str(error), error.exit_code, json_wanted)
        missing = missing_extra(error) if isinstance(error, ImportError) else None
        if missing is not None:
            return _report("MissingExtra", str(missing), missing.exit_code, json_wanted)
        message = (
            f"internal error: {type(error).__name__}: {error}"[:500]
            + ": this is a bug; run again with EDGEBIG_TRACEBACK=1 to see where"
        )
        return _report(type(error).__name__, message, 1, json_wanted)
    return 0


def _report(kind: str, message: str, code: int, json_wanted: bool) -> int:
    if os.environ.get("EDGEBIG_TRACEBACK"):
        traceback.print_exc(file=sys.stderr)
    line = " ".join(message.split())
    prefix = "" if line.startswith(("internal error:", "interrupted")) else "error: "
    click.echo(f"edgebig: {prefix}{line}", err=True)
    if json_wanted:
        print_json({"error": {"class": kind, "message": line, "exit_code": code}})
    return code


def _of_click(error: click.ClickException) -> str:
    context = error.ctx if isinstance(error, click.UsageError) else None
    path = context.command_path if context is not None else "edgebig"
    return f"{error.format_message().rstrip('.')}: see '{path} -h'"


def _prepare_process() -> None:
    """Streams that always print, no warnings or telemetry of libraries, and a clean end on signals."""
    for name in ("stdin", "stdout", "stderr"):  # None where the descriptor was closed
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # "…" on a terminal that knows only ASCII
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    interrupts.watch()


def _drop_stdout() -> None:
    """The interpreter flushes standard output at its end; there is no reader."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        return
