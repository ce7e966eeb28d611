"""Reading a topic from its first event to its last, from the page cache, with every checksum checked."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.harness import OWN, Contender, Figure, Settings, Values, rate, run_rounds
from benchmarks.log.own import open_topic, payloads
from benchmarks.peers.contract import PROCESS, Place, System
from benchmarks.peers.every import peers

_VALUE = "events/s"
_TARGET = 2e7


@dataclass(frozen=True, slots=True)
class _Form:
    """How the events were appended, and how they are read."""

    name: str
    batch_events: int
    events: int
    as_dicts: bool = False
    target: float | None = None


def reading(settings: Settings) -> list[Figure]:
    """Return Arrow by size of the appended batches, and Python objects beside the peers."""
    many = settings.scaled(3_000_000, 20_000)
    few = settings.scaled(300_000, 5_000)
    peer_events = settings.scaled(5_000, 500)
    forms = [
        _Form("read as Arrow, appended in batches of 1000", 1_000, many, target=_TARGET),
        _Form("read as Arrow, appended in batches of 10000", 10_000, many),
        _Form("read as Arrow, appended in batches of 100", 100, few),
    ]
    dicts = _Form("read as dicts, appended in batches of 1000", 1_000, few, as_dicts=True)
    figures = [_figure(form, [_own(form, settings)], settings, peer_events) for form in forms]
    others = [
        Contender(system.name, partial(_measure_peer, system, peer_events))
        for system in peers(settings)
    ]
    return [*figures, _figure(dicts, [_own(dicts, settings), *others], settings, peer_events)]


def _figure(
    form: _Form, contenders: list[Contender], settings: Settings, peer_events: int
) -> Figure:
    outcome = run_rounds(contenders, settings, title=form.name)
    notes = [f"{form.events:,} events in the page cache; no peer gives out columns"]
    if form.as_dicts:
        notes = [
            f"each gives out Python objects, {form.events:,} here, {peer_events:,} in each peer",
            "litequeue and persist-queue take events out to read them",
        ]
    return Figure(
        form.name,
        outcome.of(OWN, _VALUE),
        _VALUE,
        PROCESS,
        form.target,
        peers=outcome.peers(_VALUE),
        notes=notes,
    )


def _own(form: _Form, settings: Settings) -> Contender:
    return Contender(OWN, partial(_measure, form, settings))


def _measure(form: _Form, settings: Settings, directory: Path) -> Values:
    app, topic = open_topic(Place(directory, PROCESS))
    try:
        batch = _batch(form)
        for _ in range(form.events // form.batch_events):
            topic.append(batch)

        def step() -> int:
            if form.as_dicts:
                return sum(len(batch.to_pylist()) for batch in topic.batches())
            return sum(batch.table.num_rows for batch in topic.batches())

        assert step() == form.events
        return {_VALUE: rate(step, settings.seconds)}
    finally:
        app.close()


def _batch(form: _Form) -> object:
    import pyarrow as pa

    return pa.table({"payload": pa.array(payloads(form.batch_events), pa.binary())})


def _measure_peer(system: System, events: int, directory: Path) -> Values:
    with system.running(directory, PROCESS) as place:
        client = system.connect(place)
        try:
            batch = client.prepare(payloads(1_000 if events >= 1_000 else events))
            for _ in range(max(1, events // 1_000)):
                client.append(batch)
            read = 0

            def step() -> int:
                nonlocal read
                read = client.read()
                return read

            value = rate(step, 0.0)
            if read != events:
                raise RuntimeError(f"read {read} events of {events}")
            return {_VALUE: value}
        finally:
            client.close()
