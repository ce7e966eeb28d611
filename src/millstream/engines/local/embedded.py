"""Everything embedded: the log, the tasks and the flows of one directory, opened together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from millstream.engines.local.delays import read_delays
from millstream.engines.local.log import LocalLog
from millstream.engines.local.tasks import LocalTasks
from millstream.primitives.clock import Clock
from millstream.primitives.durability import Durability
from millstream.primitives.duration import Duration, duration_us
from millstream.primitives.histogram import Histogram
from millstream.store import Store

if TYPE_CHECKING:
    from millstream.engines.local.flow_model_store import LocalModels
    from millstream.engines.local.flow_triggers import LocalTriggers
    from millstream.engines.local.flows import LocalFlows


@dataclass(frozen=True, slots=True)
class Embedded:
    """The engines of one store in this process. Thread-safe."""

    store: Store
    log: LocalLog
    tasks: LocalTasks

    @classmethod
    def open(cls, path: str, *, durability: Durability, clock: Clock) -> Self:
        """Open the store at ``path``, made if it is missing. Raises what ``Store.open`` raises; nothing stays open."""
        store = Store.open(path, durability=durability, clock=clock)
        try:
            return cls(store, LocalLog(store), LocalTasks(store))
        except BaseException:
            store.close()
            raise

    @property
    def flows(self) -> LocalFlows:
        """The engine of the flows. It brings Polars, which takes a worker of tasks a third of its memory."""
        from millstream.engines.local.flows import LocalFlows

        return LocalFlows(self.log)

    @property
    def models(self) -> LocalModels:
        """The models that flows train. They bring Polars too."""
        from millstream.engines.local.flow_model_store import LocalModels

        return LocalModels(self.store)

    @property
    def triggers(self) -> LocalTriggers:
        """The triggers of flows, which bring Polars too."""
        from millstream.engines.local.flow_triggers import LocalTriggers

        return LocalTriggers(self.log)

    @property
    def closed(self) -> bool:
        """Whether it cannot be used any more: closed, or opened before a fork."""
        return self.store.closed

    def delays(
        self, *, since: Duration | None = None
    ) -> Mapping[tuple[str, str], Mapping[str, Histogram]]:
        """Return the four delays of each (kind, subject) by phase, of the last ``since`` or of all time."""
        since_us = 0 if since is None else self.store.clock.now_us() - duration_us(since)
        return read_delays(self.store, since_us=since_us)

    def close(self) -> None:
        """Leave groups, stop background work, and close the store. Again is fine."""
        if not self.store.closed:
            try:
                self.log.close()
            finally:
                self.store.close()
