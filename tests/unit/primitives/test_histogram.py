"""Histograms: how exact, how they merge, how they are stored."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from millstream.primitives.errors import StoreCorrupt
from millstream.primitives.histogram import PHASES, Histogram
from tests.refusals import refused

QUANTILES = (0.0, 0.01, 0.25, 0.5, 0.9, 0.99, 0.999, 1.0)


def of(*values: int) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    return histogram


def facts(histogram: Histogram) -> tuple[object, ...]:
    return (
        histogram.count,
        histogram.skewed,
        histogram.total_us,
        histogram.max_us,
        list(histogram.cells()),
    )


def test_the_four_delays_have_their_names():
    assert PHASES == ("source_wait", "start_wait", "process", "publish")


def test_an_empty_histogram_is_zero_everywhere():
    empty = Histogram()
    assert facts(empty) == (0, 0, 0, 0, [])
    assert (empty.quantile(0.5), empty.mean_us) == (0, 0.0)


def test_values_below_sixteen_are_exact():
    for value in range(16):
        assert of(value).quantile(0.5) == value
        assert of(*range(16)).quantile((value + 1) / 16) == value


@pytest.mark.parametrize("exponent", range(4, 60))
def test_a_value_is_known_to_a_sixteenth(exponent: int):
    random = Random(exponent)
    for value in [
        1 << exponent,
        (1 << exponent + 1) - 1,
        random.randrange(1 << exponent, 2 << exponent),
    ]:
        histogram = of(value, 1 << 61)  # the greatest is exact: another one is greater here
        found = histogram.quantile(0.5)
        assert value <= found <= value + value // 16


def test_quantiles_of_many_values_are_known_to_a_sixteenth(seed: int):
    random = np.random.default_rng(seed)
    values = np.sort((random.lognormal(10, 3, size=20_000)).astype(np.int64))
    histogram = Histogram()
    histogram.record_many(values)
    for q in QUANTILES[1:]:
        exact = int(values[max(0, int(np.ceil(q * len(values))) - 1)])
        assert exact <= histogram.quantile(q) <= exact + exact // 16


def test_the_greatest_value_mean_and_total_are_exact():
    histogram = of(1_000_003, 7, 123_456_789)
    assert histogram.max_us == histogram.quantile(1.0) == 123_456_789
    assert histogram.total_us == 1_000_003 + 7 + 123_456_789
    assert histogram.mean_us == histogram.total_us / 3


def test_an_array_is_recorded_as_its_values_one_by_one(seed: int):
    random = np.random.default_rng(seed)
    for size in (0, 1, 63, 64, 5_000):
        exponents = random.integers(0, 62, size=size)
        values = (random.random(size) * 2.0**exponents).astype(np.int64)
        values[::7] *= -1
        many, single = Histogram(), of(*values.tolist())
        many.record_many(values)
        assert facts(many) == facts(single)


@pytest.mark.parametrize("exponent", range(50, 62))
def test_arrays_and_single_values_agree_where_floats_round(exponent: int):
    edge = 1 << exponent
    for value in (edge - 1, edge, edge + 1):
        many = Histogram()
        many.record_many(np.array([value] * 2))
        assert facts(many) == facts(of(value, value))


def test_a_total_beyond_64_bits_is_exact():
    histogram = Histogram()
    histogram.record_many(np.full(1_000, 2**61, dtype=np.int64))
    histogram.record(2**61, count=3)
    assert histogram.total_us == 1_003 * 2**61
    assert Histogram.from_bytes(histogram.to_bytes()).total_us == 1_003 * 2**61


def test_negative_values_are_counted_apart():
    histogram = of(-1, 5, -(2**40))
    assert (histogram.count, histogram.skewed, histogram.total_us) == (1, 2, 5)
    assert histogram.quantile(0.0) == 5


def test_a_value_may_count_for_many():
    assert facts(of(*[77] * 12)) == facts(_repeated(77, 12))


def _repeated(value: int, count: int) -> Histogram:
    histogram = Histogram()
    histogram.record(value, count)
    return histogram


def test_the_bytes_say_everything():
    histogram = of(0, 15, 16, 17, 2**40, -3)
    assert facts(Histogram.from_bytes(histogram.to_bytes())) == facts(histogram)
    assert facts(Histogram.from_bytes(Histogram().to_bytes())) == facts(Histogram())


def test_bytes_that_do_not_fit_are_refused():
    whole = of(1, 2, 300).to_bytes()
    for damaged in (b"", whole[:-1], whole + b"\0", whole[:20], b"\x02" + whole[1:]):
        with refused(StoreCorrupt, somewhere=False):
            Histogram.from_bytes(damaged)


@pytest.mark.parametrize("size", [0, 1, 16, 17, 40])
def test_many_values_are_counted_as_each_by_itself(size: int):
    random = Random(size)
    values = [random.choice([-3, 0, 7, 16, 999, 1 << 40]) for _ in range(size)]
    many = Histogram()
    many.record_many(np.array(values, dtype=np.int64))
    assert facts(many) == facts(of(*values))
    assert many.is_empty is (size == 0)
