"""g2p: what the benchmark counts, and the trained model on both families of targets."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.accuracy import translation
from edgebig.graph import Graph
from edgebig.quantize import PlanFile

PHONEMES = (
    "<pad> <unk> <s> </s> AA0 AA1 AA2 AE0 AE1 AE2 AH0 AH1 AH2 AO0 AO1 AO2 AW0 AW1 AW2 AY0 AY1 AY2 B CH D DH EH0 EH1 "
    "EH2 ER0 ER1 ER2 EY0 EY1 EY2 F G HH IH0 IH1 IH2 IY0 IY1 IY2 JH K L M N NG OW0 OW1 OW2 OY0 OY1 OY2 P R S SH T TH "
    "UH0 UH1 UH2 UW UW0 UW1 UW2 V W Y Z ZH"
)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [([], [], 0), ([1, 2], [], 2), ([1, 2, 3], [1, 3], 1), ([1, 2, 3], [2, 1, 3], 2), ([4, 5], [4, 6], 1)],
)
def test_the_distance_is_levenshteins(first: list[int], second: list[int], expected: int) -> None:
    assert translation.distance(first, second) == translation.distance(second, first) == expected


def test_words_are_not_calibrated_with() -> None:
    unknown, known = translation.words(200, 100)
    assert (len(unknown), len(known)) == (200, 100) and not set(unknown) & set(known)
    assert len(set(unknown)) == 200 and all(word.isalpha() and word.islower() for word in unknown)


def test_the_graphs_pronounce_words(shared_data: Path, tmp_path: Path) -> None:
    parts = translation.build(shared_data / "g2p" / translation.WEIGHTS, tmp_path)
    speller = translation.Speller.open(*parts, "all")
    names = PHONEMES.split()
    spelled = {w: " ".join(names[i] for i in speller(w)) for w in ("hello", "robot", "engine")}
    assert spelled["hello"] == "HH EH1 L OW0"
    assert spelled["robot"] == "R OW1 B AA2 T"
    assert spelled["engine"] == "EH1 N JH AH0 N"


@pytest.mark.parametrize(("target", "least"), [("cpu", 98.0), ("l4", 98.0)])
def test_int8_pronounces_as_fp32(target: str, least: float, shared_data: Path, tmp_path: Path) -> None:
    if target == "l4":
        pytest.importorskip("tensorrt_rtx_bindings")
    assert shared_data == translation.DATA.parent
    (figure,) = translation.measure([(target, "int8")], 60, tmp_path)
    assert figure.value is not None and figure.value >= least
    for part in ("encoder", "decoder"):
        folder = tmp_path / f"{part}.bundle"
        formats = PlanFile.load(folder / "evidence" / "model.plan.json").formats()
        # a processor would dequantize the weights in every run
        assert formats["gru"] == ("int8-weights" if target == "l4" else "float")
        assert part == "encoder" or formats["head"] == "int8"
        original = Graph.load(tmp_path / f"{part}.onnx").weight_bytes
        made = Graph.load(folder / "graphs" / "model.onnx").weight_bytes
        assert made < 0.35 * original if target == "l4" else made <= original
