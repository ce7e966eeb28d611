"""Tasks that a flow calls: rows become calls, stored by the transaction that holds the flow's place."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from millstream.engines.local import task_transactions
from millstream.flows.source import CallSink
from millstream.primitives.errors import ConfigurationError, PayloadError, StepError
from millstream.store import Transaction
from millstream.tasks.limits import TASKS_PER_COMMIT_MAX
from millstream.tasks.message import TaskMessage
from millstream.tasks.row_calls import RowCalls

_ROW_SHOWN = 300
"""Characters of a row that an error shows."""


def calls_of(sink: CallSink | None, table: pa.Table, now_us: int) -> list[TaskMessage]:
    """Return the call of each row. Raises StepError for a row that makes none, and for too many rows."""
    if sink is None:
        return []
    if table.num_rows > TASKS_PER_COMMIT_MAX:
        raise StepError(
            f"{table.num_rows:,} rows would become calls in one commit",
            where=f"enqueue {sink.calls.name!r}",
            expected=f"at most {TASKS_PER_COMMIT_MAX:,}",
            next_step="write them to a topic, and enqueue from there as a stream with a smaller batch_events",
        )
    return list(_calls(sink, table, now_us))


def _calls(sink: CallSink, table: pa.Table, now_us: int) -> Iterator[TaskMessage]:
    assert isinstance(sink.calls, RowCalls), "the only implementation"
    for row in table.to_pylist():
        try:
            task_id = None if sink.task_id is None else _id_of(row[sink.task_id])
            arguments = {name: row[name] for name in sink.arguments}
            yield sink.calls.message(arguments, task_id=task_id, now_us=now_us)
        except (ConfigurationError, PayloadError) as error:
            raise StepError(
                f"a row makes no call: {error.what}",
                where=f"enqueue {sink.calls.name!r}, {str(row)[:_ROW_SHOWN]}",
                expected=error.expected,
                next_step="filter such rows out before enqueue; nothing of this commit was stored",
            ) from error


def _id_of(value: object) -> str:
    if value is None:
        raise ConfigurationError("the task_id is null", expected="a text or an integer")
    return str(value)


def enqueue(tx: Transaction, messages: list[TaskMessage]) -> None:
    """Store the calls in ``tx``, and wake workers when it commits."""
    if messages:
        task_transactions.enqueue(tx, messages)
