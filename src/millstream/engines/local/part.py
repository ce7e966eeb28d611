"""Events on their way into one partition: encoded and checked, and not in a frame of their own yet.

Few events given as dicts become rows: each a MessagePack array, one behind the other. Rows that several threads append
at the same moment go into one frame together (``join``), so that the catalog is written once for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from millstream.store.frame import HEAD_BYTES, ROWS, EncodedFrame, Run, encode_frame

_FIX_ARRAY_MAX: Final = 15
_ARRAY_16_MAX: Final = 65_535
_BEFORE_PAYLOAD_BYTES: Final = 2 * HEAD_BYTES
"""What stands before the payload of a frame that was appended at once."""


class Rows(NamedTuple):
    """Encoded rows of one partition, without the head of the array that holds them."""

    schema_id: int
    partition_id: int
    data: bytes
    runs: tuple[Run, ...]

    def frame(self) -> EncodedFrame:
        """Return the frame that holds these rows."""
        runs = self.runs
        count = runs[0][1] if len(runs) == 1 else sum([rows for _, rows in runs])
        return encode_frame(
            array_head(count) + self.data,
            encoding=ROWS,
            schema_id=self.schema_id,
            partition_id=self.partition_id,
            rows=count,
            runs=runs,
        )


class Part:
    """What goes into one partition as one frame; ``rows`` is None for columns."""

    __slots__ = ("_frame", "partition", "rows")

    def __init__(
        self, partition: int, frame: EncodedFrame | None = None, *, rows: Rows | None = None
    ) -> None:
        """Take either a frame, or rows that become one."""
        self.partition = partition
        self.rows = rows
        self._frame = frame

    @property
    def frame(self) -> EncodedFrame:
        """The frame, made when it is first asked for."""
        if self._frame is None:
            assert self.rows is not None, "a part is made of a frame or of rows"
            self._frame = self.rows.frame()
        return self._frame

    def written(self) -> Part:
        """Return what the catalog has to know of it, once its bytes are in a segment."""
        return Part(self.partition, self.frame._replace(buffers=()))

    @property
    def size_bytes(self) -> int:
        """The bytes of the frame; of rows, those that it has if it is made of them alone."""
        if self._frame is None and self.rows is not None:
            payload_bytes = len(array_head(self.rows.runs[0][1])) + len(self.rows.data)
            return _BEFORE_PAYLOAD_BYTES + payload_bytes + -payload_bytes % 8
        return self.frame.size_bytes


def join(partition: int, rows: Sequence[Rows]) -> Part:
    """Return rows of one partition and one schema as one part, in their order."""
    together = Rows(
        rows[0].schema_id,
        rows[0].partition_id,
        b"".join([each.data for each in rows]),
        tuple([run for each in rows for run in each.runs]),
    )
    return Part(partition, rows=together)


def array_head(count: int) -> bytes:
    """Return the head of a MessagePack array of so many values."""
    if count <= _FIX_ARRAY_MAX:
        return bytes((0x90 | count,))
    if count <= _ARRAY_16_MAX:
        return b"\xdc" + count.to_bytes(2, "big")
    return b"\xdd" + count.to_bytes(4, "big")
