"""Aggregates of decimals: exact sums in 38 digits, floats where a division or a root is asked for."""

from __future__ import annotations

import statistics
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import millstream as ms
from millstream.flows import aggregate as agg
from millstream.primitives.errors import PlanError, StepError
from tests.refusals import refused
from tests.unit.flows.kernels import aggregated, integers

MONEY = pa.decimal128(10, 2)
VALUES = [Decimal("0.10"), None, Decimal("-7.25"), Decimal("0.20"), Decimal("0.10")]
KNOWN = [value for value in VALUES if value is not None]


def money(*values: Decimal | None) -> pa.Array:
    return pa.array(values, MONEY)


@pytest.mark.parametrize(
    ("aggregate", "expected"),
    [
        (agg.sum("x"), sum(KNOWN)),
        (agg.min("x"), min(KNOWN)),
        (agg.max("x"), max(KNOWN)),
        (agg.count("x"), 4),
        (agg.n_unique("x"), 3),
        (agg.approx_n_unique("x"), 3),
        (agg.top_k("x", 2), [Decimal("0.20"), Decimal("0.10")]),
        (agg.collect("x"), sorted(KNOWN)),
        (agg.first("x", by="k"), VALUES[0]),
        (agg.arg_max("k", by="x"), 3),
    ],
)
def test_they_stay_exact(aggregate: agg.Aggregate, expected: object):
    assert aggregated(aggregate, x=money(*VALUES), k=integers(*range(5))) == expected


@pytest.mark.parametrize(
    ("aggregate", "expected"),
    [
        (agg.mean("x"), float(statistics.mean(KNOWN))),
        (agg.var("x"), float(statistics.variance(KNOWN))),
        (agg.std("x", ddof=0), float(statistics.pstdev(KNOWN))),
        (agg.median("x"), 0.10),
        (agg.approx_quantile("x", 0, error=0.01), pytest.approx(-7.25, rel=0.01)),
    ],
)
def test_they_become_floats(aggregate: agg.Aggregate, expected: Any):
    if isinstance(expected, float):
        expected = pytest.approx(expected, rel=1e-12)
    assert aggregated(aggregate, x=money(*VALUES)) == expected


def test_of_nothing_there_is_none():
    for aggregate in (agg.sum("x"), agg.mean("x"), agg.min("x"), agg.median("x")):
        assert aggregated(aggregate, x=money(None, None)) is None


def test_a_sum_has_38_digits_and_no_more(tmp_path: Path):
    most = Decimal("9" * 38)
    kind = pa.decimal128(38, 0)
    assert aggregated(agg.sum("x"), x=pa.array([Decimal("9" * 37 + "8"), 1], kind)) == most
    with ms.App("sums", store=tmp_path / "sums.mill", durability="process") as app:
        rows = app.read(pa.table({"x": pa.array([most, 1], kind)}))
        with refused(StepError, "overflow in decimal addition"):
            rows.agg(much=agg.sum("x")).run()


def test_they_are_keys_and_have_an_order(tmp_path: Path):
    with ms.App("keys", store=tmp_path / "keys.mill", durability="process") as app:
        table = pa.table({"x": money(*VALUES), "limit": money(*[Decimal(0)] * 5)})
        rows = app.read(table)
        assert rows.group_by("x").agg(n=agg.count()).sort("x").collect().to_pylist() == [
            {"x": None, "n": 1},
            {"x": Decimal("-7.25"), "n": 1},
            {"x": Decimal("0.10"), "n": 2},
            {"x": Decimal("0.20"), "n": 1},
        ]
        assert rows.filter(ms.col("x") > ms.col("limit")).collect().num_rows == 3
        assert rows.distinct("x").collect().num_rows == 4
        names = pa.table({"x": money(Decimal("0.10"), None), "name": ["a dime", "nothing"]})
        joined = rows.join(names, on="x", how="inner").collect()
        assert joined["name"].to_pylist() == ["a dime"] * 2
        others = names.set_column(0, "x", pa.array([1, 2], pa.decimal128(10, 3)))
        with refused(PlanError, "decimal128(10, 2)", "decimal128(10, 3)"):
            rows.join(others, on="x")
        with refused(PlanError, "does not fit decimal128(10, 2)", "cast"):
            rows.with_columns(y=ms.col("x") * 2)
