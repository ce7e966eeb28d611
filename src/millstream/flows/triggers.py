"""Flows that run by themselves: what an app declares, and where each of them stands. Pure."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from millstream.flows.trigger_conditions import (
    EXPECTED,
    After,
    Condition,
    ConditionLike,
    condition_of,
)
from millstream.primitives.errors import ConfigurationError

if TYPE_CHECKING:
    from millstream.flows.contract import Stop
    from millstream.flows.flow import Flow

MODES = ("batch", "stream")


@dataclass(frozen=True)
class Trigger:
    """A flow that runs by itself."""

    name: str
    conditions: tuple[Condition, ...]
    make: Callable[[], Flow]
    mode: str

    def topics(self) -> set[str]:
        """Return the topics whose events may make it due."""
        return {topic for condition in self.conditions for topic in condition.topics()}

    def follows(self) -> list[str]:
        """Return the flows whose ends may make it due."""
        return [one.flow for one in self.conditions if isinstance(one, After)]


@dataclass(frozen=True)
class TriggerStatus:
    """Where a trigger stands."""

    name: str
    when: tuple[str, ...]
    mode: str
    runs: int
    last_us: int | None
    """When the last run that succeeded began."""
    due_us: int | None
    """When it is due, if time alone can make it so; past if it is due now."""
    failures: int
    """Since the last success."""
    error: str | None
    """Why the last run failed, or why nobody can say whether one is due."""


class TriggerEngine(Protocol):
    """Keeps what triggers have noted, and runs what is due. Of several processes one runs a trigger."""

    def statuses(self, triggers: Sequence[Trigger]) -> list[TriggerStatus]:
        """Return where they stand; nothing is changed."""

    def run_due(self, triggers: Sequence[Trigger], *, report: Callable[[str], None]) -> int:
        """Run what is due now, one after the other, and return how many that were."""

    def run(
        self, triggers: Sequence[Trigger], *, report: Callable[[str], None], stop: Stop
    ) -> None:
        """Run what becomes due until told to stop."""


class TriggerRegistry:
    """The triggers of one app. Declare them while importing; the rest any thread may use."""

    def __init__(self, *, engine: Callable[[], TriggerEngine]) -> None:
        """``engine`` is called when the store is needed."""
        self._engine = engine
        self._declared: dict[str, Trigger] = {}

    def declare(
        self, *conditions: ConditionLike, name: str | None = None, mode: str = "batch"
    ) -> Callable[[Callable[[], Flow]], Callable[[], Flow]]:
        """Return the decorator of a function without arguments that returns a flow: it runs when a condition is met.

        ``@app.trigger(ms.cron("0 3 * * *"), ms.after("ingest"))``. The flow has the name of the function, or ``name``.
        ``mode="batch"`` runs all there is then; ``"stream"`` goes on from its last run, with ``until="now"``. Raises
        ConfigurationError.
        """
        if not conditions:
            raise ConfigurationError("a trigger without a condition", expected=EXPECTED)
        if mode not in MODES:
            raise ConfigurationError(f"mode={mode!r}", where="app.trigger", expected=repr(MODES))
        checked = tuple(map(condition_of, conditions))

        _refuse_same(checked)

        def decorated(make: Callable[[], Flow]) -> Callable[[], Flow]:
            own = _name_of(make, name)
            if own in self._declared:
                raise ConfigurationError(
                    f"two triggers are named {own!r}",
                    expected="a name of its own for each",
                    next_step="give one of them name=, or give one function several conditions",
                )
            self._declared[own] = Trigger(own, checked, make, mode)
            return make

        return decorated

    def list(self) -> list[TriggerStatus]:
        """Return where each trigger stands, in the order of their declaration."""
        return self._engine().statuses([*self._declared.values()])

    def run_due(self, *, report: Callable[[str], None] = lambda line: None) -> int:
        """Run what is due now, one after the other; return how many runs that were. ``report`` hears of each.

        A trigger that another process runs is left to that one. Raises ConfigurationError if there is no trigger, or if
        some would run for ever because each waits for another.
        """
        return self._engine().run_due(self._some(), report=report)

    def run(self, *, stop: Stop, report: Callable[[str], None] = lambda line: None) -> None:
        """Run what becomes due until ``stop`` is set. A run that fails is reported, and tried again later.

        Any number of processes may do it: each trigger is run by one of them, and by another when that one dies. Raises
        ConfigurationError if there is no trigger, or if some would run for ever because each waits for another.
        """
        self._engine().run(self._some(), report=report, stop=stop)

    def _some(self) -> Sequence[Trigger]:
        if not self._declared:
            raise ConfigurationError(
                "the app has no trigger",
                expected="functions under @app.trigger(…)",
                next_step="declare one in the module of the app, or in one that it imports",
            )
        _refuse_circle(self._declared)
        return [*self._declared.values()]


def _refuse_same(conditions: Sequence[Condition]) -> None:
    texts = [str(one) for one in conditions]
    twice = next((text for text in texts if texts.count(text) > 1), None)
    if twice is not None:
        raise ConfigurationError(
            f"one trigger has the condition {twice!r} twice",
            where="app.trigger",
            expected="each condition once",
            next_step="leave one of them out",
        )


def _name_of(make: object, name: str | None) -> str:
    """Return the name of a trigger. Raises ConfigurationError unless ``make`` can be called without arguments."""
    own = name or getattr(make, "__name__", "")
    if not callable(make) or not _takes_nothing(make):
        raise ConfigurationError(
            f"@app.trigger(…) is above {make!r}",
            where=f"trigger {own!r}",
            expected="a function without arguments that returns a flow",
            next_step="define one that builds the flow, with app.read(…) and the steps behind it",
        )
    if not own or own == "<lambda>":
        raise ConfigurationError(
            "a trigger without a name",
            where="app.trigger",
            expected="a function that has a name, or name=",
            next_step='give it name="…", under which the flow\'s place and its runs are kept',
        )
    return own


def _takes_nothing(make: Callable[..., object]) -> bool:
    try:
        inspect.signature(make).bind()
    except TypeError:
        return False
    except ValueError:  # it does not tell
        return True
    return True


def _refuse_circle(triggers: Mapping[str, Trigger]) -> None:
    """Raise ConfigurationError for triggers that would run for ever once one of them has run."""

    def followed(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            circle = (*path[path.index(name) :], name)
            raise ConfigurationError(
                f"triggers that wait for each other: {' after '.join(circle)}",
                where="app.trigger",
                expected="flows that come to an end",
                next_step="take one ms.after(…) away; what shall run again and again has ms.every(…)",
            )
        if name in triggers and name not in seen:
            for other in triggers[name].follows():
                followed(other, (*path, name))
            seen.add(name)

    seen: set[str] = set()
    for name in triggers:
        followed(name, ())
