"""``edgebig compile``: a trained model to a bundle."""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from edgebig.cli.console import guarded_stdout, print_json, size_text, table
from edgebig.cli.interrupts import interrupts
from edgebig.cli.progress import shown_progress
from edgebig.cli.recipe_options import (
    accuracy_options,
    asked_recipe,
    build_options,
    calibration_options,
    golden_options,
)
from edgebig.errors import UsageError

if TYPE_CHECKING:
    from edgebig.bundle import Bundle
    from edgebig.stages import Event, Listener

_PRECISIONS = ("fp32", "fp16", "bf16", "int8", "fp8", "int4", "int8-weights", "nvfp4", "mxfp8", "auto")
_EPILOG = """\b
Examples:
  edgebig compile model.onnx -o model.bundle
      for this machine's processor, in float32
  edgebig compile model.onnx -t l4 -p fp16 -o model.bundle
      a TensorRT-RTX engine for an NVIDIA L4; no GPU is needed here
  edgebig compile ./resnet50 -r imagenet -p int8 -c photos/ -o resnet50.bundle
      a Hugging Face model to INT8, calibrated with a folder of pictures
  edgebig compile ./minilm -r sentence-embedding -c ready:sentences -o minilm.bundle
      with a calibration set that ships with edgebig
  edgebig compile vad.onnx --freeze sr=16000 -s input:1x512,state:2x1x128 -o vad.bundle
      one input becomes a constant, the others get fixed shapes

SPEC names inputs and their sizes: name:1x3x224x224,other:1x16."""


def _frozen(
    context: click.Context, parameter: click.Parameter, texts: tuple[str, ...]
) -> dict[str, int | float | bool] | None:
    """The values of ``NAME=VALUE`` by name: an integer, a float, ``true`` or ``false`` each."""
    found: dict[str, int | float | bool] = {}
    for text in texts:
        name, _, value = text.rpartition("=")
        number = _number(value.strip())
        if not name or number is None:
            raise click.BadParameter(f"expected NAME=VALUE with a number, true or false (sr=16000), found {text!r}")
        found[name] = number
    return found or None


def _number(text: str) -> int | float | bool | None:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if re.fullmatch(r"[+-]?\d+", text):
        return int(text)
    try:
        return float(text)
    except ValueError:
        return None


@click.command(epilog=_EPILOG)
@click.argument("model")
@click.option("-o", "--output", "out", metavar="BUNDLE", required=True, help="Folder to write; it must not exist yet.")
@click.option(
    "-t", "--target", metavar="NAME|FILE", help="The device, from 'edgebig targets' or a YAML file.  [default: cpu]"
)
@click.option("-r", "--recipe", metavar="NAME|FILE", help="What to do, from 'edgebig recipes' or a YAML file.")
@click.option("--task", metavar="TASK", help="What a Hugging Face model is for; found from its config otherwise.")
@click.option("-p", "--precision", type=click.Choice(_PRECISIONS), help="Number format.  [default: fp32]")
@accuracy_options
@click.option(
    "-c",
    "--calib",
    metavar="PATH",
    help="Samples of what the model will see: a file or folder of .npy, .npz, Parquet, pictures, .wav, .jsonl or .txt, "
    "a folder of Hugging Face datasets, or ready:NAME.",
)
@calibration_options
@golden_options
@click.option(
    "-s", "--shapes", metavar="SPEC", multiple=True, help="Fixed sizes of inputs: name:1x3x224x224,other:1x16."
)
@click.option("--min-shapes", metavar="SPEC", multiple=True, help="Smallest sizes of inputs, where they vary.")
@click.option("--opt-shapes", metavar="SPEC", multiple=True, help="Sizes that must be fastest.")
@click.option(
    "--max-shapes", metavar="SPEC", multiple=True, help="Largest sizes. Repeat all three for a further set of shapes."
)
@click.option(
    "--freeze",
    metavar="NAME=VALUE",
    multiple=True,
    callback=_frozen,
    help="Makes an input a constant (sr=16000); repeatable.",
)
@click.option("--capabilities", metavar="LIST", help="Compute capabilities that one engine is to serve: 8.6,8.9.")
@build_options
@click.option("--keep-original", is_flag=True, help="Keeps the float32 graph too, so that 'bench' can compare.")
@click.option("-f", "--force", is_flag=True, help="Replaces a bundle that is already there.")
@click.option("--json", "as_json", is_flag=True, help="Prints one JSON object and nothing else on standard output.")
@click.option("-v", "--verbose", is_flag=True, help="Says what each stage did, and what it left and why.")
@click.option("-q", "--quiet", is_flag=True, help="Prints only the bundle's path, and errors.")
@click.pass_context
def command(
    context: click.Context,
    model: str,
    out: str,
    target: str | None,
    recipe: str | None,
    task: str | None,
    precision: str | None,
    calib: str | None,
    shapes: tuple[str, ...],
    min_shapes: tuple[str, ...],
    opt_shapes: tuple[str, ...],
    max_shapes: tuple[str, ...],
    freeze: dict[str, int | float | bool] | None,
    capabilities: str | None,
    keep_original: bool,
    force: bool,
    as_json: bool,
    verbose: bool,
    quiet: bool,
) -> None:
    """Compiles MODEL for a device and writes a bundle.

    MODEL is an .onnx file, or a Hugging Face model: a folder or a name on the hub. The bundle is a
    folder that holds the compiled model, how near it is to the original, and all that is needed to run it.
    """
    if verbose and quiet:
        raise UsageError("-v says more and -q says less: give one of them")
    wanted = asked_recipe(context, recipe)
    from edgebig.pipeline import compile as compile_model

    with (
        guarded_stdout() as stdout,
        shown_progress(sys.stderr if as_json else stdout, verbose=verbose, quiet=quiet) as listener,
    ):
        bundle = compile_model(
            model,
            out=out,
            target=target,
            recipe=wanted,
            precision=precision,
            calibration=calib,
            task=task,
            shapes=shapes or None,
            min_shapes=min_shapes or None,
            opt_shapes=opt_shapes or None,
            max_shapes=max_shapes or None,
            freeze=freeze,
            capabilities=[c.strip() for c in capabilities.split(",")] if capabilities else None,
            keep_original=keep_original or None,
            force=force,
            listener=_watched(listener),
        )
    if as_json:
        print_json(_summary(bundle))
    elif quiet:
        click.echo(out)
    else:
        click.echo("\n".join(_lines(bundle, out, verbose)))


def _watched(listener: Listener) -> Listener:
    """The listener, which also ends the compile where a signal came while an engine was being built."""

    def on_event(event: Event) -> None:
        interrupts.deferred = event.stage == "build" and event.kind != "end"
        interrupts.check()
        listener(event)

    return on_event


def _summary(bundle: Bundle) -> dict[str, Any]:
    manifest = bundle.manifest
    files = {name: file.bytes for name, file in manifest.files.items()}
    return {
        "bundle": str(bundle.path),
        "name": manifest.name,
        "target": manifest.target["name"],
        "precision": manifest.precision,
        "stages": [asdict(stage) for stage in manifest.stages],
        "files": files,
        "bytes": sum(files.values()),
        "parts": {
            name: {
                "inputs": [spec.to_json() for spec in part.inputs],
                "outputs": [spec.to_json() for spec in part.outputs],
                "quantized": part.quantized,
                "precision": part.precision,
                "engines": [asdict(engine) for engine in part.engines],
                "similarity": part.similarity,
            }
            for name, part in manifest.parts.items()
        },
        "versions": manifest.versions,
    }


def _lines(bundle: Bundle, out: str, verbose: bool) -> list[str]:
    manifest = bundle.manifest
    sizes = {name: file.bytes for name, file in manifest.files.items()}
    total = size_text(sum(sizes.values()))
    came_quantized = manifest.precision == "fp32" and any(part.quantized for part in manifest.parts.values())
    precision = "its own quantized precision" if came_quantized else manifest.precision
    lines = ["", f"{out}: {manifest.name} in {precision} for {manifest.target['name']}, {total}"]
    lines += table([[name, size_text(size)] for name, size in sizes.items()], right=[1], indent=2)
    lines += ["", "Similarity to the original, on inputs that the bundle keeps:"]
    lines += similarity_lines(manifest.parts)
    left = sum(len(stage.declined) for stage in manifest.stages)
    if left and not verbose:
        lines += ["", f"Left as found: {left}; -v says what and why."]
    return [*lines, "", *_next(bundle, out)]


def similarity_lines(parts: Any) -> list[str]:
    """A line for each output of each part: how near it is to the original's."""
    rows = []
    for name, part in parts.items():
        for output, found in part.similarity.items():
            where = output if len(parts) == 1 else f"{name}: {output}"
            figures = f"cosine {found['cosine']:.6f}", f"SQNR {found['sqnr_db']:.1f} dB"
            rows.append([where, *figures, f"largest difference {found['max_abs']:.3g}"])
    return table(rows, indent=2)


def _next(bundle: Bundle, out: str) -> list[str]:
    """The commands to type next, with this bundle's own names."""
    name, part = next(iter(bundle.manifest.parts.items()))
    where = shlex.quote(out)
    choose = "" if len(bundle.manifest.parts) == 1 else f" --part {shlex.quote(name)}"
    inputs = " ".join(f"-i {shlex.quote(s.name)}=FILE" for s in part.inputs)
    return [f"Next: edgebig bench {where}", f"      edgebig run {where}{choose} {inputs}"]
