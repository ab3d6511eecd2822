"""Verifies the result, and writes what the bundle carries beside it."""

from __future__ import annotations

import json
import platform
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version

from edgebig import __version__
from edgebig.bundle import PREPROCESS, BundleWriter, Manifest, Part, Stage
from edgebig.graph import Graph
from edgebig.graph.graph import dtype_name
from edgebig.graph.passes import is_quantized
from edgebig.graph.work import macs, observed_shapes
from edgebig.manifest import this_architecture
from edgebig.preprocess import Preprocess
from edgebig.request import Request
from edgebig.source import Source
from edgebig.stages import StageNotes
from edgebig.steps.gate import compare_stages, exact_graph, layers_of
from edgebig.steps.layer_report import layer_report, layers_file, report_lines, write_report
from edgebig.steps.pays import say_whether_it_pays
from edgebig.steps.sizes import sizes_of
from edgebig.steps.work import PartWork
from edgebig.tasks.vision import from_huggingface
from edgebig.verify import save_golden

_TOOLS: tuple[str, ...] = (
    "numpy",
    "onnx",
    "onnx-ir",
    "onnxscript",
    "onnxruntime",
    "torch",
    "transformers",
    "optimum",
    "optimum-onnx",
)
_TOOLS += ("tensorrt-rtx-cu13-bindings",)


def verify_part(part: PartWork, request: Request, writer: BundleWriter, notes: StageNotes) -> Part:
    """Compares each stage with the one before and the result with the original, and writes the evidence.

    Raises:
        AccuracyError: more was lost than the recipe allows.
    """
    golden = part.examined()
    runs_here = any(e.path == part.graph_file and this_architecture() in e.hardware for e in part.engines)
    built = writer.path(part.graph_file) if runs_here else None
    found = part.comparing.result(notes) if part.comparing else compare_stages(part, request, built, notes)
    if part.quantized and found.original:
        layers = layers_of(part, request)
        exact = exact_graph(part)
        work = macs(exact, observed_shapes(exact, golden.inputs[0]))
        report = layer_report(part, exact, layers, built, found.figures(), work)
        write_report(report, writer.path(layers_file(part.name)))
        notes.note(*report_lines(report))
        if request.recipe.precision in {"int8", "fp8"}:
            say_whether_it_pays(part, work, built, notes)
        broken = next((layer for layer in layers if layer.is_broken), None)
        if broken is not None:
            notes.decline(f"{part.name}: {broken.name} ({broken.op}, {broken.format}) makes NaN or infinity")
    golden_file, ranges_file = f"evidence/{part.name}.golden.npz", f"calibration/{part.name}.ranges.json"
    is_private = request.recipe.golden_inputs == "private"
    if not is_private:
        save_golden(golden, writer.path(golden_file))
    if part.plan is not None:
        text = json.dumps(part.plan.to_json(), indent=1, allow_nan=False)
        writer.path(f"evidence/{part.name}.plan.json").write_text(text + "\n", encoding="utf-8")
    if part.calibration is not None:
        text = json.dumps(part.calibration, indent=1, allow_nan=False)
        writer.path(ranges_file).write_text(text + "\n", encoding="utf-8")
    graph = part.result()
    return Part(
        inputs=graph.inputs,
        outputs=graph.outputs,
        graph=part.graph_file,
        opset=graph.opset,
        quantized=part.quantized or is_quantized(graph),
        precision=weights_by_format(graph),
        engines=part.engines,
        profiles={name: profile.to_json() for name, profile in part.profiles.items()},
        more_profiles=tuple({name: p.to_json() for name, p in one.items()} for one in part.more_profiles),
        original=part.kept_original,
        golden=None if is_private else golden_file,
        calibration=ranges_file if part.calibration is not None else None,
        similarity={name: s.to_json() for name, s in found.original.items()},
        sizes=_sizes(part),
    )


def _sizes(part: PartWork) -> dict[str, int]:
    """At the largest shapes of the set that needs most."""
    graph = part.result()
    sets = part.profile_sets or ({},)
    found = [sizes_of(graph, {name: profile.max for name, profile in one.items()}) for one in sets]
    return max(found, key=lambda sizes: sizes.get("activation_bytes", 0))


def write_processor(source: Source, request: Request, writer: BundleWriter) -> None:
    """Writes the tokenizer's and image processor's files, and how pictures become tensors."""
    how = request.recipe.preprocess
    if source.processor is not None:
        shutil.copytree(source.processor, writer.path("processor/x").parent, dirs_exist_ok=True)
        config = source.processor / "preprocessor_config.json"
        if how is None and config.is_file():
            how = from_huggingface(json.loads(config.read_text(encoding="utf-8")))
    if how is not None:
        _write_preprocess(how, writer)


def make_manifest(source: Source, request: Request, parts: Mapping[str, Part], stages: Sequence[Stage]) -> Manifest:
    """What the bundle says of itself."""
    return Manifest(
        name=source.name,
        precision=request.recipe.precision,
        target=request.target.model_dump(mode="json"),
        recipe=request.recipe.model_dump(mode="json"),
        source={"kind": source.kind, "name": source.name, "task": source.task, "sha256": source.sha256},
        parts=dict(parts),
        stages=tuple(stages),
        versions=tool_versions(),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def weights_by_format(graph: Graph) -> dict[str, int]:
    """Elements of the weights by number format, largest first; shapes and other small integers left out."""
    counts: Counter[str] = Counter()
    for tensor in graph.weights():
        name = dtype_name(tensor.dtype)
        if name not in {"int64", "bool", "string"}:
            counts[name] += tensor.size
    return dict(counts.most_common())


def tool_versions() -> dict[str, str]:
    """Versions of Python, edgebig and every tool that takes part in a compile."""
    found = {"edgebig": __version__, "python": platform.python_version()}
    for tool in _TOOLS:
        try:
            found[tool] = version(tool)
        except PackageNotFoundError:
            continue
    return found


def _write_preprocess(how: Preprocess, writer: BundleWriter) -> None:
    writer.path(PREPROCESS).write_text(json.dumps(how.to_json(), indent=1) + "\n", encoding="utf-8")
