"""Axes: which sizes a graph's dynamic axes have in common, what they count, and a first guess of their range."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from edgebig.spec import Dim, TensorSpec

Extent = tuple[int, int, int]
"""Smallest, best and largest size of an axis."""

Sizes = Mapping[str, int]
"""A size for each dynamic axis, by its name."""

Shapes = dict[str, tuple[int, ...]]
"""The shape of each input that has a dynamic axis."""

Role = Literal["batch", "sequence", "past", "sound", "side", "volume", "frames", "channels", "other"]

GUESSES: dict[Role, Extent] = {
    "batch": (1, 1, 8),
    "sequence": (1, 128, 512),
    "past": (0, 127, 511),
    "sound": (1600, 16000, 320000),
    "side": (32, 224, 640),
    "volume": (16, 64, 128),
    "frames": (1, 16, 32),
    "channels": (3, 3, 3),
    "other": (1, 1, 16),
}
"""Where nothing else is known. Sound: a tenth of a second, one and twenty seconds at 16 kHz. Volume: each of the three
sides; frames: of a film."""

_SOUND = ("input_values", "audio", "wave", "speech", "signal", "samples", "sound")
_CHANNELS = (1, 3, 4)
_RGB = 3
_TIME = {"t", "time", "times", "frame", "frames", "step", "steps", "timestep", "timesteps"}
"""Words of which an axis's name that counts time holds one: ``n_frames``."""


@dataclass(frozen=True)
class Layout:
    """The dynamic axes of a graph's inputs.

    Attributes:
        inputs: those that have one.
        names: of all inputs.
        roles: what each axis counts, by its name in order of appearance. An axis without a name is called after its
            input (``x[1]``); one that is named by an expression of others (``past + 1``) is not among them.
    """

    inputs: tuple[TensorSpec, ...]
    roles: Mapping[str, Role]
    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, inputs: Sequence[TensorSpec], known: Iterable[str] = ()) -> Layout:
        """The axes of these inputs; ``known`` are further names that expressions may use."""
        dynamic = tuple(spec for spec in inputs if not spec.is_static)
        names = {d for spec in dynamic for d in spec.shape if isinstance(d, str) and d.isidentifier()} | set(known)
        roles: dict[str, Role] = {}
        for spec in dynamic:
            for position, dim in enumerate(spec.shape):
                if isinstance(dim, int) or (isinstance(dim, str) and dim not in names and _follows(dim, names)):
                    continue
                roles.setdefault(axis_name(spec, position), _role(spec, position))
        return cls(dynamic, roles, tuple(spec.name for spec in inputs))

    def shapes(self, sizes: Sizes) -> Shapes:
        """The inputs' shapes with these sizes.

        Raises:
            KeyError: an axis has no size.
        """
        return {
            spec.name: tuple(self._size(spec, position, sizes) for position in range(len(spec.shape)))
            for spec in self.inputs
        }

    def sizes(self, shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
        """The axes' sizes in these shapes; those of inputs that are missing or of another rank are left out."""
        found: dict[str, int] = {}
        for spec in self.inputs:
            shape = shapes.get(spec.name, ())
            if len(shape) == len(spec.shape):
                for position, size in enumerate(shape):
                    name = axis_name(spec, position)
                    if name in self.roles:
                        found.setdefault(name, int(size))
        return found

    def _size(self, spec: TensorSpec, position: int, sizes: Sizes) -> int:
        dim = spec.shape[position]
        if isinstance(dim, int):
            return dim
        name = axis_name(spec, position)
        if name in sizes:
            return sizes[name]
        try:
            return evaluate(str(dim), sizes)
        except ArithmeticError:
            return 1


def axis_name(spec: TensorSpec, position: int) -> str:
    """The name of an input's dynamic axis; one without a name gets one."""
    dim: Dim = spec.shape[position]
    return dim if isinstance(dim, str) else f"{spec.name}[{position}]"


def evaluate(expression: str, sizes: Sizes) -> int:
    """The size of an axis that an exporter named by an expression of others.

    Raises:
        KeyError, ValueError, ArithmeticError, SyntaxError: it is no sum, difference, product or quotient of them.
    """
    return _value(ast.parse(expression, mode="eval").body, sizes)


def _follows(expression: str, names: set[str]) -> bool:
    """Whether an axis's name is an expression of others."""
    try:
        tree = ast.parse(expression, mode="eval").body
        if not isinstance(tree, ast.BinOp):
            return False
        _value(tree, dict.fromkeys(names, 1))
    except (SyntaxError, KeyError, ValueError, ArithmeticError):
        return False
    return True


_OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}


def _value(node: ast.expr, sizes: Sizes) -> int:
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_value(node.left, sizes), _value(node.right, sizes))
    if isinstance(node, ast.Name):
        return sizes[node.id]
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    raise ValueError(ast.dump(node))


def _role(spec: TensorSpec, position: int) -> Role:
    dim, rank = spec.shape[position], len(spec.shape)
    name, tensor = (dim or "").lower() if isinstance(dim, str) else "", spec.name.lower()
    is_float = spec.dtype.startswith(("float", "bfloat"))
    if "batch" in name or (name in {"n", "b"} and (position == 0 or _is_time(spec.shape[0]))):
        return "batch"
    if position == 0 and not name:
        return "batch"
    if ("past" in name and name.isidentifier()) or (not name and "past" in tensor and position == rank - 2):
        return "past"
    if "channel" in name and rank == 4:
        return "channels"
    if rank == 4 and (is_float or spec.dtype == "uint8") and position in _sides(spec):
        return "side"
    if rank == 5 and is_float and position in (space := _space(spec)):
        return space[position]
    if is_float and position == rank - 1 and any(word in tensor for word in _SOUND) and "mask" not in tensor:
        return "sequence" if _has_features(spec) else "sound"
    if "seq" in name or "length" in name or "token" in name or (rank <= 3 and _is_time(dim)):
        return "sequence"
    if not name and rank == 2 and position == 1 and spec.dtype in {"int32", "int64"}:
        return "sequence"
    return "other"


def _is_time(dim: Dim) -> bool:
    return isinstance(dim, str) and not _TIME.isdisjoint(dim.lower().split("_"))


def _has_features(spec: TensorSpec) -> bool:
    """Whether an input that is called after sound holds features of it, as 80 mel bands, and no samples."""
    bands = spec.shape[1]
    return len(spec.shape) == 3 and isinstance(bands, int) and bands > 2


def _space(spec: TensorSpec) -> dict[int, Role]:
    """What the axes of a volume or a film count, by position; nothing where the shape shows neither."""
    names = [str(dim).lower() for dim in spec.shape]
    channels = next((i for i in (1, 4, 2) if spec.shape[i] in _CHANNELS or "channel" in names[i]), None)
    if channels == 2:  # frames of pictures
        return {1: "frames", 3: "side", 4: "side"}
    places = (1, 2, 3) if channels == 4 else (2, 3, 4)
    if channels is not None and spec.shape[channels] == _RGB:
        return {places[0]: "frames", places[1]: "side", places[2]: "side"}
    if channels is None and not {"depth", "d", "z"} & set(names):
        return {}
    return dict.fromkeys(places, "volume")


def _sides(spec: TensorSpec) -> tuple[int, ...]:
    """The positions of height and width in a picture's shape; none where it is no picture."""
    first, last = spec.shape[1], spec.shape[3]
    if first in _CHANNELS or "channel" in str(first):
        return 2, 3
    if last in _CHANNELS or "channel" in str(last):
        return 1, 2
    return tuple(i for i, d in enumerate(spec.shape) if str(d).lower() in {"height", "width", "h", "w"})
