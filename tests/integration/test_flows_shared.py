"""Streams that several members share: real processes killed, members that come and go, zombies, and what is refused."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from millstream.engines.local import flow_catalog, flow_units
from millstream.flows import aggregate as agg
from millstream.flows.expression import col
from millstream.flows.fingerprint import fingerprint
from millstream.flows.flow import Flow
from millstream.flows.report import Progress
from millstream.flows.windows import tumbling
from millstream.primitives.errors import Fenced, PlanError, StepError
from millstream.primitives.schema import Timestamp
from millstream.testing.flows_suite import EPOCH, LocalWorld, in_order
from tests.flows_kit import StopAfter
from tests.flows_members import together

ROOT = Path(__file__).parents[2]
SCHEMA = {"k": str | None, "n": int, "at": Timestamp}
ROWS = [
    {"k": "abcdefgh"[at % 8], "n": at, "at": EPOCH + timedelta(seconds=20 * at)} for at in range(96)
]

MEMBER = """
import os, signal, sys
from pathlib import Path
from millstream.primitives.telemetry import set_listener
from millstream.testing.flows_suite import LocalWorld
from tests.integration.test_flows_shared import by_key

path, step, nth = sys.argv[1], sys.argv[2], int(sys.argv[3])
seen = 0

def listen(reached):
    global seen
    seen += reached == step
    if seen == nth:
        os.kill(os.getpid(), signal.SIGKILL)

set_listener(listen)
with LocalWorld(Path(path)) as world:
    by_key(world).write("out").named("shared").stream(until="end", shared=True, batch_events=8)
"""


def by_key(world: LocalWorld) -> Flow:
    windowed = world.read("events").window(tumbling("3m"), on="at")
    return windowed.group_by("k").agg(rows=agg.count(), total=agg.sum("n"))


@pytest.fixture
def world(store_path: Path) -> Iterator[LocalWorld]:
    with LocalWorld(store_path) as world:
        world.topic("events", SCHEMA, key="k", partitions=4)
        world.append("events", ROWS)
        yield world


def shared(world: LocalWorld) -> Flow:
    return by_key(world).write("out").named("shared")


def assert_whole(world: LocalWorld) -> None:
    assert in_order(world.events("out")) == in_order(by_key(world).collect().to_pylist())


@pytest.mark.parametrize(
    ("step", "nth"),
    [("flow.divided", 1), ("flow.claimed", 2), ("flow.applied", 3), ("flow.committed", 6)],
)
def test_what_a_killed_process_had_is_taken_over(world: LocalWorld, step: str, nth: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEMBER, str(world.store.path), step, str(nth)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    shared(world).stream(until="end", shared=True, batch_events=8)
    assert_whole(world)


def test_two_processes_and_this_one_share_a_stream(world: LocalWorld) -> None:
    command = [sys.executable, "-c", MEMBER, str(world.store.path), "never", "1"]
    others = [subprocess.Popen(command, cwd=ROOT) for _ in range(2)]
    shared(world).stream(until="end", shared=True, batch_events=2)
    assert [other.wait(timeout=60) for other in others] == [0, 0]
    assert_whole(world)


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1), (2, 6)])
def test_another_number_goes_on_from_the_state(world: LocalWorld, before: int, after: int) -> None:
    def some() -> None:
        stop = StopAfter(2)
        shared(world).stream(shared=True, batch_events=4, stop=stop, progress=stop.progress)

    some()
    together(before, lambda: shared(world).stream(until="end", shared=True, batch_events=5))
    reports = together(after, lambda: shared(world).stream(until="end", shared=True))
    assert sum(report.rows_in for report in reports) == 0
    assert_whole(world)


def test_the_state_of_a_whole_stream_goes_where_its_keys_are(world: LocalWorld) -> None:
    stop = StopAfter(3)
    shared(world).stream(batch_events=20, stop=stop, progress=stop.progress)
    reports = together(2, lambda: shared(world).stream(until="end", shared=True, batch_events=7))
    assert 0 < sum(report.rows_in for report in reports) < len(ROWS)
    assert_whole(world)


def test_a_divided_flow_is_streamed_alone_by_one_who_does_not_share(world: LocalWorld) -> None:
    stop = StopAfter(1)
    shared(world).stream(shared=True, batch_events=4, stop=stop, progress=stop.progress)
    shared(world).stream(until="end")
    assert_whole(world)


def test_one_that_was_taken_over_commits_nothing_more(world: LocalWorld) -> None:
    flow, store = shared(world), world.store
    stop = StopAfter(1)
    flow.stream(shared=True, batch_events=4, stop=stop, progress=stop.progress)
    places = [(world.log.topic("events").id, number) for number in range(4)]
    unit = flow_units.unit_name("shared", 0)
    claim = flow_catalog.claim(store, unit, fingerprint(flow.plan), places)
    store.write(lambda tx: flow_catalog.release(tx, claim))
    flow.stream(until="end", shared=True)
    step = flow_catalog.Step({}, {}, (), rows_in=0, rows_out=0, late=0, untimed=0)
    with pytest.raises(Fenced, match="taken over"):
        store.write(lambda tx: flow_catalog.advance(tx, claim, step))
    assert_whole(world)


def test_reset_forgets_every_unit(world: LocalWorld) -> None:
    shared(world).stream(until="end", shared=True)
    shared(world).reset()
    assert shared(world).stream(until="end").rows_in == len(ROWS)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda flow: flow.window(tumbling("1h"), on="at").agg(n=agg.count()), "step 1, agg"),
        (lambda flow: flow.window(tumbling("1h"), on="at").group_by("n").agg(m=agg.count()), "agg"),
        (
            lambda flow: (
                flow.with_columns(k=col("k").str.upper())
                .window(tumbling("1h"), on="at")
                .group_by("k")
                .agg(m=agg.count())
            ),
            "step 2, agg",
        ),
    ],
)
def test_rows_of_several_partitions_do_not_meet(world: LocalWorld, change, says: str) -> None:
    with pytest.raises(PlanError, match="different partitions") as refused:
        change(world.read("events")).write("o").named("o").stream(until="end", shared=True)
    assert says in str(refused.value)
    assert "write it to a topic with that key first" in str(refused.value)


def test_topics_of_different_partitions_do_not_meet(world: LocalWorld) -> None:
    world.topic("more", SCHEMA, key="k", partitions=3)
    both = world.read("events").union(world.read("more")).window(tumbling("1h"), on="at")
    flow = both.group_by("k").agg(n=agg.count()).write("o").named("o")
    with pytest.raises(PlanError, match="different numbers of partitions"):
        flow.stream(until="end", shared=True)


def test_a_null_key_has_no_unit(world: LocalWorld) -> None:
    world.append("events", [{"k": None, "n": 1, "at": EPOCH}])
    with pytest.raises(StepError, match="the key None does not lie in the partition"):
        shared(world).stream(until="end", shared=True)


def test_a_name_of_a_unit_that_is_taken_is_refused(world: LocalWorld) -> None:
    world.read("events").write("o").named("shared#1").stream(until="end")
    with pytest.raises(PlanError, match="'shared#1'"):
        shared(world).stream(until="end", shared=True)


class Passing:
    """A member that comes while unit 1 has events left, and goes when it was given that unit, without taking it."""

    def __init__(self, world: LocalWorld) -> None:
        self._store = world.store
        self._members: list[flow_units.Membership] = []
        self.has_left = False

    def comes(self, _: Progress) -> None:
        if not self._members:
            flow_id = flow_units.flow_id_of(self._store, "shared")
            assert flow_id is not None
            self._members.append(flow_units.Membership(self._store, "shared", flow_id))

    def is_set(self) -> bool:
        """Look between two rounds of the other member, as its stop does."""
        flow_id = flow_units.flow_id_of(self._store, "shared")
        units = [] if flow_id is None else flow_units.units_of(self._store, flow_id)
        if self._members and not self.has_left and units[1].owner is None:
            self._members[0].leave()
            self.has_left = True
        return False


def test_a_unit_that_was_given_up_is_not_taken_for_one_that_runs(store_path: Path) -> None:
    """Else the last member ends before its end, for the one that was given it may be gone by then."""
    with LocalWorld(store_path) as world:
        world.topic("events", {"n": int}, partitions=2)
        world.append("events", [{"n": n} for n in range(5)], partition=1)
        passing = Passing(world)
        flow = world.read("events").filter(col("n") >= 0).write("out").named("shared")
        report = flow.stream(
            until="end", shared=True, batch_events=1, stop=passing, progress=passing.comes
        )
        assert passing.has_left
        assert report.rows_in == 5
        assert sorted(row["n"] for row in world.events("out")) == [0, 1, 2, 3, 4]
