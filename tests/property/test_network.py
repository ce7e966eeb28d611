"""A bad network: what arrives is what its truth says, whatever was asked of it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import millstream as ms
from millstream.testing import BadNetwork, GilbertElliott

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
rates = st.floats(0, 1)


def sent(count: int, keys: int = 1) -> list[dict[str, Any]]:
    return [{"k": n % keys, "n": n, "at": NOON + timedelta(seconds=n)} for n in range(count)]


@given(rates, rates, rates, rates, st.integers(0, 9), st.integers(1, 3), st.booleans())
def test_arrived_is_sent_less_missing_and_repeated_twice(
    missing: float, delayed: float, swapped: float, twice: float, seed: int, keys: int, timed: bool
) -> None:
    when: dict[str, Any] = {"delay": ("1s", "9s"), "time": "at"} if timed else {}

    def network() -> BadNetwork:
        return BadNetwork(
            missing=missing,
            delayed=delayed,
            out_of_order=swapped,
            repeated=twice,
            seed=seed,
            key="k",
            **when,
        )

    one, other = network(), network()
    arrived = [event["n"] for event in one.through(sent(60, keys))]
    assert arrived == [event["n"] for event in other.through(sent(60, keys))]
    truth = one.truth
    assert arrived == truth.arrived
    expected = Counter(range(60)) - Counter(truth.missing) + Counter(truth.repeated)
    assert Counter(arrived) == expected
    assert not set(truth.delayed) & set(truth.out_of_order)
    first = {n: arrived.index(n) for n in arrived}
    overtaken = {
        n
        for n in first
        if any(m > n and m % keys == n % keys and first[m] < first[n] for m in first)
    }
    assert set(truth.out_of_order) <= overtaken <= {*truth.delayed, *truth.out_of_order}
    if not timed:
        assert {*truth.delayed, *truth.out_of_order} == overtaken
        for n, by in truth.delayed.items():
            assert by == sum(m > n and m % keys == n % keys and first[m] < first[n] for m in first)


def test_rates_are_met() -> None:
    network = BadNetwork(missing=0.1, delayed=0.2, repeated=0.05, seed=1)
    list(network.through(sent(20_000)))
    truth = network.truth
    assert 0.09 < len(truth.missing) / 20_000 < 0.11
    assert 0.17 < len(truth.delayed) / 20_000 < 0.19  # a fifth of what is not missing
    assert 0.04 < len(truth.repeated) / 20_000 < 0.05


def test_bursts_have_the_rate_and_the_length_of_the_formula() -> None:
    network = BadNetwork(missing=GilbertElliott(0.02, 0.25), seed=3)
    list(network.through(sent(50_000)))
    lost = network.truth.missing
    assert 0.067 < len(lost) / 50_000 < 0.081  # 0.02 / 0.27
    bursts = 1 + sum(b - a > 1 for a, b in pairwise(lost))
    assert 3.7 < len(lost) / bursts < 4.3  # 1 / 0.25


def test_exact_choices() -> None:
    network = BadNetwork(
        missing={1}, out_of_order={2}, repeated=lambda e: e["n"] == 4, delay=(1, 1)
    )
    arrived = [event["n"] for event in network.through(sent(6))]
    assert [n for n in dict.fromkeys(arrived)] == [0, 3, 2, 4, 5]
    assert arrived.count(4) == 2
    network.check(missing=[1], out_of_order=[2], repeated=[4], delayed=[])


def test_a_delay_in_event_time_is_kept() -> None:
    network = BadNetwork(delayed={0}, delay=("3s", "3s"), time="at")
    assert [event["n"] for event in network.through(sent(6))] == [1, 2, 0, 3, 4, 5]
    assert network.truth.delayed == {0: 3_000_000}


def test_async_iterators_are_the_same() -> None:
    async def source() -> AsyncIterator[dict[str, Any]]:
        for event in sent(50):
            yield event

    async def gather() -> list[Any]:
        return [e["n"] async for e in BadNetwork(missing=0.2, delayed=0.3).athrough(source())]

    sync = [e["n"] for e in BadNetwork(missing=0.2, delayed=0.3).through(sent(50))]
    assert asyncio.run(gather()) == sync


def test_a_failed_check_says_what_is_wrong_and_the_seed() -> None:
    network = BadNetwork(missing={1}, seed=42)
    list(network.through(sent(3)))
    with pytest.raises(AssertionError, match=r"overlooked \[1\], invented \[2\].*seed=42"):
        network.check(missing=[2])
    with pytest.raises(ms.errors.ConfigurationError, match="nothing that a network does"):
        network.check(lost=[1])


def test_a_topic_keeps_its_partitions(tmp_path: Any) -> None:
    with ms.App("t", store=tmp_path / "t.mill", durability="process") as app:
        shape = {"k": int, "n": int, "at": ms.Timestamp}
        source = app.topic("source", schema=shape, key="k", partitions=2)
        target = app.topic("target", schema=shape, key="k", partitions=2)
        source.append(sent(100, keys=5))
        network = BadNetwork(missing=0.1, delayed=0.2, repeated=0.1, key="k")
        network.copy(source, target)
        places = {e["n"]: b.partition for b in source.batches() for e in b.to_pylist()}
        got = [(e["n"], b.partition) for b in target.batches() for e in b.to_pylist()]
        assert all(places[n] == partition for n, partition in got)
        assert [n for n, _ in got] == [e["n"] for e in network.truth.events(network.truth.arrived)]
        for wrong in (
            source,
            app.topic("thin", schema=shape),
            app.topic("o", schema={"k": int}, partitions=2),
        ):
            with pytest.raises(ms.errors.ConfigurationError, match="copy"):
                network.copy(source, wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"missing": 5}, {"delayed": -0.1}, {"repeated": True}, {"out_of_order": "x"}, {"missing": {-1}},
        {"delay": (0, 3)}, {"delay": (5, 3)}, {"delay": ("1s", "2s")}, {"delay": (1, 2), "time": "at"},
    ],
)  # fmt: skip
def test_bad_input_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ms.errors.ConfigurationError, match="expected"):
        BadNetwork(**wrong)


def test_an_event_without_key_or_time_is_refused() -> None:
    with pytest.raises(ms.errors.SchemaError, match="event 0 has no 'user'"):
        list(BadNetwork(key="user").through(sent(1)))
