"""Amounts of memory as people write them."""

from __future__ import annotations

import pytest

from millstream.primitives.errors import ConfigurationError
from millstream.primitives.size import format_size, size_bytes
from tests.refusals import refused


@pytest.mark.parametrize(
    ("value", "count_bytes"),
    [
        (0, 0),
        (1_000, 1_000),
        ("512B", 512),
        ("200MB", 200_000_000),
        ("1.5 GB", 1_500_000_000),
        ("1KiB", 1_024),
        (" 2gib ", 2 * 2**30),
        ("1TB", 10**12),
    ],
)
def test_sizes(value: str | int, count_bytes: int) -> None:
    assert size_bytes(value) == count_bytes


@pytest.mark.parametrize(
    "value", ["", "MB", "12000", "5 M", "5 iB", "-1MB", -1, True, 1.5, None, "9" * 30 + "TB"]
)
def test_what_is_no_size(value: object) -> None:
    with refused(ConfigurationError, "not an amount of memory", somewhere=False):
        size_bytes(value)  # type: ignore[arg-type]


def test_sizes_for_people() -> None:
    amounts = [0, 999, 1_500, 300_000_000, 2_250_000_000, 4 * 10**12]
    assert [format_size(one) for one in amounts] == [
        "0 B",
        "999 B",
        "1.5 KB",
        "300 MB",
        "2.25 GB",
        "4 TB",
    ]
