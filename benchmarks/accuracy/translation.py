"""g2p, a trained GRU encoder-decoder, in INT8 and FP16: how often it spells a word as in FP32.

    python benchmarks/accuracy/translation.py [--json] [--quick]

The weights lie in ../shared/data beside the checkout; encoder and decoder are made an ONNX graph each. The decoder runs
a step at a time and is given its own phonemes, so that one wrong phoneme changes all that follow. Words are of the
standard library's docstrings (sentences.py), none of them calibrated with; calibration takes words of
calibration/sentences.txt. Graphs for the L4 are run by ONNX Runtime without optimizations.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import edgebig
from benchmarks.accuracy.figures import Figure, report, say
from benchmarks.accuracy.sentences import CALIBRATION, unseen
from benchmarks.common import ROOT, machine
from edgebig.errors import EdgebigError
from edgebig.graph import Executor
from edgebig.graph.execute import Level

Array = np.ndarray[Any, Any]
Sample = dict[str, Array]

DATA = ROOT.parent / "shared" / "data" / "g2p"
WEIGHTS = "checkpoint20.npz"
_HIDDEN = 256
_END_OF_WORD, _FIRST_LETTER = 2, 3
"""Of the graphemes ``<pad> <unk> </s> a … z``."""

_START, _END, _MOST = 2, 3, 20
"""Of the phonemes ``<pad> <unk> <s> </s> …``; no word has more than 20."""

_WORDS, _CALIBRATION_WORDS = 200, 100
_WORD = re.compile(r"[a-z]{4,}")
_PACKAGES = ("numpy", "onnx", "onnx-ir", "onnxruntime")
WAYS = (
    ("cpu", "int8"),
    ("cpu", "int8-weights"),
    ("l4", "fp16"),
    ("l4", "int8"),
    ("l4", "fp8"),
    ("l4", "int8-weights"),
)


def build(weights: Path, folder: Path) -> tuple[Path, Path]:
    """Writes the encoder, ``letters`` int64 [length, 1] to ``state`` float32 [1, 1, 256], and a step of the decoder,
    ``token`` int64 [1, 1] and ``given`` float32 [1, 1, 256] to ``logits`` float32 [1, 74] and ``state``.
    """
    held = np.load(weights)
    encoder = [
        helper.make_node("Gather", ["emb", "letters"], ["x"], name="embedding"),
        helper.make_node("GRU", ["x", "w", "r", "b"], ["", "state"], "gru", hidden_size=_HIDDEN, linear_before_reset=1),
    ]
    decoder = [
        helper.make_node("Gather", ["emb", "token"], ["x"], name="embedding"),
        helper.make_node(
            "GRU",
            ["x", "w", "r", "b", "", "given"],
            ["", "state"],
            "gru",
            hidden_size=_HIDDEN,
            linear_before_reset=1,
        ),
        helper.make_node("Reshape", ["state", "flat"], ["row"], name="flatten"),
        helper.make_node("Gemm", ["row", "fc", "bias"], ["logits"], "head", transB=1),
    ]
    state = ("state", TensorProto.FLOAT, [1, 1, _HIDDEN])
    head = {"fc": held["fc_w"], "bias": held["fc_b"], "flat": np.array([1, _HIDDEN], np.int64)}
    takes = [("letters", TensorProto.INT64, ["length", 1])]
    _save(folder / "encoder.onnx", encoder, takes, [state], _gru(held, "enc"))
    takes = [("token", TensorProto.INT64, [1, 1]), ("given", TensorProto.FLOAT, [1, 1, _HIDDEN])]
    gives = [("logits", TensorProto.FLOAT, [1, len(held["fc_b"])]), state]
    _save(folder / "decoder.onnx", decoder, takes, gives, _gru(held, "dec") | head)
    return folder / "encoder.onnx", folder / "decoder.onnx"


def _gru(held: Any, side: str) -> dict[str, Array]:
    """PyTorch's gates r, z, n in ONNX's order z, r, h."""

    def ordered(name: str) -> Array:
        reset, update, new = np.split(held[f"{side}_{name}"], 3)
        return np.concatenate([update, reset, new])

    bias = np.concatenate([ordered("b_ih"), ordered("b_hh")])
    return {"emb": held[f"{side}_emb"], "w": ordered("w_ih")[None], "r": ordered("w_hh")[None], "b": bias[None]}


def _save(path: Path, nodes: Sequence[Any], takes: Sequence[Any], gives: Sequence[Any], weights: Sample) -> None:
    graph = helper.make_graph(
        list(nodes),
        path.stem,
        [helper.make_tensor_value_info(*spec) for spec in takes],
        [helper.make_tensor_value_info(*spec) for spec in gives],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)


@dataclass
class Speller:
    """Words to phonemes, by the two graphs.

    Attributes:
        encoder, decoder: the graphs.
        seen: what each of them was given, if it is to be kept.
    """

    encoder: Executor
    decoder: Executor
    seen: tuple[list[Sample], list[Sample]] | None = None

    @classmethod
    def open(cls, encoder: Path, decoder: Path, level: Level) -> Speller:
        """Loads both."""
        return cls(Executor(encoder, level, threads=1), Executor(decoder, level, threads=1))

    def __call__(self, word: str) -> list[int]:
        """The likeliest phoneme after each other."""
        letters = [ord(c) - ord("a") + _FIRST_LETTER for c in word]
        first = {"letters": np.array([*letters, _END_OF_WORD], np.int64)[:, None]}
        self._keep(0, first)
        state, token, found = self.encoder.run(first)["state"], _START, []
        while len(found) < _MOST:
            step = {"token": np.array([[token]], np.int64), "given": state}
            self._keep(1, step)
            answer = self.decoder.run(step)
            state, token = answer["state"], int(answer["logits"].argmax())
            if token == _END:
                break
            found.append(token)
        return found

    def _keep(self, which: int, sample: Sample) -> None:
        if self.seen is not None:
            self.seen[which].append(sample)


def words(count: int, calibration: int) -> tuple[list[str], list[str]]:
    """So many words that are not calibrated with, and those that are."""
    held = dict.fromkeys(_WORD.findall(CALIBRATION.read_text(encoding="utf-8")))
    known = list(held)[:: max(1, len(held) // calibration)][:calibration]
    found = [w for w in dict.fromkeys(_WORD.findall(" ".join(unseen(400)))) if w not in held]
    return found[:: max(1, len(found) // count)][:count], known


def distance(first: Sequence[int], second: Sequence[int]) -> int:
    """Levenshtein's: insertions, deletions and replacements that make one the other."""
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, 1):
        before, row[0] = row[0], i
        for j, b in enumerate(second, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]


def compiled(target: str, precision: str, parts: Sequence[Path], seen: Sequence[list[Sample]], work: Path) -> Speller:
    """Both graphs as edgebig compiles them.

    Raises:
        EdgebigError: one of them does not compile.
    """
    graphs = []
    for path, samples in zip(parts, seen, strict=True):
        bundle = edgebig.compile(
            path, target=target, precision=precision, calibration=samples, out=work / f"{path.stem}.bundle", force=True
        )
        graphs.append(bundle.path / bundle.part().graph)
    return Speller.open(graphs[0], graphs[1], "all" if target == "cpu" else "off")


def measure(ways: Sequence[tuple[str, str]], count: int, work: Path) -> list[Figure]:
    """Phonemes as in FP32, %, of each way: what of their number is left after Levenshtein's distance."""
    unknown, known = words(count, _CALIBRATION_WORDS)
    parts = build(DATA / WEIGHTS, work)
    exact = Speller.open(*parts, "all")
    exact.seen = ([], [])
    for word in known:
        exact(word)
    seen, exact.seen = exact.seen, None
    expected = [exact(word) for word in unknown]
    whole = sum(map(len, expected))
    what = f"g2p, {len(unknown)} words, {whole} phonemes: as in FP32, %"
    figures = []
    for target, precision in ways:
        side = f"edgebig, {precision}, {target}"
        say(side)
        try:
            speller = compiled(target, precision, parts, seen, work)
        except EdgebigError as error:
            figures.append(Figure(what, side, None, note=str(error)[:120]))
            continue
        found = [speller(word) for word in unknown]
        wrong = sum(distance(a, b) for a, b in zip(expected, found, strict=True))
        same = sum(a == b for a, b in zip(expected, found, strict=True))
        note = f"{100 * same / len(unknown):.1f} % of the words wholly"
        figures.append(Figure(what, side, 100 * (1 - wrong / whole), digits=2, note=note))
    return figures


def main() -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="40 words, INT8 alone")
    asked = parser.parse_args()
    before = machine()
    figures: list[Figure] = []
    missing = [] if (DATA / WEIGHTS).is_file() else [f"g2p: there is no {DATA}"]
    if not missing:
        ways, count = ([w for w in WAYS if w[1] == "int8"], 40) if asked.quick else (WAYS, _WORDS)
        with tempfile.TemporaryDirectory(prefix="edgebig-bench-") as folder:
            figures = measure(ways, count, Path(folder))
    report("Translation", figures, before, _PACKAGES, missing, as_json=asked.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
