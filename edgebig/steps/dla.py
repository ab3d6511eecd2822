"""A model for a deep learning accelerator: fixed sizes, and what the GPU must run beside it."""

from __future__ import annotations

import json
from dataclasses import asdict

from edgebig.build import Profile
from edgebig.bundle import BundleWriter
from edgebig.errors import UsageError
from edgebig.quantize.rules_dla import dla_plan
from edgebig.request import Request
from edgebig.stages import StageNotes
from edgebig.steps.engine_options import options_of
from edgebig.steps.work import PartWork


def fix_sizes(part: PartWork, request: Request, notes: StageNotes) -> None:
    """For a DLA, narrows ranges of sizes that nobody asked for to their best size.

    Raises:
        UsageError: a range was asked for.
    """
    if options_of(request).dla_core is None:
        return
    wide = {name: profile for name, profile in part.profiles.items() if profile.min != profile.max}
    asked = next((name for name in wide if name in request.recipe.shapes), None)
    if asked is not None:
        raise UsageError(
            f"a DLA takes fixed sizes, and {asked} was given a range: give its one size with --shapes, "
            "or leave the DLA out"
        )
    for name, profile in wide.items():
        part.profiles[name] = Profile(profile.opt, profile.opt, profile.opt)
        size = "x".join(map(str, profile.opt))
        notes.decline(f"{part.name}: a DLA takes fixed sizes: {name} is {size} (--shapes names another one)")


def write_dla_plan(part: PartWork, request: Request, writer: BundleWriter, notes: StageNotes) -> None:
    """For a DLA, says what the GPU must run beside it, and keeps it as the bundle's ``evidence/PART.dla.json``."""
    options = options_of(request)
    if options.dla_core is None:
        return
    plan = dla_plan(part.result(), request.target.compute_capability)
    head, *reasons = (f"{part.name}: {line}" for line in plan.summary())
    notes.note(head)
    notes.decline(*reasons)
    if part.quantized:
        notes.note(f"{part.name}: INT8 on a DLA needs TensorRT 11.4.1; the DLA of JetPack 6 takes no Q/DQ pairs")
    left = [found for found in plan.on_gpu if found.op != "Cast"] or plan.on_gpu
    if left and not options.gpu_fallback:
        notes.decline(f"{part.name}: --no-gpu-fallback: the device's builder is likely to refuse {left[0].node!r}")
    facts = {
        "core": options.dla_core,
        "gpu_fallback": options.gpu_fallback,
        "layers": plan.layers,
        "on_gpu": [asdict(found) for found in plan.on_gpu],
    }
    writer.path(f"evidence/{part.name}.dla.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
