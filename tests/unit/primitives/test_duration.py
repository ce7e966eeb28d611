"""Durations as people write them."""

from __future__ import annotations

from datetime import timedelta

import pytest

from millstream.primitives.duration import duration_us
from millstream.primitives.errors import ConfigurationError
from tests.refusals import refused


@pytest.mark.parametrize(
    ("value", "microseconds"),
    [
        ("1us", 1),
        ("250ms", 250_000),
        ("2s", 2_000_000),
        ("0.5s", 500_000),
        ("1m", 60_000_000),
        ("22h", 79_200_000_000),
        ("7d", 604_800_000_000),
        ("2w", 1_209_600_000_000),
        ("1h30m", 5_400_000_000),
        (" 5 ms ", 5_000),
        ("0s", 0),
        (timedelta(microseconds=7), 7),
        (timedelta(days=1), 86_400_000_000),
        (timedelta(0), 0),
    ],
)
def test_a_duration_is_read_in_microseconds(value: str | timedelta, microseconds: int):
    assert duration_us(value) == microseconds


@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        "5",
        "s",
        "5 years",
        "-1s",
        "1s-",
        "1,5s",
        "1e3s",
        "5S",
        "ms5",
        "1h 30m",
        5,
        5.0,
        None,
        b"5s",
    ],
)
def test_what_is_no_duration_is_refused(value: object):
    with refused(ConfigurationError, repr(value), somewhere=False):
        duration_us(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [timedelta(microseconds=-1), timedelta(days=-1)])
def test_a_negative_duration_is_refused(value: timedelta):
    with refused(ConfigurationError, somewhere=False):
        duration_us(value)


@pytest.mark.parametrize("value", ["9" * 400 + "d", "106751991168d", "9" * 30 + "us"])
def test_a_duration_that_64_bits_cannot_hold_is_refused(value: str):
    with refused(ConfigurationError, somewhere=False):
        duration_us(value)


def test_the_longest_duration_is_read():
    assert duration_us("106751990d") == 106_751_990 * 86_400_000_000
