"""``edgebig debug``: where a compiled graph begins to differ from the original."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgebig.cli.console import guarded_stdout, print_json, table

if TYPE_CHECKING:
    from edgebig.cli.debug_pair import Pair
    from edgebig.similarity import Similarity
    from edgebig.verify import Finding, Layer

_ALLOWED = 0.01
_SHOWN = 8
_STANDS_OUT = 0.25
"""Share of the outputs' error below which a layer is one among many."""

_EPILOG = """\b
Examples:
  edgebig debug model.bundle
  edgebig debug model.bundle -o found
  edgebig debug quantized.onnx --against original.onnx --inputs sample.npz

A bundle holds the original when it was compiled with --keep-original."""


@click.command(epilog=_EPILOG, short_help="Finds where BUNDLE or MODEL begins to differ from the original.")
@click.argument("model", metavar="BUNDLE|MODEL")
@click.option("--against", metavar="ORIGINAL.onnx", help="What to compare with; by default what the bundle keeps.")
@click.option("--inputs", metavar="FILE.npz", help="Inputs for both; by default those that the bundle keeps.")
@click.option("--part", metavar="NAME", help="Which of the model's graphs, where it has several.")
@click.option(
    "--max-drop",
    type=click.FloatRange(0, 1),
    default=_ALLOWED,
    show_default=True,
    help="How much cosine an output may lose before something is wrong.",
)
@click.option("-o", "--output", "out", metavar="DIR", help="Folder to write what was found to.  [default: NAME.debug]")
@click.option("--json", "as_json", is_flag=True, help="Prints one JSON object.")
def command(
    model: str,
    against: str | None,
    inputs: str | None,
    part: str | None,
    max_drop: float,
    out: str | None,
    as_json: bool,
) -> None:
    """Compares BUNDLE, or MODEL (an .onnx file), with its original, tensor by tensor.

    Names the first layer at which the error jumps, or that makes NaN or infinity, and writes the smallest piece
    of the graph that shows it, with the same piece of the original, inputs and expected outputs.
    """
    with guarded_stdout():
        found = _examine(model, against, inputs, part, max_drop, out)
    if as_json:
        print_json(found)
    else:
        click.echo("\n".join(_lines(found)))


def _examine(
    model: str, against: str | None, inputs: str | None, part: str | None, max_drop: float, out: str | None
) -> dict[str, Any]:
    from edgebig.cli.debug_pair import load_pair
    from edgebig.verify import compare_layers, find_smallest, first_jump, save_finding

    pair = load_pair(model, against, inputs, part)
    outputs = _outputs(pair)
    layers = compare_layers(pair.reference, pair.graph, pair.samples)
    worst = min(s.cosine for s in outputs.values())
    # ONNX Runtime computes chains of FP16 operators in float32 on a processor: outputs alone hide an overflow
    is_wrong = not 1 - worst <= max_drop or any(layer.is_broken for layer in layers)
    jump = first_jump(layers)
    status = "wrong" if is_wrong else "equal" if all(s.max_abs == 0 for s in outputs.values()) else "near"
    found: dict[str, Any] = {
        "model": model,
        "against": pair.against,
        "inputs": pair.origin,
        "status": status,
        "max_drop": max_drop,
        "outputs": {name: s.to_json() for name, s in outputs.items()},
        "first_jump": asdict(jump) if jump is not None else None,
        "layers": [asdict(layer) for layer in layers],
        "subgraph": None,
        "nodes": [],
    }
    if is_wrong and jump is not None:
        finding = find_smallest(pair.reference, pair.graph, jump.tensor, pair.samples)
        folder = Path(out if out is not None else f"{Path(model).stem}.debug")
        save_finding(finding, folder, _readme(model, pair, jump, finding))
        found |= {"subgraph": str(folder), "nodes": list(finding.piece.nodes)}
    return found


def _outputs(pair: Pair) -> dict[str, Similarity]:
    """How near each output that both have is to the original's."""
    from edgebig.errors import UsageError
    from edgebig.verify import outputs_of, similarity_of

    expected = outputs_of(pair.reference, pair.samples, "basic")
    answers = outputs_of(pair.graph, pair.samples, "off")
    both = [name for name in expected[0] if name in answers[0]]
    if not both:
        names = f"{', '.join(answers[0])}, the original {', '.join(expected[0])}"
        raise UsageError(f"the graphs have no output in common: {pair.name} has {names}")
    return similarity_of([{n: e[n] for n in both} for e in expected], answers)


def _readme(model: str, pair: Pair, jump: Layer, finding: Finding) -> str:
    nodes = finding.piece.nodes
    listed = "".join(f"\n  {name}" for name in nodes)
    return (
        f"{model} against {pair.against}, on {pair.origin}\n\n{_said(asdict(jump))}\n\n"
        f"The smallest piece that shows it computes {finding.tensor}; {_of(finding.similarity)}.\n"
        f"It has {len(nodes)} nodes:{listed}\n"
    )


def _of(similarity: Similarity) -> str:
    if similarity.max_abs == float("inf"):
        return "given the original's values it holds NaN or infinity, or lacks those of the original"
    return f"given the original's values its cosine is {similarity.cosine:.6f}, its SQNR {similarity.sqnr_db:.1f} dB"


def _said(jump: dict[str, Any]) -> str:
    what = f"{jump['name']} ({jump['op']}, {jump['format']})"
    if jump["error"]["max_abs"] == float("inf"):
        return f"The first NaN or infinity comes from {what}, in its output {jump['tensor']}."
    share = f", {jump['share']:.0%} of the outputs' error" if jump["share"] else ""
    if jump["share"] is not None and jump["share"] < _STANDS_OUT:
        return f"No single layer stands out; the first of those that cost most is {what}: own SQNR " + (
            f"{jump['own']['sqnr_db']:.1f} dB{share}."
        )
    return f"The error jumps first at {what}: own SQNR {jump['own']['sqnr_db']:.1f} dB{share}."


def _lines(found: dict[str, Any]) -> list[str]:
    out = [f"{found['model']} against {found['against']}, on {found['inputs']}"]
    rows = [
        [name, f"cosine {s['cosine']:.6f}", f"SQNR {s['sqnr_db']:.1f} dB", f"largest difference {s['max_abs']:.3g}"]
        for name, s in found["outputs"].items()
    ]
    out += [*table(rows, indent=2), ""]
    if found["status"] == "equal":
        return [*out, "Nothing is wrong: both give the same."]
    if found["status"] == "near":
        out.append(f"Nothing is wrong: no output loses more than {found['max_drop']:g} of its cosine (--max-drop).")
    jump = found["first_jump"]
    if jump is None:
        return [*out, "Only outputs can be compared: the graphs share no other tensors that differ."]
    out += [_said(jump), *_table(found["layers"])]
    if found["subgraph"] is not None:
        count = len(found["nodes"])
        out += [
            "",
            f"The smallest piece that shows it has {count} node{'s' if count != 1 else ''}: {found['subgraph']}",
        ]
    return out


def _table(layers: list[dict[str, Any]]) -> list[str]:
    rows = [["layer", "operator", "format", "own SQNR", "SQNR", "error"]]
    for layer in sorted(layers, key=lambda x: (-(x["share"] or 0.0), x["own"]["sqnr_db"]))[:_SHOWN]:
        figures = [f"{layer[key]['sqnr_db']:.1f} dB" for key in ("own", "error")]
        share = "" if layer["share"] is None else f"{layer['share']:.1%}"
        rows.append([layer["name"], layer["op"], layer["format"], *figures, share])
    return table(rows, right=[3, 4, 5], indent=2)
