"""Deliveries: rows that a commit of the store promises to a table elsewhere, and keeps until the table has them.

What a stream writes to a database or sends to a webhook becomes visible there by a step of its own, behind the commit
of the store, with no transaction of the store open. That commit holds the rows, so whoever takes the flow over can
write them, and numbers them, so that the other side can tell what it has. The next commit drops them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

import crc32c
import pyarrow as pa

from millstream.primitives.errors import PlanError, StepError, StoreCorrupt
from millstream.primitives.hollow import solid

DELIVERY_BYTES_MAX: Final = 256 * 1024 * 1024
"""How large the rows of one micro-batch may be that go to a table."""


@dataclass(frozen=True)
class Packed:
    """The rows of a micro-batch, as the catalog keeps them."""

    target: str
    crc: int
    payload: bytes


@dataclass(frozen=True)
class Delivery:
    """Rows that a commit of the store promised, and the number that the table knows them by."""

    number: int
    packed: Packed
    done: int = 0
    """How many of them are known to have arrived, where they are not taken as one."""


class Writer(Protocol):
    """Where a stream writes to a table, exactly once, or sends its rows. Belongs to one thread."""

    delivered: int
    """The number of the last delivery that the table is known to have."""

    @property
    def owes(self) -> bool:
        """Whether the stream was told to stop before a delivery had arrived whole: then nothing may be committed."""

    @property
    def failed(self) -> int:
        """How many rows were refused that the run went on without."""

    def write(self, rows: pa.Table) -> Packed | None:
        """Make sure that the table takes the rows, and return them for the catalog; None if there are none."""

    def deliver(self, delivery: Delivery) -> None:
        """Commit the rows of the last ``write`` under the number that the store's commit gave them."""

    def resume(self, delivery: Delivery | None) -> None:
        """Deliver what the last commit of the store promised, unless the table has it."""

    def close(self) -> None:
        """Give back what is open; rows that no delivery committed are undone."""


def packed(rows: pa.Table, target: str) -> Packed:
    """Return rows for the catalog. Raises StepError if they are too many."""
    if rows.nbytes > DELIVERY_BYTES_MAX:
        raise StepError(
            f"a micro-batch has {rows.nbytes} bytes of rows to deliver",
            where=target,
            expected=f"at most {DELIVERY_BYTES_MAX}",
            next_step="stream with a smaller batch_events, or smaller windows; a batch has no such limit",
        )
    out = pa.BufferOutputStream()
    with pa.ipc.new_stream(out, rows.schema) as writer:
        writer.write_table(solid(rows))
    payload = bytes(out.getvalue())
    return Packed(target, crc32c.crc32c(payload), payload)


def unpacked(delivery: Delivery, target: str) -> pa.Table:
    """Return the rows of a delivery for ``target``. Raises PlanError for another target, StoreCorrupt."""
    if delivery.packed.target != target:
        raise undelivered(delivery.packed.target)
    if crc32c.crc32c(delivery.packed.payload) != delivery.packed.crc:
        raise StoreCorrupt(
            "the checksum of a delivery is wrong",
            where="flow_delivery",
            expected=f"CRC32C {delivery.packed.crc}",
            next_step="put back a copy of the store",
        )
    with pa.ipc.open_stream(delivery.packed.payload) as reader:
        return reader.read_all()


def refuse_undelivered(delivery: Delivery | None) -> None:
    """Raise PlanError if a flow that does not end in a table any more has rows for one."""
    if delivery is not None:
        raise undelivered(delivery.packed.target)


def undelivered(target: str) -> PlanError:
    """Return the error of a flow that leaves a table which has not all its rows yet."""
    return PlanError(
        f"rows of the last commit may not be in {target} yet",
        where="write",
        expected="the same table until they are delivered",
        next_step="stream once more to that table, then change the flow",
    )
