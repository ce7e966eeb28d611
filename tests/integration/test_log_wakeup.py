"""Waiting without polling: a consumer in another process sleeps in the kernel, and a commit wakes it."""

from __future__ import annotations

import asyncio
import os
import resource
from pathlib import Path
from typing import Any

import pytest

from millstream.engines.local.log import LocalLog
from millstream.log.contract import ConsumerOptions
from millstream.log.definition import TopicInfo
from millstream.primitives.clock import SYSTEM_CLOCK
from millstream.store import Store
from millstream.testing.crash import Report, Running, start
from millstream.testing.log_suite import SOON_S, options
from tests.log_kit import make

IDLE_S = 3.0
CPU_MS_MAX = 30.0
"""Of an idle second a consumer may look at its group twice: some tenths of a millisecond each. Polling every
millisecond would cost hundreds."""
SWITCHES_MAX = 60
"""How often an idle process may wake up in that time, with its heartbeat and its look at the duty."""


def following() -> ConsumerOptions:
    return options(follow=True)


class Meter:
    """What this process used since it was made."""

    def __init__(self) -> None:
        self._begin = resource.getrusage(resource.RUSAGE_SELF)

    def read(self) -> tuple[float, int]:
        """Return (milliseconds of CPU, how often a thread went to sleep and was woken)."""
        now, begin = resource.getrusage(resource.RUSAGE_SELF), self._begin
        cpu_s = now.ru_utime + now.ru_stime - begin.ru_utime - begin.ru_stime
        return cpu_s * 1_000, now.ru_nvcsw - begin.ru_nvcsw


def wait(report: Report, path: Path, idle_s: float) -> None:
    """Wait for one event; say what waiting cost, and when the event was there."""
    with Store.open(path, durability="process") as store:
        log = LocalLog(store)
        with log.consumer(log.topic("numbers"), "waiting", following()) as consumer:
            consumer.poll(0.1)  # take the partition, and touch everything once
            report("ready")
            meter = Meter()
            assert consumer.poll(idle_s) is None
            report(meter.read())
            batch = consumer.poll(SOON_S)
            report((SYSTEM_CLOCK.now_us(), batch.to_pylist() if batch is not None else None))
        log.close()


def wait_in_a_loop(report: Report, path: Path, idle_s: float) -> None:
    """The same in an event loop."""
    with Store.open(path, durability="process") as store:
        log = LocalLog(store)
        info = log.topic("numbers")
        asyncio.run(_wait_async(report, log, info, idle_s))
        log.close()


async def _wait_async(report: Report, log: LocalLog, info: TopicInfo, idle_s: float) -> None:
    with log.consumer(info, "waiting", following()) as consumer:
        consumer.poll(0.1)
        report("ready")
        meter = Meter()
        stop = asyncio.get_running_loop().call_later(idle_s, lambda: report(meter.read()))
        async for batch in consumer:
            report((SYSTEM_CLOCK.now_us(), batch.to_pylist()))
            break
        stop.cancel()


@pytest.fixture
def log(store_path: Path) -> Any:
    with Store.open(store_path, durability="process") as store:
        made = LocalLog(store)
        store.duty.stop()
        make(made)
        yield made
        made.close()


@pytest.mark.parametrize("waiting", [wait, wait_in_a_loop])
def test_an_idle_consumer_in_another_process_uses_no_cpu_and_is_woken_by_a_commit(
    log: LocalLog, waiting: Any
):
    child: Running = start(waiting, log.store.path, IDLE_S)
    assert child.next_report() == "ready"
    cpu_ms, switches = child.next_report()
    assert cpu_ms < CPU_MS_MAX
    assert switches < SWITCHES_MAX
    log.append(log.topic("numbers"), {"n": 7})
    _, rows = child.next_report()
    assert rows == [{"n": 7}]
    assert not child.wait().error


def follow(report: Report, path: Path) -> None:
    """Report each event when it comes, until the last."""
    with Store.open(path, durability="process") as store:
        log = LocalLog(store)
        with log.consumer(log.topic("numbers"), "waiting", following()) as consumer:
            consumer.poll(0.1)
            report("ready")
            for batch in consumer:
                report((SYSTEM_CLOCK.now_us(), [row["n"] for row in batch.to_pylist()]))
                if batch.to_pylist()[-1]["n"] < 0:
                    break
        log.close()


def test_an_event_is_seen_long_before_any_timer_would_look(log: LocalLog):
    """Waiting wakes by itself every half second; each of many events in turn is seen in a tenth of that at most."""
    info = log.topic("numbers")
    child = start(follow, log.store.path)
    assert child.next_report() == "ready"
    delays_us = []
    for n in [*range(40), -1]:
        sent_us = SYSTEM_CLOCK.now_us()
        log.append(info, {"n": n})
        seen_us, numbers = child.next_report()
        assert numbers == [n]
        delays_us.append(seen_us - sent_us)
    assert not child.wait().error
    # The median, because somebody else may have the processors for a moment; a timer would cost 250 ms on average.
    assert sorted(delays_us)[len(delays_us) // 2] < 50_000


def test_a_commit_wakes_only_those_who_wait_for_its_topic(log: LocalLog):
    other = make(log, "other")
    with log.store.waiter(f"topic:{log.topic('numbers').id}") as waiter:
        waiter.arm()
        log.append(other, {"n": 1})
        assert not waiter.wait(0)
        waiter.arm()
        log.append(log.topic("numbers"), {"n": 1})
        assert waiter.wait(SOON_S)


def test_a_commit_between_the_look_and_the_sleep_is_not_missed(log: LocalLog):
    """Armed, then looked, then committed, then asleep: the sleep ends at once."""
    info = log.topic("numbers")
    with log.store.waiter(f"topic:{info.id}") as waiter:
        for n in range(200):
            waiter.arm()
            log.append(info, {"n": n})
            assert waiter.wait(SOON_S), n


def test_a_process_that_died_waiting_costs_the_others_nothing(log: LocalLog):
    child = start(wait, log.store.path, SOON_S)
    assert child.next_report() == "ready"
    os.kill(child.pid, 9)
    child.wait()
    log.append(log.topic("numbers"), {"n": 1})
    with log.consumer(log.topic("numbers"), "waiting", following()) as consumer:
        batch = consumer.poll(SOON_S)
        assert batch is not None
        assert batch.to_pylist() == [{"n": 1}]
