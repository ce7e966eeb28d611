"""Zeros written ahead of the write-ahead log's end, so that a commit overwrites bytes of the file and adds none.

A file that grows costs twice: each write allocates a block, and each sync also writes the file's new length. Measured
on ext4 that is half of a single append, in memory and on the disk. So room is made for many commits at once. SQLite
takes zeros for the end of its log: their salts are not those of its head. Once the log has its full length it begins
anew from its start (``recovery.checkpoint_shared``), and no more room is needed.

Room is made inside a transaction, before its COMMIT: SQLite's own lock keeps every other writer away from the end of
the file meanwhile. Power fails or the process is killed after it: zeros behind the end, which is what a log ends with.
There is no space for it: the commit itself finds out, and says so.
"""

from __future__ import annotations

import contextlib
import os
from typing import Final

from millstream.store.disk import Disk
from millstream.store.walmark import FRAME_BYTES, HEADER_BYTES

_MARGIN_BYTES: Final = 64 * 1024
"""Room that is kept for one commit; a larger one grows the file itself."""
_STEP_BYTES: Final = 256 * 1024
_STEP_BYTES_MAX: Final = 1024 * 1024
_ZEROS: Final = bytes(_STEP_BYTES)


class WalAhead:
    """The room in one log. Used by the thread that is in the store's transaction."""

    def __init__(self, descriptor: int, disk: Disk) -> None:
        """Use the open log; nothing is read or written yet."""
        self._descriptor = descriptor
        self._disk = disk
        self._length = 0
        self.pages = -1
        """Up to so many pages in the log there is room behind them."""

    def make_room(self, pages: int) -> None:
        """Make the file longer if a commit behind ``pages`` pages would reach its end."""
        self._make_room(pages)
        self.pages = (self._length - HEADER_BYTES - _MARGIN_BYTES) // FRAME_BYTES

    def _make_room(self, pages: int) -> None:
        needed = HEADER_BYTES + pages * FRAME_BYTES + _MARGIN_BYTES
        if needed <= self._length:
            return
        # Others make room too; a file that is shorter than needed is so for all who are not in a transaction now.
        self._length = os.fstat(self._descriptor).st_size
        if needed <= self._length:
            return
        # About as much as there is: a small store stays small, a large one is asked for room less often.
        steps = max(1, min(self._length, _STEP_BYTES_MAX) // _STEP_BYTES)
        # Without room the commit is slower, not wrong; and if there is no space, its own write is refused.
        with contextlib.suppress(OSError):
            self._disk.write(self._descriptor, [_ZEROS] * steps, self._length)
        self._length += steps * _STEP_BYTES
