"""``edgebig serve``: what is asked wrongly. What it serves is tested in tests/serve."""

from __future__ import annotations

from pathlib import Path

import pytest
import served
import tiny
from cli_runner import Run


@pytest.fixture(autouse=True)
def _compiled() -> None:
    served.needs_compiled_module()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "serve takes BUNDLE and --shm NAME, or --status NAME"),
        (["B"], "serve takes BUNDLE and --shm NAME, or --status NAME"),
        (["B", "--status", "a"], "--status takes the name of a server and nothing else"),
        (["B", "--shm", "../a"], "--shm takes a name of letters, digits"),
        (["B", "--shm", "a", "--mode", "9"], "--mode takes three octal digits, as 600 or 660, found '9'"),
        (["B", "--shm", "a", "--shapes", "x"], "--shapes is written name:1x3x224x224,other:1x16; found 'x'"),
        (["B", "--shm", "a", "--shapes", "x:1,x:2"], "--shapes names 'x' twice"),
        (["B", "--shm", "a", "--shapes", "z:1"], "the model has no input or output 'z': it has x, y"),
        (["B", "--shm", "a"], "give --shapes x:Nx8"),
        (["B", "--shm", "a", "--slots", "0"], "0 is not in the range"),
    ],
)
def test_what_is_asked_wrongly(edgebig: Run, tmp_path: Path, arguments: list[str], message: str) -> None:
    bundle = tiny.write_bundle(tmp_path / "b", {"model": tiny.mlp()}).path
    done = edgebig("serve", *[str(bundle) if a == "B" else a for a in arguments])
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert len(done.err.splitlines()) == 1


def test_no_server_to_ask(edgebig: Run) -> None:
    done = edgebig("serve", "--status", "nobody", "--json")
    assert done.code == 16
    message = "no server has the name 'nobody': start 'edgebig serve BUNDLE --shm nobody'"
    assert done.json["error"] == {"class": "BackendError", "message": message, "exit_code": 16}


def test_no_room(edgebig: Run, tmp_path: Path) -> None:
    bundle = tiny.write_bundle(tmp_path / "b", {"model": tiny.mlp()}).path
    done = edgebig("serve", bundle, "--shm", served.new_name(), "--shapes", "x:1x8,y:6000000000x4", "--slots", "8")
    assert done.code == 13
    assert "has " in done.err
    assert "MB left, the slots need 768000.0 MB: give fewer --slots or smaller --shapes" in done.err
