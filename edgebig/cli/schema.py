"""``edgebig schema``: the JSON Schema of a bundle's manifest, for programs in other languages."""

from __future__ import annotations

import click

_EPILOG = """\b
Examples:
  edgebig schema > manifest-2.json
  check-jsonschema --schemafile manifest-2.json resnet50.bundle/manifest.json

docs/bundle-format.md says what each field means, and how to read a bundle without Python."""


@click.command(epilog=_EPILOG)
@click.option("--json", "as_json", is_flag=True, help="Changes nothing: the schema is JSON already.")
def command(as_json: bool) -> None:
    """Prints the JSON Schema that each bundle's manifest.json fits."""
    from edgebig.manifest import SCHEMA
    from edgebig.schema import schema_text

    click.echo(schema_text(SCHEMA), nl=False)
