"""Calls that commit with a transaction of your own database, and are handed to the store afterwards.

    with connection:                                     # your transaction
        connection.execute("INSERT INTO orders …")
        outbox.add(connection, send_mail.s("ann"))       # becomes true with the order, or not at all
    outbox.relay(connection)                             # now, and from time to time: what a crash left behind

A call is a row of one table in your database until ``relay`` has stored it here:

    lock      rows that no other relay holds (PostgreSQL), or the database (SQLite)
    store     the calls in the store, one commit                                           outbox.stored
    remove    the rows, one commit of your database, which ends the lock                   outbox.removed

A kill between the two commits makes the next ``relay`` store the calls again: under the same key, so that each is
stored once, for ``OUTBOX_KEY_TTL_US`` after it was added. Works with every DB-API 2.0 connection; nothing of it is
imported here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import msgspec

from millstream.primitives.errors import ConfigurationError, PayloadError
from millstream.primitives.telemetry import reach
from millstream.tasks.contract import TaskEngine
from millstream.tasks.limits import OUTBOX_CALLS_MAX, OUTBOX_KEY_TTL_US
from millstream.tasks.message import TaskMessage
from millstream.tasks.result import AsyncResult
from millstream.tasks.signature import Signature
from millstream.tasks.task import messages_of

if TYPE_CHECKING:
    from millstream.tasks.registry import TaskRegistry

R = TypeVar("R")
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(TaskMessage).decode


class Connection(Protocol):
    """What is used of a DB-API connection."""

    def cursor(self) -> Any:  # noqa: ANN401 - each library has a class of its own
        """Return a cursor."""
        ...

    def commit(self) -> None:
        """Commit the transaction."""
        ...

    def rollback(self) -> None:
        """End the transaction, and its locks, without a change."""
        ...


class AsyncConnection(Protocol):
    """What is used of an asynchronous connection that keeps DB-API's words, such as psycopg's."""

    def cursor(self) -> Any:  # noqa: ANN401 - each library has a class of its own
        """Return a cursor whose ``execute`` is awaited."""
        ...


class Dialect(msgspec.Struct, frozen=True):
    """What two databases say differently."""

    mark: str
    create: str
    lock: str | None
    """Run before rows are read; None where reading them locks them."""
    skip_locked: str


class Outbox:
    """A table ``millstream_outbox`` in your database. Thread-safe; a connection is used by the thread that gives it."""

    def __init__(self, registry: TaskRegistry, *, database: str = "sqlite") -> None:
        """``database`` is ``"sqlite"`` or ``"postgresql"``. Raises ConfigurationError for others."""
        if database not in _DIALECTS:
            raise ConfigurationError(
                f"there is no outbox for {database!r}", expected=" or ".join(sorted(_DIALECTS))
            )
        self._registry = registry
        self._dialect = _DIALECTS[database]
        # Nothing of a user goes into these statements.
        mark = self._dialect.mark
        self._insert = f"INSERT INTO millstream_outbox (call) VALUES ({mark})"  # noqa: S608
        self._select = (
            f"SELECT seq, call FROM millstream_outbox ORDER BY seq LIMIT {OUTBOX_CALLS_MAX}"  # noqa: S608
            f"{self._dialect.skip_locked}"
        )
        self._delete = f"DELETE FROM millstream_outbox WHERE seq = {mark}"  # noqa: S608

    def create(self, connection: Connection) -> None:
        """Make the table if it is not there, and commit."""
        connection.cursor().execute(self._dialect.create)
        connection.commit()

    def add(self, connection: Connection, *calls: Signature[R]) -> list[AsyncResult[R]]:
        """Add calls to the transaction that is open on ``connection``; they are sent if, and only if, you commit it.

        Arguments are checked now, times count from now. Raises what ``delay`` raises. The results know nothing of their
        task before it was relayed: ``get`` raises UnknownTask until then.
        """
        rows, results = self._rows(calls)
        cursor = connection.cursor()
        for row in rows:
            cursor.execute(self._insert, row)
        return results

    async def aadd(self, connection: AsyncConnection, *calls: Signature[R]) -> list[AsyncResult[R]]:
        """``add`` on an asynchronous connection. To relay, give ``relay`` a plain one, in a thread of its own."""
        rows, results = self._rows(calls)
        cursor = connection.cursor()
        for row in rows:
            await cursor.execute(self._insert, row)
        return results

    def _rows(
        self, calls: Sequence[Signature[R]]
    ) -> tuple[list[tuple[bytes]], list[AsyncResult[R]]]:
        engine = self._registry.engine
        now_us = engine.now_us()
        messages = messages_of(calls, now_us)
        results: list[AsyncResult[R]] = [
            AsyncResult(message.id, engine=engine, decode=call.task.decode)
            for call, message in zip(calls, messages, strict=True)
        ]
        return [(_encode(_known_again(message, now_us)),) for message in messages], results

    def relay(self, connection: Connection) -> int:
        """Store what was committed to the outbox, take it out, and commit; return how many calls that were.

        Call it outside a transaction of your own. Several may relay at once, in any process: what one holds, others
        leave to it. Raises StoreError, and what your database raises; nothing is lost then.
        """
        engine = self._registry.engine
        relayed = 0
        while moved := self._relay_some(connection, engine):
            relayed += moved
        return relayed

    def _relay_some(self, connection: Connection, engine: TaskEngine) -> int:
        try:
            cursor = connection.cursor()
            if self._dialect.lock is not None:
                cursor.execute(self._dialect.lock)
            cursor.execute(self._select)
            rows = cursor.fetchall()
            if rows:
                engine.enqueue([_read(bytes(call)) for _, call in rows])
                reach("outbox.stored")
                for seq, _ in rows:
                    cursor.execute(self._delete, (seq,))
            connection.commit()
        except BaseException:
            connection.rollback()
            raise
        if rows:
            reach("outbox.removed")
        return len(rows)


def _known_again(message: TaskMessage, now_us: int) -> TaskMessage:
    """Give the call a key, so that it is stored once even if nothing is left of its first task."""
    if message.unique_key is not None:
        return message
    return msgspec.structs.replace(
        message,
        unique_key=f"outbox:{message.id}",
        unique_until_us=now_us + OUTBOX_KEY_TTL_US,
    )


def _read(data: bytes) -> TaskMessage:
    try:
        return _decode(data)
    except msgspec.MsgspecError as error:
        raise PayloadError(
            f"a call in the outbox cannot be read: {error}",
            where="table millstream_outbox",
            expected="a row that Outbox.add made",
            next_step="remove the row, or relay it with the release that added it",
        ) from error


_DIALECTS: dict[str, Dialect] = {
    "sqlite": Dialect(
        mark="?",
        create="CREATE TABLE IF NOT EXISTS millstream_outbox "
        "(seq INTEGER PRIMARY KEY AUTOINCREMENT, call BLOB NOT NULL)",
        # Changes nothing, and begins a transaction that may write: the next one waits, as SQLite is told to.
        lock="DELETE FROM millstream_outbox WHERE seq IS NULL",
        skip_locked="",
    ),
    "postgresql": Dialect(
        mark="%s",
        create="CREATE TABLE IF NOT EXISTS millstream_outbox "
        "(seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, call BYTEA NOT NULL)",
        lock=None,
        skip_locked=" FOR UPDATE SKIP LOCKED",
    ),
}
