"""English sentences that need no network: from the docstrings of Python's standard library, always the same ones.

"The same" for one version of Python; the run prints it.
"""

from __future__ import annotations

import ast
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from benchmarks.common import ROOT

CALIBRATION = ROOT / "calibration" / "sentences.txt"
_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
_PLAIN = re.compile(r"[A-Z][A-Za-z0-9 ,;:'()-]+[.!?]")
_WORDS = range(6, 41)
_LEFT_OUT = {"test", "tests", "site-packages", "dist-packages", "idlelib", "lib2to3", "__pycache__"}


def unseen(count: int) -> list[str]:
    """So many sentences of 6 to 40 words, from all over the library, none of them in the calibration set.

    Raises:
        ValueError: there are fewer.
    """
    seen = set(CALIBRATION.read_text(encoding="utf-8").splitlines())
    found = [sentence for sentence in dict.fromkeys(_sentences()) if sentence not in seen]
    if len(found) < count:
        raise ValueError(f"the standard library here has {len(found)} sentences, {count} were asked for")
    return [found[i * len(found) // count] for i in range(count)]


def _sentences() -> Iterator[str]:
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        if _LEFT_OUT & set(path.relative_to(root).parts):
            continue
        for paragraph in _paragraphs(path):
            for sentence in _END.split(" ".join(paragraph.split())):
                if _PLAIN.fullmatch(sentence) and len(sentence.split()) in _WORDS:
                    yield sentence


def _paragraphs(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from (ast.get_docstring(node) or "").split("\n\n")
