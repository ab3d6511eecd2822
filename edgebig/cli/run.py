"""``edgebig run``: a bundle on arrays and pictures."""

from __future__ import annotations

import json
import os
import tempfile
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from edgebig.cli.console import print_json, table
from edgebig.cli.loading import load_session
from edgebig.errors import BundleError, InputError, OutputError, UsageError
from edgebig.spec import TensorSpec

if TYPE_CHECKING:
    from edgebig.bundle import Bundle

Array = np.ndarray[Any, Any]

_FIRST = 5
_EPILOG = """\b
Examples:
  edgebig run resnet50.bundle -i pixel_values=cat.jpg
  edgebig run model.bundle -i x=x.npy -i mask=mask.npy -o outputs.npz
  edgebig run model.bundle -i x=samples.npz        the array x of samples.npz, or its only one
  edgebig run t5.bundle --part encoder_model -i input_ids=ids.npy -i attention_mask=mask.npy"""


@click.command(epilog=_EPILOG)
@click.argument("bundle")
@click.option(
    "-i",
    "--input",
    "inputs",
    metavar="NAME=FILE",
    multiple=True,
    required=True,
    help="An input's array (.npy, .npz) or picture; once for each input.",
)
@click.option("-o", "--output", metavar="FILE.npz", help="Writes every output to this file.")
@click.option("--part", metavar="NAME", help="Which of the model's graphs, where it has several.")
@click.option("--json", "as_json", is_flag=True, help="Prints one JSON object.")
def command(bundle: str, inputs: tuple[str, ...], output: str | None, part: str | None, as_json: bool) -> None:
    """Runs BUNDLE once on files and prints what comes out.

    A file is a .npy array, an .npz with one array or one of the input's name, or a picture, which is
    prepared as the model was trained (the bundle knows how).
    """
    from edgebig.bundle import Bundle

    if output is not None and not output.endswith(".npz"):
        raise UsageError(f"--output {output}: outputs are written to an .npz file: give a name that ends so")
    files = _by_name(inputs)
    opened = Bundle.open(bundle)
    specs = {spec.name: spec for spec in opened.part(part).inputs}
    unknown = [name for name in files if name not in specs]
    if unknown:
        raise InputError(f"--input: the model has no input {unknown[0]!r}: its inputs are {', '.join(specs)}")
    feeds = {name: _array(Path(file), specs[name], opened) for name, file in files.items()}
    with load_session(bundle, part=part) as session:
        start = time.perf_counter()
        results = session.run(feeds)
        seconds = time.perf_counter() - start
        backend = session.backend
    if output is not None:
        _write(Path(output), results)
    found = {name: _describe(array) for name, array in results.items()}
    if as_json:
        print_json({"bundle": bundle, "backend": backend, "seconds": seconds, "output": output, "outputs": found})
        return
    click.echo("\n".join(_lines(found)))
    click.echo(f"run by {backend}" + (f"; all outputs are in {output}" if output is not None else ""))


def _by_name(inputs: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in inputs:
        name, equals, file = text.partition("=")
        if not equals or not name or not file:
            raise UsageError(f"--input takes NAME=FILE (x=x.npy), found {text!r}")
        if name in found:
            raise UsageError(f"--input names {name!r} twice: {found[name]} and {file}")
        found[name] = file
    return found


def _array(file: Path, spec: TensorSpec, bundle: Bundle) -> Array:
    if not file.is_file():
        raise InputError(f"--input {spec.name}: no such file: {file}")
    if file.suffix.lower() not in (".npy", ".npz"):
        return _picture(file, spec, bundle)
    try:
        loaded = np.load(file, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            name = spec.name if spec.name in loaded.files or len(loaded.files) != 1 else loaded.files[0]
            if name not in loaded.files:
                held = ", ".join(loaded.files) or "nothing"
                raise InputError(f"--input {spec.name}: {file} holds {held}: give one array, or one of that name")
            array: Array = loaded[name]
            return array
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise InputError(f"--input {spec.name}: {file} is damaged, or holds no array of numbers: {error}") from error


def _picture(file: Path, spec: TensorSpec, bundle: Bundle) -> Array:
    from edgebig.bundle import PREPROCESS
    from edgebig.preprocess import Preprocess
    from edgebig.tasks.vision import prepare

    if PREPROCESS not in bundle.manifest.files:
        raise InputError(
            f"--input {spec.name}: {file} is no .npy or .npz, and {bundle.path} does not say how a picture becomes "
            "an array: give an array, or compile with a recipe that has a preprocess section"
        )
    try:
        how = Preprocess.from_json(json.loads(bundle.file(PREPROCESS).read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise BundleError(f"{bundle.path}: {PREPROCESS}: {error}: compile the model again") from error
    return prepare(file, how).astype(spec.dtype)


def _describe(array: Array) -> dict[str, Any]:
    flat = array.ravel()
    found: dict[str, Any] = {"dtype": str(array.dtype), "shape": list(array.shape)}
    if flat.size and np.issubdtype(array.dtype, np.number):
        wide = flat.astype(np.float64)
        found |= {"min": flat.min().item(), "max": flat.max().item(), "mean": float(wide.mean())}
    return {**found, "first": flat[:_FIRST].tolist()}


def _lines(outputs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    rows = []
    for name, found in outputs.items():
        figures = " ".join(f"{key} {_short(found[key])}" for key in ("min", "max", "mean") if key in found)
        sizes = "x".join(map(str, found["shape"])) or "scalar"
        count = int(np.prod(found["shape"], dtype=np.int64))
        more = " …" if count > _FIRST else ""
        values = " ".join(_short(value) for value in found["first"])
        rows.append([name, str(found["dtype"]), sizes, figures, f"[{values}{more}]"])
    return table(rows)


def _short(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _write(path: Path, arrays: Mapping[str, Array]) -> None:
    """Writes an ``.npz`` beside its goal and renames it; NumPy's own ``savez`` takes no array named ``file``.

    Raises:
        OutputError: it cannot be written there.
    """
    temporary: str | None = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
        with os.fdopen(handle, "wb") as stream, zipfile.ZipFile(stream, "w") as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            os.unlink(temporary)
