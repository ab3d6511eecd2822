"""The text format: what is written is what protobuf's own parser reads."""

from __future__ import annotations

import pytest
from google.protobuf import struct_pb2, text_format
from hypothesis import given
from hypothesis import strategies as st
from triton_proto import parse

from edgebig.triton.text import Symbol, render


def test_messages_lists_and_symbols() -> None:
    message = {
        "name": 'a "b" \\ c',
        "max_batch_size": 8,
        "input": [
            {"name": "x", "data_type": Symbol("TYPE_FP32"), "dims": [3, -1]},
            {"name": "y", "data_type": Symbol("TYPE_BOOL"), "dims": [1], "reshape": {}},
        ],
        "output": [],
        "dynamic_batching": {},
    }
    text = render(message)
    assert text == (
        'name: "a \\"b\\" \\\\ c"\n'
        "max_batch_size: 8\n"
        'input {\n  name: "x"\n  data_type: TYPE_FP32\n  dims: [3, -1]\n}\n'
        'input {\n  name: "y"\n  data_type: TYPE_BOOL\n  dims: [1]\n  reshape {}\n}\n'
        "dynamic_batching {}\n"
    )
    config = parse(text)
    assert config.name == message["name"] and [list(i.dims) for i in config.input] == [[3, -1], [1]]
    assert config.HasField("dynamic_batching") and config.input[1].HasField("reshape")


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_string_is_read_as_it_was(text: str) -> None:
    assert text_format.Parse(render({"string_value": text}), struct_pb2.Value()).string_value == text


def test_the_parser_does_refuse() -> None:
    for wrong in ({"colour": 1}, {"max_batch_size": "8"}, {"platform": Symbol("TYPE_FP32")}):
        with pytest.raises(text_format.ParseError):
            parse(render(wrong))
