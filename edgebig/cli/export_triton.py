"""``edgebig export-triton``: a bundle as a model repository of the Triton Inference Server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edgebig.cli.console import print_json, warn

if TYPE_CHECKING:
    from edgebig.triton.model import Backend

_EPILOG = """\b
Examples:
  edgebig export-triton resnet50.bundle models/
  edgebig export-triton resnet50.bundle models/ --version 2         a further version beside the first
  edgebig export-triton minilm.bundle models/ --name search --max-batch 32 --instances 2

docs/triton.md says what the files hold, and which Triton serves them."""


@click.command(epilog=_EPILOG, short_help="Writes BUNDLE into a model repository of Triton.")
@click.argument("bundle")
@click.argument("directory")
@click.option("--name", metavar="NAME", help="The model's name; the bundle's own by default.")
@click.option("--version", type=click.IntRange(min=1), default=1, show_default=True, help="Number of the version.")
@click.option(
    "--backend",
    type=click.Choice(["auto", "tensorrt", "onnxruntime"]),
    default="auto",
    show_default=True,
    help="The engine of TensorRT, the portable graph, or the engine where there is one.",
)
@click.option("--max-batch", type=click.IntRange(min=1), metavar="N", help="Largest batch that Triton puts together.")
@click.option("--instances", type=click.IntRange(min=1), default=1, show_default=True, help="Copies that run at once.")
@click.option("-f", "--force", is_flag=True, help="Replaces a model of that name, with all its versions.")
@click.option("--json", "as_json", is_flag=True, help="Prints one JSON object and nothing else on standard output.")
@click.option("-q", "--quiet", is_flag=True, help="Prints only the models' folders.")
def command(
    bundle: str,
    directory: str,
    name: str | None,
    version: int,
    backend: Backend,
    max_batch: int | None,
    instances: int,
    force: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Writes each of BUNDLE's graphs as a model below DIRECTORY, beside the models that are there."""
    from edgebig.bundle import Bundle
    from edgebig.triton.model import triton_models
    from edgebig.triton.repository import bundle_labels, write_repository

    opened = Bundle.open(bundle)
    labels = bundle_labels(opened)
    models = triton_models(opened, name=name, backend=backend, max_batch=max_batch, instances=instances, labels=labels)
    folders = write_repository(opened, models, directory, version=version, force=force)
    if as_json:
        made = [
            {
                **{"name": m.name, "part": m.part, "folder": str(folder), "version": version, "platform": m.platform},
                **{"max_batch_size": m.max_batch, "files": dict(m.files), "notes": list(m.notes)},
            }
            for m, folder in zip(models, folders, strict=True)
        ]
        print_json({"repository": directory, "models": made})
        return
    for model, folder in zip(models, folders, strict=True):
        batch = f"batches of up to {model.max_batch}" if model.max_batch else "no batching"
        click.echo(str(folder) if quiet else f"{folder}: {model.platform}, version {version}, {batch}")
        for note in () if quiet else model.notes:
            warn(note) if note.startswith("no batching") else click.echo(f"  {note}")
