"""Writes models into a repository of Triton: each whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from edgebig.bundle import Bundle, sync
from edgebig.errors import OutputError
from edgebig.triton.model import TritonModel
from edgebig.triton.text import render

CONFIG = "config.pbtxt"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def write_repository(
    bundle: Bundle,
    models: Sequence[TritonModel],
    folder: str | os.PathLike[str],
    *,
    version: int = 1,
    force: bool = False,
) -> list[Path]:
    """Writes the models below ``folder``, each under its name, beside the models that are there.

    A model is laid out in a folder beside the repository and renamed into it in one step, since a server that polls
    takes every folder for a model. A model that is there gets a further version where its configuration is the same;
    with ``force`` the new one takes the old one's place, all its versions included. If one cannot be written, those
    that were are taken back.

    Args:
        bundle: holds the models' files; each one's hash is checked.
        models: as :func:`edgebig.triton.model.triton_models` makes them.
        folder: the repository; it is made where it is missing, its parent is not.
        version: the version's number, 1 or more.
        force: replaces models of the same name.

    Returns:
        The models' folders.

    Raises:
        OutputError: a model is there already, or is no model, or the folder cannot be written, or the disk is full.
        BundleError: a file of the bundle is damaged.
    """
    goal = Path(os.path.abspath(folder))
    try:
        if not goal.parent.is_dir():
            raise OutputError(f"cannot write {folder}: the folder {goal.parent} does not exist")
        if goal.exists() and not goal.is_dir():
            raise OutputError(f"cannot write {folder}: it is no folder")
        for model in models:
            _refuse(goal / model.name, model, version, force)
        with _staging(goal) as staged:
            for model in models:
                _lay_out(bundle, model, staged / model.name, version)
            return _place_all(models, staged, goal, version, force)
    except OSError as error:
        advice = ": free some space and export again" if error.errno in _FULL else ""
        raise OutputError(f"cannot write {folder}: {error.strerror or error}{advice}") from error


def config_text(model: TritonModel) -> str:
    """The text of ``config.pbtxt``."""
    return render(model.config)


def _refuse(at: Path, model: TritonModel, version: int, force: bool) -> None:
    if not os.path.lexists(at):
        return
    if at.is_symlink() or not (at / CONFIG).is_file():
        raise OutputError(f"{at} is no model of Triton: remove it by hand, or choose another name with --name")
    if force:
        return
    if (at / str(version)).exists():
        raise OutputError(f"{at} has a version {version}: take another --version, or replace the model with --force")
    if (at / CONFIG).read_text(encoding="utf-8") != config_text(model):
        raise OutputError(f"{at} has another configuration: replace the model with --force, or choose another --name")


@contextmanager
def _staging(goal: Path) -> Iterator[Path]:
    """A folder on the repository's file system, outside it where possible: Triton takes what is in it for models."""
    outside = not goal.exists() or os.stat(goal).st_dev == os.stat(goal.parent).st_dev
    parent = goal.parent if outside and os.access(goal.parent, os.W_OK) else goal
    staged = Path(tempfile.mkdtemp(prefix=f".{goal.name}.", suffix=".partial", dir=parent))
    try:
        yield staged
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _lay_out(bundle: Bundle, model: TritonModel, at: Path, version: int) -> None:
    for name, source in model.files.items():
        _new(at / str(version) / name)
        shutil.copyfile(bundle.file(source), at / str(version) / name)
    for name, content in model.warmup.items():
        _new(at / "warmup" / name).write_bytes(content)
    for name, lines in model.labels.items():
        _new(at / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    (at / CONFIG).write_text(config_text(model), encoding="utf-8")
    for folder, _, names in os.walk(at):
        for name in names:
            sync(Path(folder) / name)
        sync(Path(folder))


def _new(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _place_all(models: Sequence[TritonModel], staged: Path, goal: Path, version: int, force: bool) -> list[Path]:
    undo: list[tuple[Path, Path | None]] = []
    fresh = not goal.exists()
    goal.mkdir(exist_ok=True)
    try:
        for model in models:
            new, at = staged / model.name, goal / model.name
            if at.is_dir() and not force:  # a further version of the same configuration
                new, at = new / str(version), at / str(version)
            old = staged / f"{model.name}.old" if at.exists() else None
            if old is not None:
                os.rename(at, old)
            undo.append((at, old))
            os.rename(new, at)
    except BaseException:  # Ctrl-C too: the repository must be as it was
        for at, old in reversed(undo):
            shutil.rmtree(at, ignore_errors=True)
            if old is not None:
                os.rename(old, at)
        if fresh:
            goal.rmdir()
        raise
    sync(goal)
    return [goal / model.name for model in models]


def bundle_labels(bundle: Bundle) -> list[str]:
    """Names of the model's classes, in their order, where the bundle has them; else empty."""
    name = "processor/labels.json"
    if name not in bundle.manifest.files:
        return []
    try:
        names = {int(number): str(label) for number, label in json.loads(bundle.file(name).read_text("utf-8")).items()}
    except (ValueError, AttributeError):
        return []
    found = [names.get(number, "") for number in range(len(names))]
    return [] if "" in found else [" ".join(label.split()) for label in found]
