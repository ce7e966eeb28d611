"""Functions with state and timers: as plain Python calls them, in any cut, after any crash, over any partitions.

events     ──a──b────a──────b──▶ event time, up to five minutes out of order
timers          ⏰     ⏰              between them, also those that timers set
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.engines.local import flow_keyed_state, flow_state
from millstream.flows import aggregate as agg
from millstream.flows.flow import Flow
from millstream.flows.keyed_context import KeyedContext
from millstream.flows.windows import tumbling
from millstream.primitives.schema import Timestamp
from millstream.testing.flows_suite import EPOCH, LocalWorld, in_order
from tests.flows_kit import CRASHES, crash_each

LATE_S = 300
TTL = timedelta(minutes=12)
EVENTS = {"k": str | None, "n": int, "op": str, "minutes": int, "at": Timestamp | None}
GIVEN = {"k": str | None, "what": str, "seen": list[int], "at": Timestamp}
Row = dict[str, Any]


@dataclass
class Memory:
    seen: list[int] = field(default_factory=list)


def remember(event: Row, context: KeyedContext[Memory]) -> Iterator[Row]:
    context.state.seen.append(event["n"])
    match event["op"]:
        case "timer":
            context.set_timer(context.time + timedelta(minutes=event["minutes"]))
        case "another":
            context.set_timer(EPOCH + timedelta(minutes=event["minutes"]), "another")
        case "cancel":
            context.cancel_timer("another")
        case "clear":
            context.clear()
        case "silent":
            return
    yield row(context, event["op"])


def ring(context: KeyedContext[Memory]) -> Row:
    if context.timer == "another" and len(context.state.seen) % 2:
        context.set_timer(context.time + timedelta(minutes=2))
    return row(context, f"timer {context.timer}")


def row(context: KeyedContext[Memory], what: str) -> Row:
    return {"k": context.key, "what": what, "seen": context.state.seen, "at": context.time}


def expected(rows: list[Row], ttl: timedelta | None) -> list[Row]:
    """Return what plain Python gives: one key after the other, event by event, timers looked through each time."""
    given: list[Row] = []
    for key in {event["k"] for event in rows}:
        mine = [event for event in rows if event["k"] == key and event["at"] is not None]
        given += expected_of(key, sorted(mine, key=lambda event: event["at"]), ttl)
    return given


def expected_of(key: str | None, events: list[Row], ttl: timedelta | None) -> list[Row]:
    plain = Plain(key)
    for event in events:
        plain.ring_before(event["at"])
        if plain.is_over(event["at"], ttl):
            plain.seen = []
        plain.take(event)
    plain.ring_before(None)
    return plain.given


@dataclass
class Plain:
    """One key in plain Python."""

    key: str | None
    given: list[Row] = field(default_factory=list)
    seen: list[int] = field(default_factory=list)
    timers: dict[str, datetime] = field(default_factory=dict)
    last: datetime | None = None

    def is_over(self, at: datetime, ttl: timedelta | None) -> bool:
        quiet = self.last is not None and ttl is not None and at - self.last >= ttl
        return quiet and not self.timers

    def take(self, event: Row) -> None:
        at, op = event["at"], event["op"]
        self.seen.append(event["n"])
        self.last = at
        if op == "timer":
            self.timers[""] = at + timedelta(minutes=event["minutes"])
        elif op == "another":
            self.timers["another"] = max(EPOCH + timedelta(minutes=event["minutes"]), at)
        elif op == "cancel":
            self.timers.pop("another", None)
        if op != "silent":
            self.give(op, at)
        if op == "clear":
            self.seen, self.last, self.timers = [], None, {}

    def ring_before(self, time: datetime | None) -> None:
        while due := [(at, name) for name, at in self.timers.items() if time is None or at < time]:
            at, name = min(due)
            del self.timers[name]
            self.last = at
            if name == "another" and len(self.seen) % 2:
                self.timers[""] = at + timedelta(minutes=2)
            self.give(f"timer {name}", at)

    def give(self, what: str, at: datetime) -> None:
        self.given.append({"k": self.key, "what": what, "seen": [*self.seen], "at": at})


OPS = st.sampled_from(["add", "add", "silent", "timer", "timer", "another", "cancel", "clear"])
STEPS = st.lists(
    st.tuples(
        st.sampled_from([None, "a", "a", "b", "c"]),
        OPS,
        st.integers(0, 20),
        st.sampled_from([0, 0, 60, 60, 120, 900]),
        st.one_of(st.none(), *[st.integers(0, LATE_S // 60)] * 9),
    ),
    max_size=16,
)
LATENESS = st.sampled_from([0, LATE_S])
TTLS = st.sampled_from([None, TTL])


def rows_of(steps: list[tuple[str | None, str, int, int, int | None]], late_s: int) -> list[Row]:
    rows: list[Row] = []
    second = 0
    for n, (key, op, minutes, step_s, back) in enumerate(steps):
        second += step_s
        behind = min(60 * (back or 0), late_s)
        when = None if back is None else EPOCH + timedelta(seconds=LATE_S + second - behind)
        rows.append({"k": key, "n": n, "op": op, "minutes": minutes, "at": when})
    return rows


def remembered(world: LocalWorld, late_s: int, ttl: timedelta | None) -> Flow:
    keyed = world.read("events").key_by("k", time="at", late=f"{late_s}s", ttl=ttl, keep_late=True)
    return keyed.process(remember, GIVEN, state=Memory, on_timer=ring)


def fill(path: Path, rows: list[Row], partitions: int) -> None:
    with LocalWorld(path) as world:
        world.topic("events", EVENTS, key="k", partitions=partitions)
        if rows:
            world.append("events", rows)


@given(
    steps=STEPS,
    late_s=LATENESS,
    ttl=TTLS,
    partitions=st.integers(1, 2),
    batch_events=st.integers(1, 6),
    crashes=CRASHES,
    snapshots=st.booleans(),
)
@settings(max_examples=120)
def test_any_cut_and_any_crash_give_what_plain_python_gives(
    steps: list[tuple[str | None, str, int, int, int | None]],
    late_s: int,
    ttl: timedelta | None,
    partitions: int,
    batch_events: int,
    crashes: list[tuple[str, int]],
    snapshots: bool,
) -> None:
    rows = rows_of(steps, late_s)
    limits = [(module, module.GROUPS_MIN) for module in (flow_state, flow_keyed_state)]
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "store.mill"
        fill(path, rows, partitions)

        def stream(world: LocalWorld) -> None:
            flow = remembered(world, late_s, ttl).write("out")
            report = flow.stream(until="end", batch_events=batch_events)
            assert report.late == 0

        try:
            for module, limit in limits:
                module.GROUPS_MIN = 0 if snapshots else limit  # type: ignore[attr-defined]  # a limit of the tests
            crash_each(path, crashes, stream)
            with LocalWorld(path) as world:
                stream(world)
                batch = remembered(world, late_s, ttl).collect().to_pylist()
                assert in_order(batch) == in_order(expected(rows, ttl))
                assert in_order(world.events("out")) == in_order(batch)
                times = [row["at"] for row in batch]
                assert times == sorted(times)
        finally:
            for module, limit in limits:
                module.GROUPS_MIN = limit  # type: ignore[attr-defined]  # a limit of the tests


@given(
    steps=STEPS,
    partitions=st.integers(1, 2),
    batch_events=st.integers(1, 6),
    crashes=CRASHES,
)
@settings(max_examples=60)
def test_windows_of_what_a_function_gives(
    steps: list[tuple[str | None, str, int, int, int | None]],
    partitions: int,
    batch_events: int,
    crashes: list[tuple[str, int]],
) -> None:
    rows = rows_of(steps, LATE_S)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "store.mill"
        fill(path, rows, partitions)

        def counted(world: LocalWorld) -> Flow:
            hours = remembered(world, LATE_S, None).window(tumbling("10m"), on="at")
            return hours.group_by("k").agg(given=agg.count())

        def stream(world: LocalWorld) -> None:
            flow = counted(world).write("out")
            assert flow.stream(until="end", batch_events=batch_events).late == 0

        crash_each(path, crashes, stream)
        with LocalWorld(path) as world:
            stream(world)
            batch = counted(world).collect().to_pylist()
            assert in_order(world.events("out")) == in_order(batch)
            assert sum(row["given"] for row in batch) == len(expected(rows, None))
