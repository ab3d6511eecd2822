"""Which models TensorRT-RTX builds through edgebig, and which of them as they are. No GPU is needed.

    python benchmarks/build/matrix.py [--only NAME ...] [--precisions fp16,int8,fp8] [--capabilities 8.0,8.6,8.9,12.0]
                                      [--out FILE.json] [--work FOLDER] [--resume] [--apart] [--json] [--list]

edgebig: `edgebig.compile` of each model in each precision, for each compute capability; every part must get its
engine. Bare: the same model's ONNX files given to TensorRT-RTX's parser and builder as they are, each dynamic axis 1 to
16 with 8 the best; without a precision, since networks are strongly typed: it lies in the file.

Each attempt is a process of its own. One attempt builds for all capabilities; where that fails, and with --apart, one
is made for each. A full run is long: --resume goes on with what --out lacks or what edgebig failed at.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.accuracy.figures import say
from benchmarks.build.matrix_cell import TARGETS
from benchmarks.build.matrix_models import MODELS, PRECISIONS, Model, missing
from benchmarks.common import ROOT, machine, versions

_CELL = Path(__file__).with_name("matrix_cell.py")
_FP8 = (8, 9)
"""The first compute capability with FP8."""

_AS_IT_IS = "as it is"
_PACKAGES = ("onnx", "onnx-ir", "onnxruntime", "optimum-onnx", "torch", "transformers", "tensorrt-rtx-cu13-bindings")


@dataclass(frozen=True)
class Cell:
    """What came of one model, precision and compute capability on one side.

    Attributes:
        reason: why there is no engine; empty where there is one.
        found: of edgebig: the least cosine of each part's outputs to the original's, and parts with fixed shapes alone.
    """

    model: str
    side: str
    precision: str
    capability: str
    reason: str
    found: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What it is about."""
        return self.model, self.side, self.precision, self.capability


def main() -> int:
    """Runs what was asked and prints the table; 1 where edgebig has no engine for a cell."""
    asked = _arguments()
    if asked.list:
        print("\n".join(model.name for model in MODELS))
        return 0
    chosen = [m for m in MODELS if not asked.only or any(o.lower() in m.name.lower() for o in asked.only)]
    absent = {model.name: why for model in chosen if (why := missing(model))}
    cells = _read(asked.out) if asked.resume and asked.out.is_file() else {}
    with tempfile.TemporaryDirectory(prefix="edgebig-matrix-") as scratch:
        work = asked.work or Path(scratch)
        work.mkdir(parents=True, exist_ok=True)
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        for model in [m for m in chosen if m.name not in absent]:
            for side, precision, capabilities in _attempts(asked.precisions, asked.capabilities):
                keys = [(model.name, side, precision, c) for c in capabilities]
                if all(key in cells and (not cells[key].reason or side == "bare") for key in keys):
                    continue
                say(f"{model.name}, {side}, {precision}")
                for cell in _try(model, side, precision, capabilities, work, apart=asked.apart):
                    cells[cell.key] = cell
                asked.out.write_text(json.dumps([asdict(c) for c in cells.values()], indent=1), encoding="utf-8")
    report(list(cells.values()), absent, as_json=asked.json)
    return 1 if not cells or any(c.reason for c in cells.values() if c.side == "edgebig") else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)

    def listed(text: str) -> list[str]:
        return text.split(",")

    parser.add_argument("--only", nargs="+", help="models whose name holds one of these")
    parser.add_argument("--precisions", type=listed, default=list(PRECISIONS))
    parser.add_argument("--capabilities", type=listed, default=list(TARGETS), help=f"of {', '.join(TARGETS)}")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / ".models" / "matrix.json")
    parser.add_argument("--work", type=Path, help="a folder that keeps exports and edgebig's cache for the next run")
    parser.add_argument("--resume", action="store_true", help="keep what --out holds, but for what edgebig failed at")
    parser.add_argument("--apart", action="store_true", help="an engine for each capability, not one for all")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--list", action="store_true", help="print the models' names")
    asked = parser.parse_args()
    unknown = [x for x in asked.precisions if x not in PRECISIONS] + [x for x in asked.capabilities if x not in TARGETS]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}")
    return asked


def _attempts(precisions: Sequence[str], capabilities: Sequence[str]) -> list[tuple[str, str, list[str]]]:
    """Side, precision and capabilities of what is tried for each model."""
    found = []
    for precision in precisions:
        able = [c for c in capabilities if precision != "fp8" or tuple(map(int, c.split("."))) >= _FP8]
        if able:
            found.append(("edgebig", precision, able))
    return [*found, ("bare", _AS_IT_IS, list(capabilities))]


def _try(model: Model, side: str, precision: str, capabilities: list[str], work: Path, *, apart: bool) -> list[Cell]:
    if not apart or len(capabilities) == 1:
        answer = _run(model, side, precision, capabilities, work)
        if answer["ok"] or len(capabilities) == 1:
            return [_cell(model, side, precision, c, answer) for c in capabilities]
    return [_cell(model, side, precision, c, _run(model, side, precision, [c], work)) for c in capabilities]


def _cell(model: Model, side: str, precision: str, capability: str, answer: dict[str, Any]) -> Cell:
    found = {name: value for name, value in answer.items() if name not in {"ok", "reason"}}
    return Cell(model.name, side, precision, capability, answer["reason"], found)


def _run(model: Model, side: str, precision: str, capabilities: list[str], work: Path) -> dict[str, Any]:
    """One attempt in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="edgebig-matrix-") as folder:
        result, log = Path(folder) / "result.json", Path(folder) / "log"
        command = [sys.executable, _CELL, model.name, side, precision, ",".join(capabilities), work, result]
        with log.open("w", encoding="utf-8") as stream:
            code = subprocess.run(list(map(str, command)), stdout=stream, stderr=stream, check=False).returncode
        if result.is_file():
            answer: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
            return answer
        last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        return {"ok": False, "reason": f"the process ended with {code}: {' '.join(last)}"[:600]}


def _read(path: Path) -> dict[tuple[str, str, str, str], Cell]:
    cells = [Cell(**fields) for fields in json.loads(path.read_text(encoding="utf-8"))]
    return {cell.key: cell for cell in cells}


def report(cells: Sequence[Cell], absent: dict[str, str], *, as_json: bool) -> None:
    """Prints the table, the reasons below it and the totals."""
    totals = {side: _total(cells, side) for side in ("edgebig", "bare")}
    if as_json:
        whole = {"machine": machine(), "versions": versions(_PACKAGES), "totals": totals, "missing": absent}
        print(json.dumps({**whole, "cells": [asdict(c) for c in cells]}))
        return
    print("## Models that TensorRT-RTX builds\n")
    print("versions:", ", ".join(f"{name} {number}" for name, number in versions(_PACKAGES).items()), end="\n\n")
    columns = [*PRECISIONS, _AS_IT_IS]
    print(f"| model | {' | '.join(f'edgebig, {p.upper()}' for p in PRECISIONS)} | bare, as it is |")
    print(f"|---|{'---|' * len(columns)}")
    for name in dict.fromkeys(c.model for c in cells):
        texts = [_text([c for c in cells if (c.model, c.precision) == (name, p)]) for p in columns]
        print(f"| {name} | {' | '.join(texts)} |")
    for side, total in totals.items():
        models = f"{total['models']} of {total['models tried']} models"
        print(f"\n{side}: {total['cells']} of {total['tried']} cells, {models}")
    failed: dict[tuple[str, str, str, str], list[str]] = {}
    for cell in cells:
        if cell.reason:
            failed.setdefault((cell.side, cell.model, cell.precision, cell.reason), []).append(cell.capability)
    for (side, name, precision, reason), capabilities in failed.items():
        print(f"\n- {side}, {name}, {precision}, {', '.join(capabilities)}: {reason}", end="")
    for name, why in absent.items():
        print(f"\nLeft out: {name}: {why}", end="")
    print()


def _text(cells: Sequence[Cell]) -> str:
    """Which capabilities have an engine, and the least cosine."""
    good = [c.capability for c in cells if not c.reason]
    bad = [c.capability for c in cells if c.reason]
    if not cells:
        return ""
    if not good:
        return "**none**"
    cosines = [v for c in cells for v in (c.found.get("cosines") or {}).values() if v is not None]
    near = f", cosine {min(cosines):.4f}" if cosines else ""
    fixed = ", fixed shapes" if any(c.found.get("narrow") for c in cells) else ""
    return f"ok{near}{fixed}" if not bad else f"not {', '.join(bad)}{near}{fixed}"


def _total(cells: Sequence[Cell], side: str) -> dict[str, int]:
    mine = [c for c in cells if c.side == side]
    names = {c.model for c in mine}
    whole = names - {c.model for c in mine if c.reason}
    return {
        "cells": sum(not c.reason for c in mine),
        "tried": len(mine),
        "models": len(whole),
        "models tried": len(names),
    }


if __name__ == "__main__":
    sys.exit(main())
