"""Functions with a memory: ``flow.key_by("user", time="at").process(function, …)``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from millstream.flows.keyed import Keyed, Process, ProcessFunction, TimerFunction
from millstream.flows.kinds import widened_schema
from millstream.flows.state_codec import StateCodec
from millstream.flows.steps import refuse_uncallable
from millstream.primitives.schema import SchemaLike, to_arrow_schema

if TYPE_CHECKING:
    from millstream.flows.flow import Flow


@dataclass(frozen=True)
class KeyedFlow:
    """A flow whose events have keys and an order: waits for ``process``."""

    flow: Flow
    keyed: Keyed

    def process(
        self,
        function: ProcessFunction,
        schema: SchemaLike,
        *,
        state: object = None,
        on_timer: TimerFunction | None = None,
        on_error: str = "fail",
    ) -> Flow:
        """Call ``function(event, context)`` with each event, a dict; it gives a dict of ``schema``, several, or None.

        ``context.state`` is what is remembered of the event's key: an object of the type ``state``, made without
        arguments for a key that is new. It is stored in the commit that holds the flow's place and output, so after a
        crash it is as it was; the state of all keys is in memory. See ``ms.KeyedContext``.

        ``context.set_timer(…)`` has ``on_timer(context)`` called between the events, in the order of time. At the end
        of bounded input all timers are due, in order.

        With a time, a column of the output that has its name must not lie before the event, or the timer, that the
        row is made of: what follows may put it in windows.

        ``on_error`` says what becomes of an event, or a timer, for which the function raises: ``"fail"`` ends the run
        with a StepError, ``"skip"`` leaves it out and counts it, ``"dead_letter"`` also writes it to ``<flow>.dead``;
        state and timers are then as before the call. Raises PlanError for what does not fit.
        """
        where = self.flow._where("process")
        refuse_uncallable(function, where, "of an event, a dict, and a context")
        if on_timer is not None:
            refuse_uncallable(on_timer, where, "of a context")
        step = Process(
            function,
            on_timer,
            self.keyed,
            widened_schema(to_arrow_schema(schema), where=where),
            StateCodec(state, where=where),
            on_error,
        )
        return self.flow._then(step)
