"""``edgebig inspect``: what a model or a bundle holds."""

from __future__ import annotations

import os
from pathlib import Path

import click

from edgebig.bundle import Bundle
from edgebig.cli.console import guarded_stdout, print_json
from edgebig.cli.inspect_plan import dla_facts, dla_table, plan_facts, plan_json, plan_lines
from edgebig.errors import SourceError, UsageError

_EPILOG = """\b
Examples:
  edgebig inspect model.onnx        inputs, outputs, operators, parameters
  edgebig inspect ./resnet50        a Hugging Face folder: architecture, tasks, files
  edgebig inspect model.bundle      target, files, how it was made, how near to the original
  edgebig inspect q.bundle --layers which layers cost accuracy and time
  edgebig inspect q.bundle --plan   what each layer computes with, and why"""


@click.command(epilog=_EPILOG)
@click.argument("path", metavar="MODEL|BUNDLE")
@click.option("--layers", is_flag=True, help="A bundle's layers: formats, errors, time; the worst first.")
@click.option("--plan", is_flag=True, help="A bundle's plan; with --json as 'compile --plan' takes it.")
@click.option("--json", "as_json", is_flag=True, help="Prints one JSON object.")
def command(path: str, layers: bool, plan: bool, as_json: bool) -> None:
    """Shows what a model or a bundle holds. Nothing is run or changed.

    MODEL is an .onnx file or a Hugging Face model's folder, BUNDLE a folder that 'edgebig compile' made.
    """
    place = Path(path)
    if not os.path.lexists(place):
        raise SourceError(f"no such file or folder: {path}: give an .onnx file, a Hugging Face folder or a bundle")
    with guarded_stdout():
        if place.is_file():
            from edgebig.cli import inspect_onnx as view
        elif (place / "manifest.json").is_file():
            from edgebig.cli import inspect_bundle as view  # type: ignore[no-redef]
        elif (place / "config.json").is_file():
            from edgebig.cli import inspect_huggingface as view  # type: ignore[no-redef]
        else:
            raise SourceError(
                f"{path} is neither an .onnx file, nor a folder with config.json (a Hugging Face model) "
                "or manifest.json (a bundle)"
            )
        if layers and not (place / "manifest.json").is_file():
            raise UsageError(f"--layers: {path} is no bundle: 'edgebig compile' writes a layer report into one")
        if plan and (layers or not (place / "manifest.json").is_file()):
            raise UsageError("--plan shows the plan of a bundle, and nothing else: give a bundle, without --layers")
        facts = plan_facts(Bundle.open(place)) if plan else view.facts(place)
        on_dla = dla_facts(Bundle.open(place)) if plan else {}
    if plan:
        if as_json:
            print_json(plan_json(facts) if facts else {"dla": on_dla})
        else:
            click.echo("\n".join([*plan_lines(facts), *dla_table(on_dla)]))
    elif as_json:
        print_json(facts)
    elif layers:
        from edgebig.cli.inspect_layers import layer_lines

        click.echo("\n".join(layer_lines(path, facts["layers"])))
    else:
        click.echo("\n".join(view.lines(facts)))
