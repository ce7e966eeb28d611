"""What answers of a webhook mean, and how long it asks to wait."""

from __future__ import annotations

import pytest

from millstream.flows.webhook import (
    RETRY_AFTER_MAX_US,
    Meaning,
    idempotency_key,
    retry_after_us,
    webhook,
)

NOW_US = 1_767_225_600_000_000  # 2026-01-01T00:00:00Z, a Thursday


@pytest.mark.parametrize(
    ("text", "wait_us"),
    [
        (None, 0),
        ("", 0),
        ("0", 0),
        ("7", 7_000_000),
        ("99999999999999", RETRY_AFTER_MAX_US),
        ("-1", 0),
        ("1.5", 0),
        ("²", 0),
        ("soon", 0),
        ("Thu, 01 Jan 2026 00:00:09 GMT", 9_000_000),
        ("Wed, 31 Dec 2025 23:59:59 GMT", 0),
        ("Fri, 01 Jan 2027 00:00:00 GMT", RETRY_AFTER_MAX_US),
    ],
)
def test_retry_after(text: str | None, wait_us: int):
    assert retry_after_us(text, now_us=NOW_US) == wait_us


def test_every_status_means_one_thing():
    sink = webhook("https://shop.example/")
    found = {status: sink.meaning(status) for status in range(100, 600)}
    assert {s for s, m in found.items() if m is Meaning.TAKEN} == set(range(200, 300))
    again = {408, 425, 429, *range(500, 600)}
    assert {s for s, m in found.items() if m is Meaning.AGAIN} == again
    assert {s for s, m in found.items() if m is Meaning.BUSY} == {409}


def test_keys_of_different_rows_differ():
    keys = [
        idempotency_key("s", flow, number, first, rows)
        for flow in ("a", "a/1", "a.1", "ä")
        for number in (1, 11)
        for first in (0, 1)
        for rows in (1, 2, 11)
    ]
    assert len(set(keys)) == len(keys)
    assert all(key.isascii() and "." not in key for key in keys)
