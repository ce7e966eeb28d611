"""Users' functions that are called with single events, and what becomes of those that they fail for."""

from __future__ import annotations

import asyncio
import threading
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol, TypeVar, cast

import msgspec
import pyarrow as pa

from millstream.flows.steps import MapEvents
from millstream.primitives.errors import SchemaError, StepError
from millstream.primitives.schema import Timestamp, rows_to_batch, to_arrow_schema, us_datetime

T = TypeVar("T")
DEAD_SCHEMA: Final = to_arrow_schema(
    {"step": str, "event": str, "error": str, "traceback": str, "at": Timestamp}
)
"""A dead letter: the step that failed, the event as JSON, the error, its traceback, and when that was."""

_EVENT_SHOWN: Final = 300
"""Characters of an event that an error shows."""


class Policy(Protocol):
    """What says what becomes of an event that fails: a step, or a sink."""

    @property
    def on_error(self) -> str:
        """One of ``ON_ERROR``."""


class Failures:
    """Events of one run that a function failed for and that the run goes on without. One thread at a time."""

    def __init__(self, now_us: Callable[[], int]) -> None:
        """Start with none."""
        self._now_us = now_us
        self._letters: list[dict[str, object]] = []
        self.count = 0

    def note(self, step: Policy, where: str, event: Mapping[str, Any], error: Exception) -> None:
        """Take an event that failed; raise StepError if the step is to fail with it."""
        text = _json(event)
        if step.on_error == "fail":
            raise _failed(error, where, text) from error
        self.count += 1
        if step.on_error == "dead_letter":
            told = traceback.format_exception(type(error), error, error.__traceback__)
            self._letters.append(
                {
                    "step": where,
                    "event": text,
                    "error": f"{type(error).__name__}: {error}",
                    "traceback": "".join(told),
                    "at": us_datetime(self._now_us()),
                }
            )

    def take(self) -> pa.Table | None:
        """Return the dead letters since the last time, or None if there are none."""
        letters, self._letters = self._letters, []
        return pa.Table.from_pylist(letters, DEAD_SCHEMA) if letters else None


class EventCaller:
    """A step that calls a function with each event, as a function of batches."""

    def __init__(self, step: MapEvents, where: str, failures: Failures) -> None:
        """``where`` names the step in errors."""
        self._step = step
        self._where = where
        self._failures = failures

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Yield what the function makes of each batch."""
        for batch in batches:
            yield self._called(batch.to_pylist())

    def _called(self, events: list[dict[str, Any]]) -> pa.RecordBatch:
        made = self._async(events) if self._step.kind == "async_map" else self._sync(events)
        schema = self._step.schema
        try:
            return rows_to_batch([row for rows in made for row in rows], schema, where=self._where)
        except SchemaError:
            # One of them does not fit: each by itself shows which.
            fitting = [
                batch
                for event, rows in zip(events, made, strict=True)
                if (batch := self._fitting(event, rows)) is not None
            ]
            table = pa.Table.from_batches(fitting, schema).combine_chunks()
            return (table.to_batches() or [pa.RecordBatch.from_pylist([], schema)])[0]

    def _fitting(self, event: dict[str, Any], rows: Sequence[Any]) -> pa.RecordBatch | None:
        try:
            return rows_to_batch(rows, self._step.schema, where=self._where)
        except SchemaError as error:
            self._failures.note(self._step, self._where, event, error)
            return None

    def _sync(self, events: list[dict[str, Any]]) -> list[Sequence[Any]]:
        function, many = self._step.function, self._step.kind == "flat_map"
        made: list[Sequence[Any]] = []
        for event in events:
            # The function may change its event; a dead letter shows it as it came.
            given = dict(event)
            try:
                result = function(given)
                made.append(_copies(result) if many else (result,))
            except Exception as error:  # noqa: BLE001 - the policy of the step decides
                self._failures.note(self._step, self._where, event, error)
                made.append(())
        return made

    def _async(self, events: list[dict[str, Any]]) -> list[Sequence[Any]]:
        function = cast(Callable[[dict[str, Any]], Awaitable[Any]], self._step.function)
        results = run_in_loop(_gathered(function, events, self._step.concurrency))
        made: list[Sequence[Any]] = []
        for event, result in zip(events, results, strict=True):
            if isinstance(result, _Raised):
                self._failures.note(self._step, self._where, event, result.error)
                made.append(())
            else:
                made.append((result,))
        return made


def _copies(rows: object) -> list[Any]:
    """Return what a function yields, each dict as it was then: the function may go on with the same one."""
    return [row.copy() if row.__class__ is dict else row for row in cast(Iterable[Any], rows)]


class _Raised:
    """What a call raised, so that it is told apart from an exception that a call returns."""

    def __init__(self, error: Exception) -> None:
        self.error = error


class _Ended(Exception):
    """``sys.exit()`` in an awaited function: it would end the thread of the loop, and nobody would hear of it."""

    def __init__(self, error: SystemExit | KeyboardInterrupt) -> None:
        self.error = error


async def _gathered(
    function: Callable[[dict[str, Any]], Awaitable[Any]],
    events: Sequence[dict[str, Any]],
    concurrency: int,
) -> list[Any]:
    """Return the results in the order of the events; so many calls are awaited at a time."""
    results: list[Any] = [None] * len(events)
    waiting = iter(enumerate(events))

    async def work() -> None:
        for index, event in waiting:
            try:
                results[index] = await function(dict(event))
            except (SystemExit, KeyboardInterrupt) as error:
                raise _Ended(error) from None
            except Exception as error:  # noqa: BLE001 - the policy of the step decides
                results[index] = _Raised(error)

    working = [asyncio.ensure_future(work()) for _ in range(min(concurrency, len(events)))]
    try:
        await asyncio.gather(*working)
    except BaseException:
        for one in working:
            one.cancel()
        raise
    return results


_loops: list[tuple[threading.Thread, asyncio.AbstractEventLoop]] = []
_loops_lock = threading.Lock()


def run_in_loop(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in the one event loop that all flows of the process share, and return its result.

    One loop for all micro-batches: what a client keeps open between calls belongs to a loop.
    """
    with _loops_lock:
        # After a fork the thread is gone.
        if not _loops or not _loops[-1][0].is_alive():
            loop = asyncio.new_event_loop()
            thread = threading.Thread(target=loop.run_forever, name="millstream-async", daemon=True)
            thread.start()
            _loops[:] = [(thread, loop)]
        loop = _loops[-1][1]
    running = asyncio.run_coroutine_threadsafe(_guarded(work), loop)
    try:
        return running.result()
    except _Ended as ended:
        raise ended.error from None
    except BaseException:
        # Ctrl-C ends the one who waits; what it waited for must not go on by itself.
        running.cancel()
        raise


async def _guarded(work: Coroutine[Any, Any, T]) -> T:
    try:
        return await work
    except (SystemExit, KeyboardInterrupt) as error:
        raise _Ended(error) from None


def _json(event: Mapping[str, Any]) -> str:
    return msgspec.json.encode(event, enc_hook=repr).decode()


def _failed(error: Exception, where: str, event: str) -> StepError:
    what, expected = (
        f"the function raised {type(error).__name__}: {error}",
        "a function that returns",
    )
    if isinstance(error, SchemaError | StepError):
        what, expected = error.what, error.expected
    return StepError(
        f"{what}; the event: {event[:_EVENT_SHOWN]}",
        where=where,
        expected=expected,
        next_step='handle the case in the function, or say on_error="dead_letter" or "skip"; '
        "nothing of this batch was written",
    )
