"""What one run of a flow counts: rows and time of its steps, and the events that functions failed for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import polars as pl

from millstream.engines.local.flow_events import Failures
from millstream.flows.figures import Counted, StepFigures, StepPlace, step_figures, step_places
from millstream.flows.plan import Plan

T = TypeVar("T")


class Counter:
    """The rows that a step gave, and the time it took. Threads of Polars may count at once."""

    __slots__ = ("_lock", "is_timed", "rows", "seconds")

    def __init__(self) -> None:
        """Start with nothing."""
        self.rows = 0
        self.seconds = 0.0
        self.is_timed = False
        self._lock = threading.Lock()

    def add(self, rows: int) -> None:
        """Count rows."""
        with self._lock:
            self.rows += rows

    def spend(self, seconds: float) -> None:
        """Count time."""
        with self._lock:
            self.seconds += max(seconds, 0.0)
            self.is_timed = True

    @contextmanager
    def spending(self) -> Iterator[None]:
        """Count the time of what is done within."""
        started_s = time.perf_counter()
        yield
        self.spend(time.perf_counter() - started_s)

    def counted(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        """Return the frame; its rows are counted while it is computed, and nothing else about it changes."""
        return frame.map_batches(
            self._seen, projection_pushdown=True, validate_output_schema=False, streamable=True
        )

    def _seen(self, frame: pl.DataFrame) -> pl.DataFrame:
        self.add(frame.height)
        return frame

    def told(self) -> Counted:
        """Return what was counted."""
        return Counted(self.rows, round(self.seconds * 1e6) if self.is_timed else None)


class Tally:
    """All that is counted while a plan runs once."""

    def __init__(self, plan: Plan, now_us: Callable[[], int]) -> None:
        """Start with nothing."""
        self.failures = Failures(now_us)
        self._plan = plan
        self._counters = {place: Counter() for place in step_places(plan)}

    def at(self, place: StepPlace) -> Counter:
        """Return the counter of a place."""
        return self._counters[place]

    def told(self) -> list[Counted]:
        """Return what was counted, in the order of ``step_places``."""
        return [counter.told() for counter in self._counters.values()]

    def figures(self) -> tuple[StepFigures, ...]:
        """Return the figures of each step."""
        counted = {place: counter.told() for place, counter in self._counters.items()}
        return step_figures(self._plan, counted)


class FunctionTime:
    """The time that a function of the user takes for itself, while its batches come and go."""

    def __init__(self, counter: Counter) -> None:
        """Count it there."""
        self._counter = counter
        self._given_s = 0.0

    def without(self, given: Iterator[T]) -> Iterator[T]:
        """Yield what the function is given; how long that takes is not its time."""
        while True:
            started_s = time.perf_counter()
            one = next(given, None)
            self._given_s += time.perf_counter() - started_s
            if one is None:
                return
            yield one

    def within(self, made: Iterator[T]) -> Iterator[T]:
        """Yield what the function makes, and count the time that it took."""
        while True:
            started_s, self._given_s = time.perf_counter(), 0.0
            one = next(made, None)
            self._counter.spend(time.perf_counter() - started_s - self._given_s)
            if one is None:
                return
            yield one


@dataclass
class Took:
    """How long something took, known behind it."""

    seconds: float = 0.0
    functions_s: float = 0.0
    """The part of it that functions of the user have taken."""


class Fused:
    """Steps that are computed as one: the first built-in one has the time of all, without that of the functions."""

    def __init__(self) -> None:
        """Start with no step."""
        self._members: list[tuple[Counter, bool]] = []

    def add(self, counter: Counter, *, is_function: bool = False) -> None:
        """Take one more step; a function counts its own time."""
        self._members.append((counter, is_function))

    def extend(self, others: Fused) -> None:
        """Take more steps."""
        self._members += others._members

    @contextmanager
    def computing(self, *, carries: bool = True) -> Iterator[Took]:
        """Count the time of what is computed within; that of functions alone unless it ``carries`` the rest."""
        took = Took()
        before_s, started_s = self._functions_s(), time.perf_counter()
        yield took
        took.seconds = time.perf_counter() - started_s
        took.functions_s = self._functions_s() - before_s
        if carries and self._members:
            first = next((c for c, is_function in self._members if not is_function), None)
            (first or self._members[0][0]).spend(took.seconds - took.functions_s)

    def _functions_s(self) -> float:
        return sum(counter.seconds for counter, is_function in self._members if is_function)
