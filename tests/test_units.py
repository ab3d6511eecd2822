"""Sizes as people write them."""

from __future__ import annotations

import pytest

from edgebig.errors import UsageError
from edgebig.units import bytes_text, parse_bytes


@pytest.mark.parametrize(
    ("text", "size"),
    [("2G", 2 << 30), ("512M", 512 << 20), ("512 MiB", 512 << 20), ("1.5g", 3 << 29), ("100", 100), ("8KB", 8192)],
)
def test_a_size_is_read(text: str, size: int) -> None:
    assert parse_bytes(text) == size
    assert parse_bytes(bytes_text(size)) == size


@pytest.mark.parametrize("text", ["", "G", "-1", "2 Gigs", "1e9", "nan"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="workspace is written 2G, 512M or a number of bytes, found"):
        parse_bytes(text, "workspace")


def test_exact_units_are_shown() -> None:
    assert [bytes_text(size) for size in (0, 1023, 1024, 3 << 29, 1 << 40)] == ["0", "1023", "1K", "1536M", "1T"]
