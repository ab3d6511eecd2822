"""``edgebig targets``: the devices that edgebig knows."""

from __future__ import annotations

from itertools import groupby

import click

from edgebig.cli.console import print_json, table

_EPILOG = """\b
How an engine comes to be:
  host        ONNX Runtime runs the graph on the processor
  ahead       TensorRT-RTX builds the engine when the model is compiled, with no GPU
  on-device   the graph is compiled and checked here, the engine is built on the device

A file of your own has the form of one row: see docs/targets.md."""


@click.command(epilog=_EPILOG)
@click.option("--json", "as_json", is_flag=True, help="Prints one JSON object, with every figure and its source.")
def command(as_json: bool) -> None:
    """Lists the devices that a model can be compiled for."""
    from edgebig.target import targets

    known = list(targets().values())
    if as_json:
        print_json({"targets": [target.model_dump(mode="json") for target in known]})
        return
    head = ["name", "engine", "compute", "memory", "precisions", "description"]
    rows = [
        [
            target.name,
            target.engine,
            target.compute_capability or "",
            f"{target.memory_gb:g} GB" if target.memory_gb else "",
            " ".join(target.precisions),
            target.description,
        ]
        for target in known
    ]
    heading, *lines = table([head, *rows], right=[2, 3], indent=2)
    click.echo(heading)
    for group, members in groupby(zip(known, lines, strict=True), key=lambda pair: pair[0].group):
        click.echo("\n".join([f"\n{group}", *(line for _, line in members)]))
