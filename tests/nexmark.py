"""What the tests of the Nexmark queries share: the data, and the published answers.

The data (20 persons, 40 auctions, 50 bids, and the answers) and the variants of the queries are those of RisingWave's
end-to-end tests. They are not part of this project: ``MILLSTREAM_NEXMARK`` names the folder with ``bid.parquet`` and
``expected.json``.
"""

from __future__ import annotations

import json
import os
import random
from datetime import date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import millstream as ms

FOLDER = Path(os.environ.get("MILLSTREAM_NEXMARK", "../shared/data/nexmark"))
LATE = "30s"
"""All bids lie within so much, so they may come in any order."""

NEEDS_DATA = [
    pytest.mark.needs_data,
    pytest.mark.skipif(
        not (FOLDER / "expected.json").exists(),
        reason="the Nexmark data is not there: MILLSTREAM_NEXMARK names its folder",
    ),
]

Row = dict[str, Any]
BID = {
    "auction": int,
    "bidder": int,
    "price": int,
    "channel": str,
    "url": str,
    "date_time": ms.Timestamp,
    "extra": str,
}
DAY = ms.calendar("day")


def shown(value: Any) -> str:
    """Return a value as the answers show it."""
    if isinstance(value, datetime):
        text = value.strftime("%Y-%m-%d %H:%M:%S")
        if value.microsecond:
            return f"{text}.{value.microsecond // 1000:03}"
        return text
    if isinstance(value, float):
        return f"{value:.3f}"
    return str(value)


def told(query: str, rows: list[Row]) -> list[list[str]]:
    """Return rows as lists of words, in order."""
    lines = []
    for row in rows:
        values = [
            value.date()
            if query in ("q15", "q16", "q17") and isinstance(value, datetime)
            else value
            for value in row.values()
        ]
        assert not any(isinstance(value, date) and value.year != 2015 for value in values)
        lines.append(" ".join(map(shown, values)).split())
    return sorted(lines)


def answer(query: str) -> list[list[str]]:
    """Return the published rows as lists of words; what is a difference of dialect is taken out."""
    rows = json.loads((FOLDER / "expected.json").read_text("utf-8"))[query]["rows"]
    lines = [line.split() for line in rows]
    if query == "q16":  # the third word mixes the hour with the month
        lines = [[*line[:2], *line[3:]] for line in lines]
    if query == "q17":  # the digits of an average
        lines = [[*line[:8], f"{float(line[8]):.3f}", line[9]] for line in lines]
    return sorted(lines)


def rows_of(name: str, seed: int | None) -> list[Row]:
    """Return the events of a file, shuffled if there is a seed."""
    frame = pl.read_parquet(FOLDER / f"{name}.parquet")
    rows: list[Row] = frame.with_columns(pl.col(pl.Datetime).dt.replace_time_zone("UTC")).to_dicts()
    if seed is not None:
        random.Random(seed).shuffle(rows)
    return rows
