"""Outboxes in real databases, and every kill between the user's commit, the store's, and the removal of the row."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import psycopg
import pytest
import sqlalchemy
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

import millstream as ms
from millstream.engines.local.worker import Worker, WorkerSettings
from millstream.primitives.errors import StoreError
from millstream.tasks import outbox as outbox_module
from millstream.testing.crash import KillAt, run, start
from tests.integration.outbox_shop import Shop, relay, sell
from tests.postgresql import server


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    with server() as place:
        yield place


@pytest.fixture(params=["sqlite", "postgresql"])
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shop]:
    """An empty shop."""
    if request.param == "sqlite":
        place = str(tmp_path / "orders.db")
    else:
        place = request.getfixturevalue("postgresql")
        with psycopg.connect(place, autocommit=True) as connection:
            connection.execute("DROP SCHEMA public CASCADE")
            connection.execute("CREATE SCHEMA public")
    shop = Shop(tmp_path, request.param, place)
    shop.make_tables()
    with shop.app:
        yield shop


def work(app: ms.App) -> None:
    Worker(app.tasks_engine, app.tasks, WorkerSettings(burst=True), chance=Random(0)).run()


def mailed(shop: Shop) -> list[int]:
    """Run what was sent; return every mail that was ever written, sorted."""
    work(shop.app)
    return sorted(map(int, shop.sent.read_text().split())) if shop.sent.exists() else []


def stored(shop: Shop) -> int:
    return sum(shop.app.tasks_engine.depth().values())


def test_calls_are_sent_if_and_only_if_the_transaction_commits(shop: Shop) -> None:
    with shop.connect() as connection:
        shop.order(connection, 1)
        connection.rollback()
        assert shop.outbox.relay(connection) == 0
        shop.order(connection, 2)
        connection.commit()
        with shop.connect() as other:
            assert stored(shop) == 0, "nothing is sent before a relay"
            assert shop.outbox.relay(other) == 1
        assert shop.outbox.relay(connection) == 0
    assert mailed(shop) == shop.orders() == [2]


def test_calls_keep_their_order_over_several_transactions(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "OUTBOX_CALLS_MAX", 3)
    outbox = shop.app.outbox(database=shop.database)
    with shop.connect() as connection:
        outbox.add(connection, *(shop.mail.s(n) for n in range(10)))
        connection.commit()
        assert outbox.relay(connection) == 10
    work(shop.app)
    assert shop.sent.read_text().split() == [str(n) for n in range(10)]


def test_a_store_that_fails_leaves_the_rows_and_frees_them(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_messages: object) -> None:
        raise StoreError("the disk is full")

    with shop.connect() as connection, shop.connect() as other:
        shop.order(connection, 1)
        connection.commit()
        with monkeypatch.context() as patch:
            patch.setattr(shop.app.tasks_engine, "enqueue", refuse)
            with pytest.raises(StoreError, match="disk is full"):
                shop.outbox.relay(connection)
        assert shop.outbox.relay(other) == 1
    assert mailed(shop) == [1]


def test_an_autocommit_connection_relays_too(shop: Shop) -> None:
    with shop.connect() as connection:
        shop.order(connection, 1)
        connection.commit()
        if shop.database == "sqlite":
            connection.isolation_level = None
        else:
            connection.autocommit = True
        assert shop.outbox.relay(connection) == 1
        assert shop.waiting(connection) == 0
    assert mailed(shop) == [1]


def test_what_one_relay_holds_others_leave_to_it(shop: Shop) -> None:
    with shop.connect() as connection, shop.connect() as other:
        shop.order(connection, 1)
        connection.commit()
        engine = shop.app.tasks_engine
        found: list[object] = []

        class Watched(type(engine)):  # type: ignore[misc]
            def enqueue(self, messages: Any) -> Any:
                # In the middle of one relay another one runs.
                if shop.database == "sqlite":
                    other.execute("PRAGMA busy_timeout = 0")
                try:
                    found.append(outbox.relay(other))
                except sqlite3.OperationalError as error:
                    found.append(str(error))
                return engine.enqueue(messages)

        outbox = shop.app.outbox(database=shop.database)
        shop.app.tasks.substitute(Watched(engine.store))
        assert outbox.relay(connection) == 1
        shop.app.tasks.substitute(None)
        assert found == ["database is locked" if shop.database == "sqlite" else 0]
    assert mailed(shop) == [1]


@pytest.mark.parametrize(
    ("step", "orders"),
    [
        ("shop.ordered", 0),  # before the user's commit: neither the order nor the mail
        ("shop.committed", 1),  # before the relay
        ("task.inserted", 1),  # inside the store's commit
        ("task.enqueued", 1),
        ("outbox.stored", 1),  # the store has it, and the row is still there
        ("outbox.removed", 1),
    ],
)
def test_a_kill_at_any_step_loses_nothing_and_sends_nothing_twice(
    shop: Shop, tmp_path: Path, step: str, orders: int
) -> None:
    arguments = (tmp_path, shop.database, shop.place)
    outcome = run(sell, *arguments, 0, 1, kill_at=KillAt(step))
    assert outcome.killed, outcome.error
    # What was stored runs to its end, and leaves nothing behind, before the next relay finds the row again.
    before = mailed(shop)
    assert len(before) == (step in {"task.enqueued", "outbox.stored", "outbox.removed"})
    with shop.connect() as connection:
        shop.await_the_dead(connection)
    assert run(relay, *arguments).error == ""
    assert mailed(shop) == shop.orders() == list(range(orders))
    with shop.connect() as connection:
        assert shop.waiting(connection) == 0


def test_many_sell_and_relay_at_once_while_they_are_killed(
    shop: Shop, tmp_path: Path, seed: int
) -> None:
    chance = Random(seed)
    arguments = (tmp_path, shop.database, shop.place)
    each = 20
    # The first two are certain to come to their step; the others may find that somebody else relays for them.
    steps = ("shop.ordered", "shop.committed", "outbox.stored", "outbox.removed")
    kills = [KillAt(step, chance.randint(1, each)) for step in steps]
    sellers = [
        start(sell, *arguments, 1_000 * n, each, kill_at=kill) for n, kill in enumerate(kills)
    ]
    sellers += [start(sell, *arguments, 9_000, each), start(relay, *arguments)]
    outcomes = [seller.wait() for seller in sellers]
    assert [outcome.error for outcome in outcomes if outcome.error] == []
    assert outcomes[0].killed
    assert outcomes[1].killed
    with shop.connect() as connection:
        shop.await_the_dead(connection)
        shop.outbox.relay(connection)
        assert shop.waiting(connection) == 0
    acknowledged = {number for outcome in outcomes[:-1] for number in outcome.reports}
    assert mailed(shop) == shop.orders()
    assert acknowledged <= set(shop.orders())


def test_a_session_of_sqlalchemy_lends_its_connection(shop: Shop) -> None:
    urls = {"sqlite": "sqlite:///" + shop.place, "postgresql": "postgresql+psycopg://"}
    connect = {} if shop.database == "sqlite" else {"creator": lambda: psycopg.connect(shop.place)}
    engine = sqlalchemy.create_engine(urls[shop.database], **connect)
    insert = sqlalchemy.text("INSERT INTO orders VALUES (:number)")
    with Session(engine) as session, session.begin():
        session.execute(insert, {"number": 1})
        shop.outbox.add(session.connection().connection, shop.mail.s(1))
    with Session(engine) as session:
        session.execute(insert, {"number": 2})
        shop.outbox.add(session.connection().connection, shop.mail.s(2))
        session.rollback()
    with engine.connect() as connection:
        assert shop.outbox.relay(connection.connection) == 1
    engine.dispose()
    assert mailed(shop) == shop.orders() == [1]


def test_an_asynchronous_connection_adds_calls(postgresql: str, tmp_path: Path) -> None:
    shop = Shop(tmp_path, "postgresql", postgresql)
    with psycopg.connect(postgresql, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
    shop.make_tables()

    query = {"host": conninfo_to_dict(postgresql)["host"]}
    url = sqlalchemy.URL.create("postgresql+psycopg", "postgres", database="postgres", query=query)

    async def order_in_a_session(number: int) -> None:
        engine = create_async_engine(url)
        async with AsyncSession(engine) as session, session.begin():
            await session.execute(sqlalchemy.text(f"INSERT INTO orders VALUES ({number})"))
            call = shop.mail.s(number)
            await session.run_sync(lambda s: shop.outbox.add(s.connection().connection, call))
        await engine.dispose()

    async def order() -> None:
        async with await psycopg.AsyncConnection.connect(postgresql) as connection:
            await shop.outbox.aadd(connection, shop.mail.s(1))
            await connection.commit()
            await shop.outbox.aadd(connection, shop.mail.s(2))
            await connection.rollback()

    with shop.app:
        asyncio.run(order())
        asyncio.run(order_in_a_session(3))
        with shop.connect() as connection:
            assert shop.outbox.relay(connection) == 2
        assert mailed(shop) == [1, 3]
        assert shop.orders() == [3]
