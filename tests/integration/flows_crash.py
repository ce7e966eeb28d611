"""A process that streams or batches a flow and kills itself at a named step. Run by test_flows_kill.py."""

from __future__ import annotations

import os
import signal
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from millstream.flows import aggregate as agg
from millstream.flows.expression import col
from millstream.flows.flow import Flow
from millstream.flows.keyed_context import KeyedContext
from millstream.flows.sql import sql_table
from millstream.flows.windows import tumbling
from millstream.primitives.schema import Timestamp
from millstream.primitives.telemetry import set_listener
from millstream.testing.flows_suite import LocalWorld, at

BATCH_EVENTS = 40
SCHEMA = {"k": str, "n": int, "at": Timestamp}


def rows() -> list[dict[str, object]]:
    return [
        {"k": "abc"[i % 3], "n": (i * 37) % 100, "at": at(i * 2 + (i * 7919) % 45)}
        for i in range(240)
    ]


def fill(world: LocalWorld) -> None:
    world.topic("events", SCHEMA, key="k", partitions=2)
    world.append("events", rows())


def flow(world: LocalWorld) -> Flow:
    return (
        world.read("events")
        .filter(col("n") >= 0)
        .window(tumbling("1h"), on="at", late="45m", keep_late=True)
        .group_by("k")
        .agg(rows=agg.count(), mean=agg.mean("n"), q=agg.quantile("n", 0.9), u=agg.n_unique("n"))
    )


def remembered(world: LocalWorld) -> Flow:
    """Return a flow that remembers how many events a key has had, and tells of those that fall silent."""
    keyed = world.read("events").key_by("k", time="at", late="45m")
    return keyed.process(
        count, {"k": str, "n": int, "at": Timestamp}, state=int, on_timer=fall_silent
    )


def count(event: dict[str, Any], context: KeyedContext[int]) -> dict[str, Any] | None:
    context.state += 1
    context.set_timer(context.time + timedelta(minutes=5))
    return {"k": context.key, "n": context.state, "at": context.time} if event["n"] % 2 else None


def fall_silent(context: KeyedContext[int]) -> dict[str, Any]:
    return {"k": context.key, "n": -context.state, "at": context.time}


def kill_at(step: str, nth: int) -> None:
    seen = 0

    def listen(reached: str) -> None:
        nonlocal seen
        seen += reached == step
        if seen == nth and reached == step:
            os.kill(os.getpid(), signal.SIGKILL)

    set_listener(listen)


def main() -> None:
    path, what, step, nth = sys.argv[1:]
    world = LocalWorld(Path(path), durability="disk")
    kill_at(step, int(nth))
    if what == "stream":
        flow(world).write("out").stream(until="end", batch_events=BATCH_EVENTS)
    elif what == "process":
        remembered(world).write("out").stream(until="end", batch_events=BATCH_EVENTS)
    elif what == "batch":
        flow(world).write("out").run()
    elif what.startswith("lake:"):
        from tests import lakes_kit  # its libraries take a second to import

        _, kind, run = what.split(":")
        table = lakes_kit.lake(kind, Path(path).parent).declared("out", run=run or None)
        if run:
            flow(world).write(table).run()
        else:
            flow(world).write(table).stream(until="end", batch_events=BATCH_EVENTS)
    elif "://" in what:
        sink = sql_table("out", what, create=True)
        flow(world).write(sink).stream(until="end", batch_events=BATCH_EVENTS)
    elif what.endswith("/"):
        flow(world).write(what).stream(until="end", batch_events=BATCH_EVENTS)
    else:
        flow(world).write(Path(what)).run()


if __name__ == "__main__":
    main()
