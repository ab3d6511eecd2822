"""Rules of the code that no linter knows: who prints, how long things are, and what no file may name."""

from __future__ import annotations

import ast
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "edgebig"
LONGEST_MODULE, LONGEST_FUNCTION = 400, 80

# Folders of some person's machine, and hosts of package registries. This file itself does not match.
PRIVATE = re.compile(
    rb"(?<![\w.~/-])/(?:work|root|Users)(?:/|\b(?![-.\w]))"
    rb"|(?<![\w.~/-])/home/\w"
    rb"|\b[A-Za-z]:\\Users\\"
    rb"|pypi\.org|pythonhosted\.org|registry\.npmjs|download\.pytorch\.org",
)


def committed() -> list[Path]:
    """The files of the repository, those not yet committed included; without git, all but hidden and built ones."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            check=True,
        ).stdout
        files = [ROOT / os.fsdecode(name) for name in listed.split(b"\0") if name]
    except (OSError, subprocess.CalledProcessError):
        built = {"build", "dist", "__pycache__", "edgebig.egg-info"}
        files = [
            file
            for file in ROOT.rglob("*")
            if not any(part in built or part.startswith(".") for part in file.relative_to(ROOT).parts)
        ]
    return sorted(file for file in files if file.is_file())


def sources() -> Iterator[tuple[str, str, ast.Module]]:
    """Name, text and syntax tree of every Python file of the repository."""
    for file in committed():
        if file.suffix == ".py":
            text = file.read_text(encoding="utf-8")
            yield file.relative_to(ROOT).as_posix(), text, ast.parse(text)


def prints(tree: ast.Module) -> list[int]:
    """The lines that print, write to the terminal, or fetch a stream to do so."""
    lines = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id == "print":
            lines.append(node.lineno)
        elif isinstance(node, ast.Attribute) and node.attr in {"stdout", "stderr", "__stdout__", "__stderr__"}:
            if isinstance(node.value, ast.Name) and node.value.id == "sys":
                lines.append(node.lineno)
        elif isinstance(node, ast.ImportFrom) and node.module == "sys":
            lines += [node.lineno for name in node.names if name.name in {"stdout", "stderr"}]
    return lines


def test_prints_finds_each_way() -> None:
    code = "import sys\nprint(1)\nsys.stdout.write('')\nfrom sys import stderr\nlog = print\npprint(2)\nself.stdout\n"
    assert sorted(prints(ast.parse(code))) == [2, 3, 4, 5]


def test_only_the_command_line_prints() -> None:
    found = [
        f"{name}:{line}"
        for name, _, tree in sources()
        if name.startswith("edgebig/") and not name.startswith("edgebig/cli/")
        for line in prints(tree)
    ]
    assert found == []


def test_modules_and_functions_stay_short() -> None:
    long = []
    for name, text, tree in sources():
        if (lines := len(text.splitlines())) > LONGEST_MODULE:
            long.append(f"{name}: {lines} lines")
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > LONGEST_FUNCTION:
                    long.append(f"{name}: {node.name} has {lines} lines")
    assert long == []


def test_every_folder_of_python_is_a_package() -> None:
    folders = {file.parent for file in PACKAGE.rglob("*.py")}
    assert [str(f.relative_to(ROOT)) for f in sorted(folders) if not (f / "__init__.py").is_file()] == []


@pytest.mark.parametrize(
    ("text", "private"),
    [
        ("open('/" + "work/main/x')", True),
        ("cd /" + "root", True),
        ("/" + "home/jane/models", True),
        ("C:" + "\\Users\\jane", True),
        ("https://example.org/root/work/", False),
        ("a path such as /opt/edgebig", False),
        ("./work/model.onnx", False),
        ("/rootfs and /workspace", False),
    ],
)
def test_private_places_are_recognized(text: str, private: bool) -> None:
    assert bool(PRIVATE.search(text.encode())) is private


def test_no_file_names_a_private_place() -> None:
    found = []
    for file in committed():
        data = file.read_bytes()
        if b"\0" in data[:4096]:
            continue
        found += [
            f"{file.relative_to(ROOT)}:{data.count(b'%c' % 10, 0, match.start()) + 1}: {match.group().decode()}"
            for match in PRIVATE.finditer(data)
        ]
    assert found == []
