"""Samples for a model that comes without data, by what its owner and its files tell."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgebig.calibrate import Samples
from edgebig.calibrate.data.samples import Preparers
from edgebig.calibrate.synthetic import synthetic_samples
from edgebig.calibrate.synthetic.makers import Aids
from edgebig.calibrate.synthetic.tokens import Vocabulary
from edgebig.source import Source
from edgebig.stages import StageNotes
from edgebig.steps.examples import best_shapes
from edgebig.steps.work import PartWork, Sample
from edgebig.tasks.vision import save_picture

SYNTHETIC = "synthetic"
"""What ``--calib`` is called with for made samples."""

_RATE = 16000
_SPECIAL = (("[", "]"), ("<", ">"))


def synthetic_for(
    part: PartWork, source: Source, prepare: Preparers, count: int, carried: frozenset[str], notes: StageNotes
) -> Samples:
    """Samples made for a part, with a warning that says how.

    Args:
        part: whose inputs are made.
        source: its tokenizer and processor files tell what the inputs are.
        prepare: the model's processors.
        count: number of samples.
        carried: inputs that are filled from outputs while the samples run.
        notes: takes the warning.

    Raises:
        CalibrationError: the part takes something that cannot be made.
    """
    # caches begin empty, and a decoder's samples hold them
    states = {name for name in carried if not name.startswith("past_key_values")}
    config = _json(source.processor, "preprocessor_config.json")
    aids = Aids(
        shapes=best_shapes(part.profiles),
        constants=part.frozen,
        picture=_by_file(prepare.picture) if prepare.picture is not None else None,
        vocabulary=vocabulary_of(source.processor, prepare.text) if prepare.text is not None else None,
        rate=int(config.get("sampling_rate", _RATE)),
        normalized=bool(config.get("do_normalize", False)) and "sampling_rate" in config,
        recurrent=bool(states),
    )
    samples = synthetic_samples(
        part.graph,
        part.source.original,
        [spec for spec in part.graph.inputs if spec.name not in states],
        count,
        aids,
        tick=lambda n: notes.progress(f"{n} samples made"),
    )
    notes.decline(f"{part.name}: calibrated without real data ({samples.source}): give --calib to make sure of it")
    return samples


def _by_file(prepare: Callable[[Path], Sample]) -> Callable[[np.ndarray[Any, Any]], Sample]:
    """The model's own preparation, which reads files, of pixels."""

    def to_sample(pixels: np.ndarray[Any, Any]) -> Sample:
        with tempfile.TemporaryDirectory(prefix="edgebig-") as folder:
            file = Path(folder) / "scene.bmp"
            save_picture(pixels, file)
            return prepare(file)

    return to_sample


def vocabulary_of(processor: Path | None, encode: Callable[[str], Sample]) -> Vocabulary | None:
    """The tokenizer's ordinary tokens, words before single characters; ``None`` without a ``tokenizer.json``."""
    file = processor / "tokenizer.json" if processor is not None else None
    if file is None or not file.is_file():
        return None
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(file))
    added = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    ordinary = {i: text for text, i in tokenizer.get_vocab().items() if text not in added and not _is_special(text)}
    # vocabularies list their tokens by frequency, but for the characters that they begin with
    ids = sorted(ordinary, key=lambda i: (len(ordinary[i].strip("Ġ▁#")) < 2, i))
    plain, whole = (tokenizer.encode("a", add_special_tokens=special).ids for special in (False, True))
    start = next((i for i in range(len(whole)) if whole[i : i + len(plain)] == plain), 0)
    return Vocabulary(ids, lambda chosen: str(tokenizer.decode(list(chosen))), encode, whole[:start])


def _is_special(text: str) -> bool:
    return any(text.startswith(a) and text.endswith(b) and len(text) > 2 for a, b in _SPECIAL)


def _json(folder: Path | None, name: str) -> dict[str, Any]:
    file = folder / name if folder is not None else None
    if file is None or not file.is_file():
        return {}
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found
