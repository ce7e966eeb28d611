"""What a stream delivers behind its commits: rows for a table (``flow_sql``) or a webhook (``flow_webhook``).

The commit of a micro-batch holds its rows (``flow_delivery`` in the catalog). They are delivered after it, with no
transaction open, and dropped by the next commit. Whoever takes the flow over delivers what is there first.
"""

from __future__ import annotations

from typing import Protocol

import pyarrow as pa

from millstream.engines.local import flow_catalog
from millstream.engines.local.flow_sql import Delivery, Packed, TableWriter, undelivered
from millstream.engines.local.flow_webhook import WebhookWriter
from millstream.engines.local.log import LocalLog
from millstream.flows.contract import Stop
from millstream.flows.plan import Plan
from millstream.flows.sql import SqlSink
from millstream.flows.webhook import WebhookSink


class Deliverer(Protocol):
    """Where a stream delivers rows. Belongs to one thread."""

    delivered: int
    """The number of the last delivery that is known to have arrived whole."""
    owes: bool
    """Whether the stream was told to stop before a delivery had arrived whole: then nothing may be committed."""

    @property
    def failed(self) -> int:
        """How many rows were refused that the run went on without."""

    def write(self, rows: pa.Table) -> Packed | None:
        """Return the rows for the catalog, None if there are none. Raises StepError for what cannot be delivered."""

    def deliver(self, delivery: Delivery) -> None:
        """Deliver the rows of the last ``write``, of which a commit has told."""

    def resume(self, delivery: Delivery | None) -> None:
        """Deliver what the last commit of the store promised and is not there yet."""

    def close(self) -> None:
        """Close what is open; what was not delivered stays in the catalog."""


def deliverer(log: LocalLog, plan: Plan, *, flow: str, stop: Stop | None) -> Deliverer | None:
    """Return what delivers the rows of a plan, or None if its sink needs nobody to. Raises PlanError, StepError."""
    match plan.sink:
        case SqlSink() as sink:
            store = flow_catalog.store_identity(log.store)
            return TableWriter(sink, plan.schema, store=store, flow=flow)
        case WebhookSink() as sink:
            store = flow_catalog.store_identity(log.store)
            return WebhookWriter(log, sink, store=store, flow=flow, stop=stop)
        case _:
            return None


def resumed(
    log: LocalLog, plan: Plan, *, flow: str, delivery: Delivery | None, stop: Stop | None = None
) -> Deliverer | None:
    """Return what delivers the rows of a plan, after it has delivered what the last commit has for it.

    Raises PlanError when the flow owes rows to another sort of sink than it has now, and StepError.
    """
    found = deliverer(log, plan, flow=flow, stop=stop)
    if found is None:
        if delivery is not None:
            raise undelivered(delivery.packed.target)
        return None
    try:
        found.resume(delivery)
    except BaseException:
        found.close()
        raise
    return found
