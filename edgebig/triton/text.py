"""The text format of protocol buffers, as far as a model's configuration needs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Message = Mapping[str, Any]
"""A field's name and value: a string, a number, a flag, a :class:`Symbol`, another message, or a list of these."""

_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}


@dataclass(frozen=True)
class Symbol:
    """A value of an enumeration: ``TYPE_FP32``."""

    name: str


def render(message: Message, indent: int = 0) -> str:
    """The message's lines, as https://protobuf.dev/reference/protobuf/textformat-spec has them.

    A list of scalars is written in brackets, a list of messages as a block for each; an empty list is left out.
    """
    pad, lines = "  " * indent, []
    for name, value in message.items():
        many = isinstance(value, Sequence) and not isinstance(value, str)
        if many and not any(isinstance(item, Mapping) for item in value):
            if value:
                lines.append(f"{pad}{name}: [{', '.join(map(_scalar, value))}]\n")
            continue
        for item in value if many else [value]:
            if isinstance(item, Mapping):
                inner = render(item, indent + 1)
                lines.append(f"{pad}{name} {{\n{inner}{pad}}}\n" if inner else f"{pad}{name} {{}}\n")
            else:
                lines.append(f"{pad}{name}: {_scalar(item)}\n")
    return "".join(lines)


def _scalar(value: Any) -> str:
    if isinstance(value, Symbol):
        return value.name
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{"".join(map(_escaped, value))}"'
    return str(value)


def _escaped(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    return f"\\{ord(character):03o}" if ord(character) < 32 or character == "\x7f" else character
