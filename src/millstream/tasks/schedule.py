"""``app.schedule``: calls that are sent by themselves, at times that are told once.

A schedule is declared beside the tasks, at import; nothing is opened then. Each worker brings what its app declares to
the store when it starts, and from there the schedules run, whichever worker lives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import msgspec

from millstream.primitives.errors import ConfigurationError
from millstream.primitives.schedule_times import Times, TimesLike, times_of
from millstream.tasks.message import TaskMessage
from millstream.tasks.options import check_name
from millstream.tasks.registry import TaskRegistry
from millstream.tasks.schedule_missed import Missed, missed_of
from millstream.tasks.signature import Signature

NAME_LENGTH_MAX = 200
"""Characters of the name of a schedule: with a due time behind it, it is the id of a task."""
SCHEDULES_MAX = 10_000
"""Schedules that one app declares."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleSpec:
    """One schedule as it is stored; the times of its message are relative to the run."""

    name: str
    message: TaskMessage
    times: Times
    missed: Missed


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleStatus:
    """What the store knows of a schedule. Times are UTC microseconds."""

    name: str
    task: str
    queue: str
    times: Times
    missed: Missed
    owner: str | None
    """The app that declares it; None if it was stored with ``app.schedules.store``."""
    next_us: int | None
    """When it runs next; None if never again. Meaningless while it is paused or not declared."""
    last_us: int | None
    """The due time that was run last."""
    runs: int
    skipped: int
    """Due times that were passed over."""
    paused_us: int | None
    why: str | None
    """Why it was paused, if it was not by a person."""
    retired_us: int | None
    """Since when no app declares it any more."""

    @property
    def is_active(self) -> bool:
        """Tell whether it will run again."""
        return self.next_us is not None and self.paused_us is None and self.retired_us is None


@dataclass(frozen=True, slots=True)
class Synchronised:
    """What bringing the declared schedules to the store has changed, by name."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    retired: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Tell whether anything was changed."""
        return bool(self.added or self.changed or self.retired)

    def __str__(self) -> str:
        """Return it as a line for a log."""
        parts = (("added", self.added), ("changed", self.changed), ("retired", self.retired))
        return "; ".join(f"{what}: {', '.join(names)}" for what, names in parts if names)


class ScheduleEngine(Protocol):
    """Stores schedules and runs them. Any thread."""

    def synchronise(self, owner: str, specs: Sequence[ScheduleSpec]) -> Synchronised:
        """Make the schedules of ``owner`` those, in one commit; others of it are retired, and run no more.

        One whose times stay the same keeps its place: runs that were missed meanwhile are still missed runs. Raises
        ConfigurationError when another app declares one of the names.
        """
        ...

    def store(self, spec: ScheduleSpec) -> None:
        """Store one schedule that no app declares; durable when this returns."""
        ...

    def list(self) -> list[ScheduleStatus]:
        """Return all schedules by name."""
        ...

    def pause(self, name: str) -> None:
        """Let it not run until it is resumed. Raises UnknownTask."""
        ...

    def resume(self, name: str) -> None:
        """Let it run again, from the first due time after now. Raises UnknownTask."""
        ...

    def trigger(self, name: str) -> str:
        """Send its call now, beside its times, and return the id of the task. Raises UnknownTask."""
        ...

    def remove(self, name: str) -> None:
        """Forget it. A worker that still declares it stores it anew at its start. Raises UnknownTask."""
        ...


class ScheduleRegistry:
    """The schedules of one app. Declare them while importing; the rest any thread may use."""

    def __init__(
        self, *, owner: str, engine: Callable[[], ScheduleEngine], tasks: TaskRegistry
    ) -> None:
        """``owner`` is the app's name; ``engine`` is called when the store is needed; ``tasks`` may have schedules."""
        self.owner = owner
        self._tasks = tasks
        self._engine = engine
        self._declared: dict[str, tuple[Signature[Any], Times, Missed]] = {}

    def declare(
        self,
        name: str,
        call: Signature[Any],
        when: TimesLike,
        /,
        *,
        missed: str | Missed = Missed.LATEST,
    ) -> None:
        """Declare that ``call`` is sent whenever it is due: ``app.schedule("report", report.s(), ms.every("5m"))``.

        ``when``: ``ms.cron(…)``, ``ms.every(…)``, or an aware datetime for once. ``missed``: what becomes of runs that
        were due while no worker lived, ``"latest"`` (one run for all of them), ``"skip"`` or ``"all"``. Workers bring
        it to the store when they start. Each run is a task of the id ``<name>:<due time in microseconds>``. Raises
        ConfigurationError.
        """
        _check_schedule(name, call)
        if name in self._declared:
            raise _named_twice(name)
        if len(self._declared) == SCHEDULES_MAX:
            raise ConfigurationError(
                f"more than {SCHEDULES_MAX:,} schedules",
                expected="at most that many in one app",
                next_step="let one task send the calls of many",
            )
        self._declared[name] = (call, times_of(when), missed_of(missed))

    def specs(self) -> list[ScheduleSpec]:
        """Return what is declared, ready to be stored. Raises TaskArgumentError for a call that does not fit."""
        specs = [spec_of(name, *declared) for name, declared in self._declared.items()]
        for name in self._tasks.names():
            task = self._tasks.get(name)
            if task.options.schedule is not None:
                if name in self._declared:
                    raise _named_twice(name)
                call = task.s()
                _check_schedule(name, call)
                specs.append(spec_of(name, call, task.options.schedule, Missed.LATEST))
        return specs

    def synchronise(self) -> Synchronised:
        """Bring what is declared to the store, as each worker does at its start. See ``ScheduleEngine``."""
        return self._engine().synchronise(self.owner, self.specs())

    def store(
        self,
        name: str,
        call: Signature[Any],
        when: TimesLike,
        /,
        *,
        missed: str | Missed = Missed.LATEST,
    ) -> None:
        """Store a schedule now, durably, as ``declare`` says otherwise; it stays until ``remove``.

        One of the same name is replaced. Raises ConfigurationError if that is a declared one.
        """
        _check_schedule(name, call)
        self._engine().store(spec_of(name, call, times_of(when), missed_of(missed)))

    def list(self) -> list[ScheduleStatus]:
        """Return all schedules of the store by name."""
        return self._engine().list()

    def pause(self, name: str) -> None:
        """Let it not run until ``resume``; due times that pass meanwhile are not made up for. Raises UnknownTask."""
        self._engine().pause(name)

    def resume(self, name: str) -> None:
        """Let it run again, from the first due time after now. Raises UnknownTask.

        Also for one that runs: it sets right what a wrong clock has moved into the future.
        """
        self._engine().resume(name)

    def trigger(self, name: str) -> str:
        """Send its call now, beside its times; return the id of the task. Raises UnknownTask."""
        return self._engine().trigger(name)

    def remove(self, name: str) -> None:
        """Forget it. A worker that still declares it stores it anew at its start. Raises UnknownTask."""
        self._engine().remove(name)


def spec_of(name: str, call: Signature[Any], times: Times, missed: Missed) -> ScheduleSpec:
    """Return a schedule as it is stored. Its message is made for the time zero, so its times are relative."""
    return ScheduleSpec(name=name, message=call.message(0), times=times, missed=missed)


def run_id(name: str, due_us: int) -> str:
    """Return the id of the task that a schedule sends for a due time."""
    return f"{name}:{due_us}"


def message_at(message: TaskMessage, now_us: int, *, task_id: str) -> TaskMessage:
    """Return a stored message with its relative times counted from ``now_us``."""
    changes: dict[str, Any] = {"id": task_id}
    for key in ("eta_us", "start_before_us", "unique_until_us"):
        relative_us = getattr(message, key, None)
        if relative_us is not None:
            changes[key] = now_us + relative_us
    return msgspec.structs.replace(message, **changes)


def _named_twice(name: str) -> ConfigurationError:
    return ConfigurationError(
        f"two schedules are named {name!r}",
        expected="a name of its own for each",
        next_step="choose another name",
    )


def _check_schedule(name: str, call: Signature[Any]) -> None:
    if not isinstance(call, Signature):
        raise ConfigurationError(
            f"a {type(call).__name__} cannot be scheduled",
            where=f"schedule {name!r}",
            expected="a call, such as task.s(1)",
            next_step="let a task send the workflow, and schedule that task",
        )
    check_name("schedule", name)
    if len(name) > NAME_LENGTH_MAX:
        raise ConfigurationError(
            f"the name of a schedule has {len(name)} characters",
            expected=f"at most {NAME_LENGTH_MAX}",
        )
    absolute = [
        option for option in ("eta", "expires") if isinstance(getattr(call, option, None), datetime)
    ]
    if call.task_id is not None:
        absolute.append("task_id")
    if absolute:
        raise ConfigurationError(
            f"each run would have the same {absolute[0]}",
            where=f"schedule {name!r}",
            expected="a call without an absolute time or an id",
            next_step="use `countdown`, or seconds for `expires`",
        )
