"""``edgebig recipes``: the recipes that ship with edgebig."""

from __future__ import annotations

import click

from edgebig.cli.console import print_json, table

_EPILOG = """\b
Use one by its name, and override what differs:
  edgebig compile ./resnet50 -r imagenet -p int8 -c photos/ -o resnet50.bundle

A recipe of your own is a YAML file with the same fields (--json shows them all)."""


@click.command(epilog=_EPILOG)
@click.option("--json", "as_json", is_flag=True, help="Prints one JSON object, with every field.")
def command(as_json: bool) -> None:
    """Lists the recipes: settings for a family of models, ready to use."""
    from edgebig.recipe import recipes

    known = recipes()
    if as_json:
        shown = [{**recipe.model_dump(mode="json"), "name": name} for name, recipe in known.items()]
        print_json({"recipes": shown})
        return
    head = ["name", "precision", "target", "task", "description"]
    rows = [[n, r.precision, r.target or "", r.task or "", r.description] for n, r in known.items()]
    click.echo("\n".join(table([head, *rows])))
