"""approx_n_unique and approx_quantile: within their errors, and the same for every cut."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from millstream.engines.local.flow_aggregate import GroupKernel
from millstream.engines.local.flow_sketches import register_bits
from millstream.engines.local.flow_steps import from_arrow
from millstream.flows.aggregate import Aggregate, approx_n_unique, approx_quantile
from millstream.flows.expression import col
from millstream.flows.plan import Aggregation
from millstream.primitives.errors import PlanError
from tests.unit.flows.kernels import aggregated, floats, integers, texts


def of_groups(aggregate: Aggregate, table: pa.Table) -> tuple[list[Any], pl.DataFrame]:
    """Return the values of the groups of ``k``, in its order, and the state."""
    kernel = GroupKernel(
        Aggregation(None, (("k", col("k")),), (("v", aggregate),)), table.schema, where="here"
    )
    state = kernel.partial(from_arrow(table).lazy()).collect()
    return kernel.final(state)["v"].to_list(), state


def counted(error: float, distinct: int, kind: pa.DataType, groups: int) -> list[int]:
    """Return the estimates of groups that have so many distinct values each, and none in common."""
    numbers = np.arange(groups * distinct)
    values = pa.array(numbers).cast(kind)
    table = pa.table({"k": numbers // distinct, "x": values})
    return of_groups(approx_n_unique("x", error=error), table)[0]


@pytest.mark.parametrize("kind", [pa.int64(), pa.float64(), pa.string()])
@pytest.mark.parametrize("distinct", [1, 10, 300, 3_000, 20_000])
@pytest.mark.parametrize("error", [0.02, 0.1])
def test_the_error_of_a_count_is_as_said(kind: pa.DataType, distinct: int, error: float):
    groups = max(40, 4_000 // distinct) if distinct < 3_000 else 40
    found = counted(error, distinct, kind, groups)
    errors = np.array(found) / distinct - 1
    # The values are fixed, so is what comes out. Of 40 estimates the spread itself is known to a fifth, so a quarter
    # more than what is said is allowed, and four times of it for the worst; and answers are whole numbers.
    rounded = 0.5 / distinct
    assert math.sqrt(np.mean(errors**2)) <= error * 1.25
    assert np.abs(errors).max() <= 4 * error + rounded
    # It is not biased either.
    assert abs(errors.mean()) <= 3 * error / math.sqrt(groups) + rounded


def test_a_million_values_in_one_sketch():
    [found] = counted(0.01, 1_000_000, pa.int64(), 1)
    assert abs(found / 1_000_000 - 1) <= 0.03


@pytest.mark.parametrize("error", [0.005, 0.02, 0.25])
def test_the_state_of_a_count_is_bounded(error: float):
    table = pa.table({"k": pa.array([0] * 500_000), "x": np.arange(500_000)})
    _, state = of_groups(approx_n_unique("x", error=error), table)
    [codes] = state.select(pl.col("^__ms_s0_.*$")).row(0)
    registers = 2 ** register_bits(error)
    assert 1.04 / math.sqrt(registers) <= error
    assert len(codes) <= registers
    assert 4 * registers <= 2 * 4.4 / error**2


def test_few_values_are_counted_as_they_are():
    assert aggregated(approx_n_unique("x"), x=texts("a", "b", "a", None)) == 2
    assert aggregated(approx_n_unique("x"), x=integers(*range(-5, 5), None)) == 10
    assert aggregated(approx_n_unique("x"), x=pa.array([b"", b"a", b""])) == 2
    assert aggregated(approx_n_unique("x"), x=pa.array([True, False, None])) == 2


def test_nan_is_one_value_and_so_is_zero():
    values = floats(math.nan, -math.nan, 0.0, -0.0, None)
    assert aggregated(approx_n_unique("x"), x=values) == 2


def test_times_and_dates_are_counted():
    times = [datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2, 2)]
    assert aggregated(approx_n_unique("x"), x=pa.array(times, pa.timestamp("us", "UTC"))) == 2
    assert aggregated(approx_n_unique("x"), x=pa.array([t.date() for t in times])) == 2


def test_nothing_has_no_distinct_values():
    assert aggregated(approx_n_unique("x"), x=texts(None)) == 0


def test_hashes_are_the_same_for_ever():
    # They are stored with open windows: another value here means that a store of yesterday is counted wrongly.
    state = of_groups(approx_n_unique("x"), pa.table({"k": [0, 1], "x": ["a", "b"]}))[1]
    texts_found = state.sort("k")[:, -1].to_list()
    state = of_groups(approx_n_unique("x"), pa.table({"k": [0, 1], "x": [1, 2]}))[1]
    assert (texts_found, state.sort("k")[:, -1].to_list()) == EXPECTED_CODES


EXPECTED_CODES = ([[48387], [120065]], [[148481], [154945]])


QS = (0.0, 0.01, 0.5, 0.95, 0.99, 1.0)
SETS = {
    "log-normal": np.random.default_rng(1).lognormal(3, 4, 5_000),
    "both signs": np.random.default_rng(2).normal(0, 1_000, 5_001),
    "whole": np.arange(-50.0, 951.0),
    "one": np.array([7.25]),
    "the whole range": np.ldexp(1.0, np.arange(-1074, 1024)),
    "largest": np.array([1.7976931348623157e308] * 3 + [-1.7976931348623157e308]),
}


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("q", QS)
@pytest.mark.parametrize("error", [0.001, 0.01, 0.25])
def test_the_error_of_a_quantile_is_at_most_what_is_said(name: str, q: float, error: float):
    values = SETS[name]
    table = pa.table({"k": np.zeros(len(values), dtype=np.int64), "x": values})
    [found] = of_groups(approx_quantile("x", q, error=error), table)[0]
    exact = np.sort(values)[math.floor(q * (len(values) - 1))]
    # The logarithm of the edge of a bucket is rounded; numbers below 1e-308 have fewer digits.
    assert abs(found - exact) <= error * abs(exact) * (1 + 1e-9) + 5e-324


def test_quantiles_of_a_group_do_not_see_other_groups():
    values = np.concatenate([np.full(3, 10.0), np.full(900, 1_000.0), [-5.0]])
    keys = np.array([0] * 3 + [1] * 900 + [2])
    found, _ = of_groups(approx_quantile("x", 0.5), pa.table({"k": keys, "x": values}))
    assert found == pytest.approx([10, 1_000, -5], rel=0.01)


@pytest.mark.parametrize("q", [0, 0.5, 1])
def test_every_cut_has_the_same_quantile(q: float):
    values = [5.0, -1.0, 9.5, None, 9.0, 0.0, -3e-5, 4e20]
    assert isinstance(aggregated(approx_quantile("x", q), x=floats(*values)), float)


def test_zero_infinity_and_nan_are_exact():
    def at(q: float, *values: float | None) -> float:
        found: float = aggregated(approx_quantile("x", q), x=floats(*values))
        return found

    assert at(0.5, -1.0, 0.0, -0.0, 0.0, 1.0) == 0
    assert at(0, -math.inf, 1.0) == -math.inf
    assert at(1, math.inf, 1.0) == math.inf
    assert math.isnan(at(1, math.nan, math.inf))
    assert at(0, math.nan, 0.0) == 0


def test_integers_are_taken_as_floats():
    assert aggregated(approx_quantile("x", 1), x=integers(1, 10**18)) == pytest.approx(
        1e18, rel=0.01
    )


def test_a_quantile_of_nothing_is_null():
    assert aggregated(approx_quantile("x", 0.5), x=floats(None)) is None


def test_the_state_of_a_quantile_is_a_count_for_each_bucket():
    values = np.random.default_rng(3).uniform(1, 10, 100_000)
    table = pa.table({"k": np.zeros(100_000, dtype=np.int64), "x": values})
    _, state = of_groups(approx_quantile("x", 0.5, error=0.01), table)
    [codes] = state.select(pl.col("^__ms_s0_.*$")).row(0)
    # Nine tenths of a power of ten, and a bucket at each end.
    assert len(codes) <= 1.16 / 0.01 + 2
    assert sum(code & (2**42 - 1) for code in codes) == 100_000


@pytest.mark.parametrize("error", [0.0, 0.5, -1, math.nan])
def test_an_error_that_no_sketch_has_is_refused(error: float):
    for make in (approx_n_unique, lambda of, error: approx_quantile(of, 0.5, error=error)):
        with pytest.raises(PlanError, match="a sketch with an error") as refused:
            make("x", error=error)
        assert refused.value.expected
        assert refused.value.next_step


def test_a_share_outside_0_to_1_is_refused():
    with pytest.raises(PlanError, match="does not exist"):
        approx_quantile("x", 1.5)
