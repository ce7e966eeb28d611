"""A stream that several processes share: each runs some of its units, one turn after the other.

    look     who is there; give up units that another shall have, claim those that are free      flow.shared
    turns    one micro-batch of each unit, each with its own commit, as if it were a flow of its own
    wait     for events, for members that come and go; a member that died is found at the next look

A unit has one owner, whose epoch each commit checks: one that was taken over stores nothing any more. What there is to
do hangs on the partitions alone, so the output does not depend on how many processes there are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Final

from millstream.engines.local import flow_catalog, flow_units
from millstream.engines.local.flow_catalog import Claim
from millstream.engines.local.flow_files import options_of, publish_all
from millstream.engines.local.flow_intake import Share
from millstream.engines.local.flow_open import (
    OpenedSource,
    OpenStream,
    numbered_places,
    resumed_table,
)
from millstream.engines.local.flow_run import STOP_CHECK_S, Settings
from millstream.engines.local.flow_units import Membership, Unit
from millstream.engines.local.log import LocalLog
from millstream.flows.contract import Stop
from millstream.flows.fingerprint import fingerprint
from millstream.flows.plan import Plan
from millstream.flows.report import Progress, ProgressListener, RunReport, merged
from millstream.flows.sharding import TopicKey, sharding
from millstream.primitives.errors import Fenced
from millstream.primitives.telemetry import reach

LOOK_S: Final = 0.1
"""How often a member looks who is there, at most and at least."""


class SharedStream:
    """One member's part of a stream. Belongs to one thread."""

    def __init__(
        self, log: LocalLog, plan: Plan, opened: Sequence[OpenedSource], settings: Settings
    ) -> None:
        """Divide the flow unless that was done. Raises PlanError if it cannot be, Fenced while one streams it whole."""
        self._log = log
        self._plan = plan
        self._opened = opened
        self._settings = settings
        self._fingerprint = fingerprint(plan)
        self._places = numbered_places(opened)
        infos = [info for _, info in opened if info is not None]
        topics = {info.name: TopicKey(info.key, info.partitions) for info in infos}
        self._sharding = sharding(plan, topics)
        self._topics = [f"topic:{info.id}" for info in infos]
        self._flow_id = flow_units.divided(
            log.store,
            settings.name,
            self._fingerprint,
            self._places,
            self._sharding,
            self._settle,
        )
        self._running: dict[int, tuple[Unit, OpenStream]] = {}
        self._ended: set[int] = set()
        self._reports: list[RunReport] = []
        self._started_us = log.store.clock.now_us()
        self._started_s = log.store.clock.monotonic_s()
        self._looked_s = float("-inf")
        self._is_done = False

    def _settle(self, claim: Claim) -> None:
        """Do what the last commit of the whole flow left to do outside the store."""
        publish_all(claim.files, options_of(self._plan))
        table = resumed_table(self._log, self._plan, claim.name, claim.delivery)
        if table is not None:
            table.close()

    def loop(self, *, stop: Stop | None, progress: ProgressListener | None) -> RunReport:
        """Run units until all have come to the end of a bounded run, or until told to stop."""
        store = self._log.store
        members = Membership(store, self._settings.name, self._flow_id)
        try:
            channels = [*self._topics, flow_units.channel(self._settings.name)]
            with store.waiter(*channels) as waiter:
                while stop is None or not stop.is_set():
                    waiter.arm()
                    self._look(members)
                    if self._is_done:
                        break
                    is_busy, wait_s = self._turns(members)
                    if is_busy:
                        self._tell(progress)
                    else:
                        waiter.wait(min(wait_s, STOP_CHECK_S))
                    for _, stream in self._running.values():
                        stream.run.fire_clock()
        finally:
            self._end(members)
        return self._report()

    def _turns(self, members: Membership) -> tuple[bool, float]:
        """Give each unit its turn; return whether there were events, and how long to wait if not."""
        is_busy, wait_s = False, LOOK_S
        for number, (_, stream) in self._running.items():
            if number in self._ended:
                continue
            turn = stream.run.turn()
            is_busy |= turn.is_busy or turn.is_ended
            if turn.is_ended:
                self._ended.add(number)
                self._looked_s = float("-inf")  # It may have been the last one.
            if turn.wait_s is not None:
                wait_s = min(wait_s, turn.wait_s)
        return is_busy, wait_s

    def _tell(self, progress: ProgressListener | None) -> None:
        if progress is None:
            return
        rows = sum(stream.run.rows_in for _, stream in self._running.values())
        left = [stream.run.backlog() for _, stream in self._running.values()]
        known = [rows_left for rows_left in left if rows_left is not None]
        done = rows + sum(report.rows_in for report in self._reports)
        progress(Progress(done, done + sum(known) if known else None))

    def _look(self, members: Membership) -> None:
        """Give up and take units, as who is there asks for; note whether a bounded run is at its end."""
        now_s = self._log.store.clock.monotonic_s()
        if now_s - self._looked_s < LOOK_S:
            return
        self._looked_s = now_s
        units, mine = members.look()
        given_up = self._running.keys() - mine
        for number in sorted(given_up):
            self._leave(members, number)
        for unit in units:
            if unit.number in mine and unit.number not in self._running:
                self._take(members, unit)
        if self._settings.bounded and mine <= self._running.keys() & self._ended:
            # A unit that nobody has, and that is not at its end, will be this member's once the others are gone.
            # One that was given up just now is nobody's: the other one may be gone before it has taken it.
            others = [unit for unit in units if unit.number not in mine]
            self._is_done = not given_up and all(
                unit.ended or members.is_running(unit) for unit in others
            )
        reach("flow.shared")

    def _take(self, members: Membership, unit: Unit) -> None:
        if members.is_running(unit):
            return  # Until its owner has seen that it shall give it up.
        try:
            claim = flow_catalog.claim(self._log.store, unit.name, self._fingerprint, self._places)
        except Fenced:
            return  # Another one was faster, who sees otherwise who is there.
        share = Share(unit.number, self._sharding.is_keyed)
        stream = OpenStream(self._log, self._plan, self._opened, claim, self._settings, share)
        self._running[unit.number] = unit, stream
        members.took(unit)

    def _leave(self, members: Membership, number: int) -> None:
        unit, stream = self._running.pop(number)
        has_ended = number in self._ended
        self._ended.discard(number)
        self._reports.append(stream.run.report())
        stream.run.finish()
        stream.close(lambda tx: members.left(tx, unit, ended=has_ended))

    def _end(self, members: Membership) -> None:
        """Give up all units, whatever happens to one of them."""
        with contextlib.ExitStack() as stack:
            stack.callback(members.leave)
            for number in [*self._running]:
                stack.callback(self._leave, members, number)

    def _report(self) -> RunReport:
        clock = self._log.store.clock
        return merged(
            self._settings.name,
            self._reports,
            started_us=self._started_us,
            duration_us=round((clock.monotonic_s() - self._started_s) * 1e6),
        )
