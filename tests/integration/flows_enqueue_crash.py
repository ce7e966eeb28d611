"""A process that streams or batches a flow which calls a task, and kills itself. Run by test_flows_enqueue.py."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import millstream as ms
from millstream.flows.flow import Flow
from millstream.tasks.message import TaskFilter
from tests.integration.flows_crash import SCHEMA, kill_at, rows

BATCH_EVENTS = 60
_CALLS_MAX = 10_000


def world(store: Path) -> tuple[ms.App, Callable[[], Flow], ms.Task[..., None]]:
    app = ms.App("shop", store=store)

    @app.task(name="bill")
    def bill(window_start: datetime, window_end: datetime, k: str, total: int) -> None: ...

    def flow() -> Flow:
        windowed = app.read("events").window(ms.tumbling("1h"), on="at", late="45m")
        return windowed.group_by("k").agg(total=ms.sum("n"))

    return app, flow, bill


def ended(flow: Flow) -> Flow:
    task = world(Path())[2]
    return flow.write("out").enqueue(task)


def fill(app: ms.App) -> None:
    app.topic("events", schema=SCHEMA, key="k", partitions=2).append(rows())


def billed(app: ms.App, bill: ms.Task[..., None]) -> Counter[tuple[Any, ...]]:
    """Return the arguments of every call that is stored, and how often."""
    engine = app.tasks_engine
    ids = app.tasks.control.ids(TaskFilter(name="bill"), tasks_max=_CALLS_MAX)
    lease = engine.join(["default"], lease_us=60_000_000)
    claimed = []
    while some := engine.exchange(lease, (), want=256).claimed:
        claimed += some
    engine.leave(lease)
    assert len(claimed) == len(ids)
    return Counter(tuple(bill.arguments.decode(task.arguments)[1].values()) for task in claimed)


def main() -> None:
    path, what, step, nth = sys.argv[1:]
    app, flow, _ = world(Path(path))
    with app:
        kill_at(step, int(nth))
        if what == "stream":
            ended(flow()).stream(until="end", batch_events=BATCH_EVENTS)
        else:
            ended(flow()).run()


if __name__ == "__main__":
    main()
