"""Flows as streams, of topics and of files: micro-batches of what has arrived, each committed exactly once.

One thread does it all, in this order; a crash anywhere leaves either all of a micro-batch or nothing of it:

    read        events of the topic, from the positions of the last commit            flow.read
    compute     the steps, late events apart, partial aggregates, closed windows      flow.computed
    stage       output frames are written and synced, and not visible                 flow.staged
    commit      ONE transaction: output, calls, positions, state, delays              flow.applied, flow.committed

The commit checks the epoch. Memory holds the open windows and one micro-batch. Nothing here asks the wall clock when to
close a window, unless the stream was told what an idle partition is.
"""

from __future__ import annotations

from millstream.engines.local import flow_catalog, flow_units
from millstream.engines.local.flow_figures import flow_figures
from millstream.engines.local.flow_files import check_place
from millstream.engines.local.flow_finished import AtEnd, note_finished
from millstream.engines.local.flow_kept import kept_states
from millstream.engines.local.flow_open import (
    OpenStream,
    numbered_places,
    opened_sources,
    resumed_table,
)
from millstream.engines.local.flow_run import Settings
from millstream.engines.local.log import LocalLog
from millstream.engines.local.stream_checks import check_stream, refuse_early
from millstream.engines.local.stream_shared import SharedStream
from millstream.flows.contract import Stop
from millstream.flows.figures import FlowFigures
from millstream.flows.fingerprint import fingerprint
from millstream.flows.kept import KeptState
from millstream.flows.plan import Plan
from millstream.flows.report import ProgressListener, RunReport


class LocalStream:
    """Streams plans from topics to topics of one store. Thread-safe; each call is independent."""

    def __init__(self, log: LocalLog) -> None:
        """Read topics from, and write them to, this log."""
        self._log = log
        self.store = log.store

    def check_stream(self, plan: Plan) -> None:
        """Raise PlanError for what cannot run as a stream here, naming the step."""
        check_stream(plan)
        check_place(plan)

    def stream(  # noqa: PLR0913 - those of the contract, and what is done at its end
        self,
        plan: Plan,
        *,
        name: str,
        until: str | None,
        batch_events: int,
        idle_us: int | None,
        shared: bool,
        stop: Stop | None,
        progress: ProgressListener | None,
        at_end: AtEnd | None = None,
    ) -> RunReport:
        """Run from where the flow of that name has come to; see ``StreamEngine``.

        ``at_end`` is done in the transaction that counts its end, if it comes to it.
        """
        self.check_stream(plan)
        if until == "now":
            refuse_early(plan)
        opened = opened_sources(self._log, plan)
        settings = Settings(
            name,
            batch_events,
            idle_us,
            bounded=until is not None,
            closes=until == "end",
            stop=stop,
        )
        flow_id = flow_units.flow_id_of(self._log.store, name)
        if flow_id is None and not shared:
            claim = flow_catalog.claim(
                self._log.store, name, fingerprint(plan), numbered_places(opened)
            )
            # Others may have divided it in between; now that it is claimed they cannot.
            flow_id = flow_units.flow_id_of(self._log.store, name)
            if flow_id is None:
                stream = OpenStream(self._log, plan, opened, claim, settings)
                try:
                    stream.run.loop(stop=stop, progress=progress)
                finally:
                    stream.close()
                self._note_end(settings, at_end)
                return stream.run.report()
            self._log.store.write(lambda tx: flow_catalog.release(tx, claim))
        if flow_id is not None and not shared:
            flow_units.refuse_shared(self._log.store, name, flow_id)
        report = SharedStream(self._log, plan, opened, settings).loop(stop=stop, progress=progress)
        self._note_end(settings, at_end)
        return report

    def _note_end(self, settings: Settings, at_end: AtEnd | None) -> None:
        if settings.bounded and (settings.stop is None or not settings.stop.is_set()):
            self._log.store.write(lambda tx: note_finished(tx, settings.name, at_end))

    def state(
        self, plan: Plan, *, name: str, step: int | None, key: object, rows_max: int
    ) -> tuple[KeptState, ...]:
        """Return what the flow of that name keeps; see ``StreamEngine``."""
        return kept_states(self._log.store, plan, name, step=step, key=key, rows_max=rows_max)

    def figures(self, plan: Plan, *, name: str) -> FlowFigures:
        """Return how the stream of that name is doing; see ``StreamEngine``."""
        return flow_figures(self._log, plan, name)

    def reset(self, name: str, plan: Plan) -> None:
        """Forget the place and state of a flow; its output stays. Raises Fenced while it runs."""
        store = self._log.store
        flow_id = flow_units.flow_id_of(store, name)
        units = [] if flow_id is None else flow_units.units_of(store, flow_id)
        if flow_id is not None:
            flow_units.refuse_shared(store, name, flow_id)
        for each in [*(unit.name for unit in units), name]:
            flow_catalog.refuse_running(store, each)
            delivery = flow_catalog.undelivered(store, each)
            if delivery is not None:
                table = resumed_table(self._log, plan, each, delivery)
                if table is not None:
                    table.close()
        if flow_id is not None:
            flow_units.forget_units(store, flow_id, plan)
        flow_catalog.forget(store, name, plan)
