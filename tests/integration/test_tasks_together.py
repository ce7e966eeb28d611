"""Calls that commit with something else: events and places of this store, or a transaction of the user's database."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

import millstream as ms
from millstream.engines.local.worker import Worker, WorkerSettings
from millstream.primitives.errors import ConfigurationError, PayloadError, TaskArgumentError
from millstream.tasks.limits import OUTBOX_CALLS_MAX, OUTBOX_KEY_TTL_US
from millstream.tasks.message import TaskMessage
from millstream.testing.crash import KillAt, Report, run


@pytest.fixture
def app(store_path: Path) -> Iterator[ms.App]:
    with ms.App("shop", store=store_path, durability="process") as opened:
        yield opened


@pytest.fixture
def orders(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(tmp_path / "orders.db")) as connection:
        connection.execute("CREATE TABLE orders (name TEXT)")
        yield connection


def work(app: ms.App) -> None:
    settings = WorkerSettings(burst=True)
    Worker(app.tasks_engine, app.tasks, settings, chance=Random(0)).run()


def test_calls_commit_with_events_and_places(app: ms.App) -> None:
    @app.task
    def mail(to: str) -> str:
        return to

    clicks, orders = app.topic("clicks"), app.topic("orders")
    clicks.append({"value": b"1"})
    consumer = clicks.consume(group="g", start="earliest", follow=False)
    list(consumer)
    with app.transaction() as tx:
        tx.append(orders, {"value": b"2"})
        tx.commit(consumer)
        first, second = tx.enqueue(mail.s("ann"), mail.s("bob").set(priority=9))
        with pytest.raises(ms.errors.UnknownTask):
            first.status()
    consumer.close()
    work(app)
    assert (first.get(0), second.get(0)) == ("ann", "bob")
    assert len(orders) == 1


def test_nothing_is_sent_when_the_block_fails(app: ms.App) -> None:
    @app.task
    def mail(to: str) -> str:
        return to

    def wrong(second: Any) -> None:
        with app.transaction() as tx:
            tx.enqueue(mail.s("ann"))
            tx.enqueue(mail.s(second))

    with pytest.raises(TaskArgumentError):
        wrong(5)
    assert sum(app.tasks_engine.depth().values()) == 0


def test_a_unique_call_in_a_transaction_stands_for_the_first(app: ms.App) -> None:
    @app.task(unique=True)
    def sync(user: int) -> int:
        return user

    first = sync.delay(1)
    with app.transaction() as tx:
        (second,) = tx.enqueue(sync.s(1))
    assert second.id == first.id


def test_an_outbox_sends_what_its_database_commits(app: ms.App, orders: sqlite3.Connection) -> None:
    @app.task
    def mail(to: str) -> str:
        return to

    outbox = app.outbox()
    outbox.create(orders)
    outbox.create(orders)
    with orders:
        orders.execute("INSERT INTO orders VALUES ('book')")
        (kept,) = outbox.add(orders, mail.s("ann"))
    outbox.add(orders, mail.s("bob"))
    orders.rollback()
    with pytest.raises(TaskArgumentError):
        outbox.add(orders, mail.s(5))  # type: ignore[arg-type]
    assert sum(app.tasks_engine.depth().values()) == 0
    assert outbox.relay(orders) == 1
    assert outbox.relay(orders) == 0
    work(app)
    assert kept.get(0) == "ann"


def test_a_call_of_an_outbox_is_known_again_for_a_week(
    app: ms.App, orders: sqlite3.Connection
) -> None:
    @app.task(ignore_result=True)
    def mail(to: str) -> None: ...

    outbox = app.outbox()
    outbox.create(orders)
    outbox.add(orders, mail.s("ann"))
    [(row,)] = orders.execute("SELECT call FROM millstream_outbox")
    stored = msgspec.msgpack.decode(row, type=TaskMessage)
    left_us = stored.unique_until_us - app.tasks_engine.now_us()
    assert OUTBOX_KEY_TTL_US - 60_000_000 < left_us <= OUTBOX_KEY_TTL_US
    orders.rollback()


def test_an_outbox_holds_more_than_one_transaction(app: ms.App, orders: sqlite3.Connection) -> None:
    @app.task
    def mail(to: int) -> int:
        return to

    outbox = app.outbox()
    outbox.create(orders)
    with orders:
        outbox.add(orders, *(mail.s(n) for n in range(OUTBOX_CALLS_MAX + 1)))
    assert outbox.relay(orders) == OUTBOX_CALLS_MAX + 1
    with orders:
        orders.execute("INSERT INTO millstream_outbox (call) VALUES (x'c1')")
    with pytest.raises(PayloadError, match="cannot be read"):
        outbox.relay(orders)
    with pytest.raises(ConfigurationError, match="oracle"):
        app.outbox(database="oracle")


def _declared(store: str) -> tuple[ms.App, ms.Task[[str], None]]:
    app = ms.App("shop", store=store, durability="process")

    @app.task(name="mail", ignore_result=True)
    def mail(to: str) -> None:
        with (Path(store).parent / "sent").open("a") as file:
            file.write(f"{to}\n")

    return app, mail


def relay_and_work(report: Report, store: str, database: str) -> None:
    app, mail = _declared(store)
    with app, closing(sqlite3.connect(database)) as connection:
        outbox = app.outbox()
        outbox.create(connection)
        if not (Path(store).parent / "sent").exists():
            with connection:
                outbox.add(connection, mail.s("ann"), mail.s("bob"))
            (Path(store).parent / "sent").touch()
        outbox.relay(connection)
        report("relayed")
        work(app)


@pytest.mark.parametrize(
    "step", ["outbox.stored", "outbox.removed", "task.enqueued", "commit.before"]
)
def test_a_relay_that_is_killed_sends_nothing_twice(step: str, tmp_path: Path) -> None:
    store, database = str(tmp_path / "shop.mill"), str(tmp_path / "orders.db")
    outcome = run(relay_and_work, store, database, kill_at=KillAt(step))
    assert outcome.killed, outcome.error
    # What was stored runs to its end, and leaves nothing behind, before the next relay finds the rows again.
    app, _ = _declared(store)
    with app:
        work(app)
    assert run(relay_and_work, store, database).error == ""
    assert (tmp_path / "sent").read_text().splitlines() == ["ann", "bob"]
