"""A shop with a database of its own, SQLite or PostgreSQL, whose processes are killed. Used by test_outbox.py."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg

import millstream as ms
from millstream.primitives.telemetry import reach
from millstream.testing.crash import Report

CONNECT: dict[str, Callable[[str], Any]] = {
    "sqlite": sqlite3.connect,
    "postgresql": psycopg.connect,
}
MARK = {"sqlite": "?", "postgresql": "%s"}


class Shop:
    """One store and one database, as each process of the shop opens them."""

    def __init__(self, folder: Path, database: str, place: str) -> None:
        self.database = database
        self.place = place
        self.sent = folder / "sent"
        self.app = ms.App("shop", store=folder / "shop.mill", durability="process")

        @self.app.task(name="mail", ignore_result=True)
        def mail(number: int) -> None:
            with self.sent.open("a") as file:
                file.write(f"{number}\n")

        self.mail = mail
        self.outbox = self.app.outbox(database=database)

    def connect(self) -> Any:
        return closing(CONNECT[self.database](self.place))

    def make_tables(self) -> None:
        with self.connect() as connection:
            connection.cursor().execute("CREATE TABLE orders (number INTEGER PRIMARY KEY)")
            self.outbox.create(connection)
            self.outbox.create(connection)

    def order(self, connection: Any, number: int) -> None:
        """Add an order and its mail to the transaction."""
        insert = f"INSERT INTO orders VALUES ({MARK[self.database]})"
        connection.cursor().execute(insert, (number,))
        self.outbox.add(connection, self.mail.s(number))

    def orders(self) -> list[int]:
        with self.connect() as connection:
            cursor = connection.cursor()
            cursor.execute("SELECT number FROM orders ORDER BY number")
            return [number for (number,) in cursor.fetchall()]

    def waiting(self, connection: Any) -> int:
        cursor = connection.cursor()
        cursor.execute("SELECT count(*) FROM millstream_outbox")
        count: int = cursor.fetchone()[0]
        connection.commit()
        return count

    def await_the_dead(self, connection: Any) -> None:
        """Wait until the server knows of the death of every client that held rows, and has given them back."""
        if self.database == "postgresql":
            connection.cursor().execute("LOCK TABLE millstream_outbox IN ACCESS EXCLUSIVE MODE")
        connection.commit()


def sell(report: Report, folder: Path, database: str, place: str, first: int, count: int) -> None:
    """Sell so many, each in a transaction of its own, and relay after each."""
    shop = Shop(folder, database, place)
    with shop.app, shop.connect() as connection:
        for number in range(first, first + count):
            shop.order(connection, number)
            reach("shop.ordered")
            connection.commit()
            report(number)
            reach("shop.committed")
            shop.outbox.relay(connection)


def relay(report: Report, folder: Path, database: str, place: str) -> None:
    """Relay until nothing is left that another does not hold."""
    shop = Shop(folder, database, place)
    with shop.app, shop.connect() as connection:
        report(shop.outbox.relay(connection))
