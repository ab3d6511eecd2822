"""Opens an evaluation set for a part of a bundle, with what the bundle holds to prepare inputs."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np

from edgebig.bundle import PREPROCESS, Bundle
from edgebig.errors import BundleError, MissingExtra
from edgebig.graph import Graph
from edgebig.preprocess import Preprocess
from edgebig.recipe import Recipe
from edgebig.request import Request
from edgebig.source import Source, SourcePart, processors
from edgebig.source.source import Sound
from edgebig.steps.evaluate import Evaluation, open_evaluation
from edgebig.steps.work import PartWork, Sample
from edgebig.target import Target
from edgebig.tasks.text import Tokenizer

File = Path | IO[bytes]

_LONGEST = 512


def open_bundle_evaluation(
    path: str | Path,
    bundle: Bundle,
    part: str | None = None,
    *,
    metric: str | None = None,
    output: str | None = None,
    samples: int | None = None,
) -> Evaluation:
    """As :func:`edgebig.steps.evaluate.open_evaluation`, for a part of a bundle.

    Raises:
        BundleError: no such part, or a file of the bundle is damaged.
        EvaluationError, MissingExtra: as there.
    """
    chosen = bundle.part(part)
    name = next(n for n, p in bundle.manifest.parts.items() if p is chosen)
    for file in bundle.manifest.files:
        if file.startswith("processor/"):
            bundle.file(file)
    graph = Graph.load(bundle.file(chosen.graph))
    folder = bundle.path / "processor"
    work = PartWork(SourcePart(name, graph, bundle.path / chosen.graph), graph, {})
    picture, sound = _brought(folder, has_preprocess=PREPROCESS in bundle.manifest.files)
    source = Source(
        "bundle",
        bundle.manifest.name,
        (work.source,),
        task=bundle.manifest.source.get("task"),
        processor=folder if folder.is_dir() else None,
        text=_text(folder, work),
        picture=picture,
        sound=sound,
    )
    request = Request(_recipe(bundle), Target.load("cpu"), None, frozenset())
    return open_evaluation(path, work, source, request, metric=metric, output=output, samples=samples)


def _recipe(bundle: Bundle) -> Recipe:
    recipe = Recipe.of(f"{bundle.path}: its recipe", bundle.manifest.recipe)
    if PREPROCESS not in bundle.manifest.files:
        return recipe
    try:
        how = Preprocess.from_json(json.loads(bundle.file(PREPROCESS).read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise BundleError(f"{bundle.path}: {PREPROCESS} is damaged: {error}") from error
    return recipe.model_copy(update={"preprocess": how})


def _text(folder: Path, part: PartWork) -> Callable[[str], Sample] | None:
    if not (folder / "tokenizer.json").is_file():
        return None
    tokenizer = Tokenizer(folder)
    length = next((s.shape[1] for s in part.graph.inputs if s.name == "input_ids" and len(s.shape) == 2), None)
    fixed = length if isinstance(length, int) else None
    longest = fixed or min(tokenizer.max_length or _LONGEST, _LONGEST)

    def to_sample(line: str) -> Sample:
        sample: Sample = dict(tokenizer(line, max_length=longest, pad_to=fixed))
        sample["position_ids"] = np.arange(sample["input_ids"].shape[1], dtype=np.int64)[None]
        return sample

    return to_sample


def _brought(folder: Path, *, has_preprocess: bool) -> tuple[Callable[[File], Sample] | None, Sound | None]:
    """The model's own image processor and feature extractor, where ``preprocess.json`` does not stand for them."""
    if has_preprocess or not (folder / "preprocessor_config.json").is_file():
        return None, None
    try:
        with tempfile.TemporaryDirectory(prefix="edgebig-") as scratch:
            found = processors.load(str(folder), Path(scratch), None)
    except ImportError as error:
        raise MissingExtra("export", error.name or "") from error
    return found.picture, found.sound
