"""The live display on a terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from cli_runner import environment


@pytest.mark.parametrize("has_rich", [True, False])
def test_a_terminal_shows_stages_as_they_end(mlp: Path, tmp_path: Path, has_rich: bool) -> None:
    ours, theirs = pty.openpty()
    hide = "" if has_rich else "import sys; sys.modules['rich.console'] = None; "
    program = f"{hide}from edgebig.cli.main import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", program, "compile", mlp, "-o", tmp_path / "b"],
        stdout=theirs,
        stderr=subprocess.PIPE,
        env={**environment(), "TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            piece = os.read(ours, 4096)
        except OSError:  # how Linux says that the other side is closed
            break
        if not piece:
            break
        shown += piece
    os.close(ours)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, b"")
    text = shown.decode()
    for number, stage in enumerate(["source", "graph", "calibrate", "quantize", "build", "verify"], 1):
        assert f"[{number}/6] {stage} …" in text
        assert f"[{number}/6] {stage:<10}" in text
    assert ("\x1b[?25l" in text) is has_rich  # the cursor is hidden while the spinner turns
    assert "Next: edgebig bench" in text
