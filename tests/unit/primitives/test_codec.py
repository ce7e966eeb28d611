"""Plain values as bytes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import msgspec
import pytest

from millstream.primitives.codec import decode, encode
from millstream.primitives.errors import PayloadError
from tests.refusals import refused


@dataclass
class Photo:
    name: str
    width: int


class Mail(msgspec.Struct):
    to: str
    sent: datetime


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        -(2**63),
        2**64 - 1,
        1.5,
        math.inf,
        "text with ä and 🎈",
        "",
        b"\x00\xff",
        [1, [2, [3]]],
        {"a": {"b": [None]}},
        datetime(2026, 1, 1, 12, 30, 1, 7, tzinfo=UTC),
    ],
)
def test_plain_values_come_back_as_they_went(value: object):
    assert decode(encode(value)) == value


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (Photo("a.jpg", 320), Photo),
        (Mail("ann", datetime(2026, 1, 1, tzinfo=UTC)), Mail),
        ((1, "two"), tuple[int, str]),
        ({1, 2}, set[int]),
        (date(2026, 1, 1), date),
        (timedelta(seconds=5), timedelta),
        (Decimal("1.50"), Decimal),
        (UUID(int=5), UUID),
        ({1: "a"}, dict[int, str]),
    ],
)
def test_a_type_brings_back_more_than_plain_values(value: object, kind: type):
    assert decode(encode(value), kind) == value


@pytest.mark.parametrize("value", [object(), lambda: 1, 2**64, -(2**63) - 1, "\ud800", {"a": 1j}])
def test_what_cannot_be_stored_is_refused(value: object):
    with refused(PayloadError, "cannot be stored", somewhere=False):
        encode(value)


def test_a_circle_is_refused():
    circle: list[object] = []
    circle.append(circle)
    with refused(PayloadError, somewhere=False):
        encode(circle)


@pytest.mark.parametrize(
    "data", [b"", b"\xc1", b"\x92\x01", b"\x01\x01", b"\xa1\x80", encode("a")[:-1]]
)
def test_bytes_that_are_no_message_are_refused(data: bytes):
    with refused(PayloadError, "cannot be read", somewhere=False):
        decode(data)


def test_bytes_of_another_type_are_refused():
    with refused(PayloadError, "cannot be read", somewhere=False):
        decode(encode({"name": "a.jpg", "width": "wide"}), Photo)


def test_bytes_hold_no_code():
    # Never pickle: decoding what a stranger wrote runs nothing.
    with refused(PayloadError, somewhere=False):
        decode(b"\x80\x04\x95")
