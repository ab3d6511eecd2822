"""Writes the graph into the bundle and builds what the target loads."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from edgebig.build import (
    Built,
    EngineCache,
    Profile,
    ProfileSet,
    build_engine,
    check_parse,
    find_flavour,
    optimize_for_cpu,
    rtx_version,
)
from edgebig.build.tensorrt import Progress
from edgebig.bundle import BundleWriter, Engine
from edgebig.errors import BuildError
from edgebig.graph.branches import decided_by
from edgebig.graph.passes import NameNodes, run_passes
from edgebig.manifest import this_architecture
from edgebig.request import Request
from edgebig.stages import StageNotes
from edgebig.steps.dla import write_dla_plan
from edgebig.steps.engine_options import options_of
from edgebig.steps.gate import Comparing
from edgebig.steps.prepare import simplifying
from edgebig.steps.work import PartWork

_COMPARED_MEANWHILE = 1 << 30
"""Bytes of weights up to which a graph is compared while its engine is built."""


def build_part(part: PartWork, request: Request, writer: BundleWriter, work: Path, notes: StageNotes) -> None:
    """Writes ``graphs/`` and ``engines/``; sets ``engines``."""
    if request.recipe.keep_original:
        part.kept_original = f"graphs/{part.name}.original.onnx"
        part.graph.save(writer.path(part.kept_original))
    if request.target.engine == "host":
        _build_host(part, request, writer, work, notes)
        return
    path = writer.path(part.graph_file)
    part.result().save(path)
    if request.target.engine == "on-device":
        check_parse(path)
        write_dla_plan(part, request, writer, notes)
        notes.note(
            f"{part.name}: TensorRT's parser takes the graph (TensorRT-RTX {rtx_version()}); "
            f"the engine is built on the device: {request.target.name}"
        )
        return
    try:
        _build_and_compare(part, request, writer, path, notes)
    except BuildError as error:
        if not part.stays_as_it_came:
            raise _with_branches(error, part) from error
        notes.decline(f"{part.name}: simplified after all, since the builder refused it as it came: {error}")
        _simplify(part, request)
        part.result().save(path)
        _build_and_compare(part, request, writer, path, notes)


def _build_and_compare(part: PartWork, request: Request, writer: BundleWriter, graph: Path, notes: StageNotes) -> None:
    """Both at once, unless the weights would take much memory twice: TensorRT-RTX's builder takes one core."""

    def progress(phase: str, step: int, steps: int) -> None:
        notes.progress(f"{phase} {step}/{steps}")

    if part.result().weight_bytes > _COMPARED_MEANWHILE:
        _build_ahead(part, request, writer, graph, notes, progress)
        return
    part.comparing = comparing = Comparing(part, request)

    def watched(phase: str, step: int, steps: int) -> None:
        comparing.check()
        progress(phase, step, steps)

    try:
        _build_ahead(part, request, writer, graph, notes, watched)
    except BaseException:
        comparing.wait()  # it reads what is about to be removed
        raise


def _simplify(part: PartWork, request: Request) -> None:
    run_passes(part.graph, [*simplifying(request), NameNodes()])
    part.lowered, part.stays_as_it_came, part.is_unchanged = part.graph.clone(), False, False


def _with_branches(error: BuildError, part: PartWork) -> BuildError:
    """The error, with what decides the graph's branches where it has some."""
    branches = decided_by(part.result())
    if not branches:
        return error
    return BuildError(
        f"{error}: the graph branches (If), which TensorRT often refuses, on {branches}: settle it with these"
    )


def _build_host(part: PartWork, request: Request, writer: BundleWriter, work: Path, notes: StageNotes) -> None:
    here = this_architecture()
    wanted = here if request.target.architecture == "native" else request.target.architecture
    goal = writer.path(part.graph_file)
    if wanted != here:
        part.result().save(goal)
        notes.note(f"{part.name}: the graph as it is: ONNX Runtime optimizes it on the {wanted} machine")
        return
    plain = work / f"{part.name}.lowered.onnx"
    part.result().save(plain)
    made = work / "optimized" / goal.name
    made.parent.mkdir(exist_ok=True)
    version = optimize_for_cpu(plain, made)
    for file in list(made.parent.iterdir()):  # ONNX Runtime itself does not say that a disk is full
        shutil.move(file, goal.parent / file.name)
    part.engines = (Engine(part.graph_file, "onnxruntime", version, (wanted,)),)
    notes.note(f"{part.name}: optimized by ONNX Runtime {version} for {wanted}")


def _build_ahead(
    part: PartWork, request: Request, writer: BundleWriter, graph: Path, notes: StageNotes, progress: Progress
) -> None:
    capabilities = request.recipe.capabilities or (str(request.target.compute_capability),)
    rtx = find_flavour("tensorrt-rtx")

    options = options_of(request)

    def place(sets: Sequence[ProfileSet]) -> EngineCache:
        return EngineCache(graph, rtx, sets, capabilities, options)

    def build(sets: Sequence[ProfileSet], kept: EngineCache) -> Built:
        engine = kept.read()
        if engine is not None:
            return Built(engine, 0.0)
        built = build_engine(graph, rtx, profiles=sets, options=options, capabilities=capabilities, progress=progress)
        kept.write(built.engine)
        return built

    narrow = tuple({n: Profile(p.opt, p.opt, p.opt) for n, p in one.items()} for one in part.profile_sets)
    asked = {name for one in request.recipe.shape_sets for name in one} & set(part.profiles)
    may_narrow = narrow != part.profile_sets and not asked
    wide = place(part.profile_sets)
    refused = wide.refusal() if may_narrow else ""
    try:
        if refused:
            raise BuildError(refused)
        built = build(part.profile_sets, wide)
    except BuildError as error:
        if not may_narrow:
            raise
        built = build(narrow, place(narrow))
        if "memory" not in str(error).lower():  # which may be free the next time; all else lies in the range
            wide.write_refusal(str(error))
        part.profiles, *more = narrow
        part.more_profiles = tuple(more)
        shapes = "; ".join(", ".join(f"{n}:{'x'.join(map(str, p.opt))}" for n, p in one.items()) for one in narrow)
        notes.decline(
            f"{part.name}: the engine takes the shapes {shapes} alone, since the derived range was refused: {error}"
        )
    names = ".".join(f"sm{c.replace('.', '')}" for c in capabilities)
    name = f"engines/{part.name}.{names}.engine"
    writer.path(name).write_bytes(built.engine)
    sets = tuple({n: p.to_json() for n, p in one.items()} for one in part.profile_sets)
    # an engine from the cache was not built just now, and says nothing of the time
    facts = {"seconds": round(built.seconds, 3)} if built.seconds else {}
    part.engines = (
        Engine(
            name,
            rtx.name,
            rtx.version,
            capabilities,
            profiles=sets,
            version_compatible=options.version_compatible,
            stripped=options.strip_weights,
            weight_streaming=options.streaming,
            built={"options": options.key(), **facts},
        ),
    )
    if options.optimization_level is not None:
        notes.decline(f"{part.name}: optimization level: {rtx} made the same engine at each that we tried")
    size = f"{len(built.engine) / 1e6:.1f} MB"
    notes.note(f"{part.name}: engine of {size} for compute capability {', '.join(capabilities)}, {rtx}")
