"""An app with a schedule and the tasks of a chord, for worker processes. CLOCKWORK_STORE says where its store is."""

from __future__ import annotations

import os

import millstream as ms

app = ms.App(
    "clockwork", store=os.environ.get("CLOCKWORK_STORE", "clockwork.mill"), durability="process"
)


@app.task
def tick() -> None:
    """Nothing."""


@app.task
def count(value: int) -> int:
    return value + 1


@app.task
def total(values: list[int]) -> int:
    return sum(values)


app.schedule("tick", tick.s(), ms.every("20ms"), missed="all")
