"""Durations for people: three digits, and the unit that fits."""

from __future__ import annotations

import pytest

from millstream.primitives.duration import duration_us, format_duration


@pytest.mark.parametrize(
    ("duration", "shown"),
    [
        ("0us", "0 µs"),
        ("999us", "999 µs"),
        ("1250us", "1.25 ms"),
        ("2s", "2 s"),
        ("119s", "119 s"),
        ("2m", "2 min"),
        ("3h30m", "3.5 h"),
        ("47h", "47 h"),
        ("2d", "2 d"),
        ("729d", "729 d"),
        ("730d", "2 years"),
        ("4900d", "13.4 years"),
    ],
)
def test_a_duration_has_the_unit_that_fits(duration: str, shown: str) -> None:
    assert format_duration(duration_us(duration)) == shown


def test_a_negative_duration_keeps_its_sign() -> None:
    assert format_duration(-2_500_000) == "-2.5 s"
