"""Wake-ups between processes: a waiter sleeps in the kernel until somebody commits what it waits for.

``run/signals`` is a small file that every process maps; nothing in it is durable:

    0      8 bytes   magic
    16     u64       syncs started    (see sync.py)
    24     u64       syncs finished
    32     96 bytes  marks of the write-ahead log (see walmark.py)
    4096   1 byte a slot: 1 while its waiter sleeps
    8192   u64 a slot: the channels it waits for, one bit each (a hash; a shared bit only wakes once too often); the
           last bit is the duty's alone

Slot N belongs to whoever holds the lock on the FIFO ``run/wake/N``. The waiter arms its slot, looks at the store once
more, then sleeps on the FIFO. A writer commits, then looks for armed slots: one scan of 1,024 bytes in memory, and a
system call only for a sleeping waiter. Either the waiter sees the commit or the writer sees the armed slot, so no
wake-up is lost; and a waiter still looks by itself every second (``WAIT_FALLBACK_S``), so a lost one would cost a
second. Where there are no FIFOs (Windows) a waiter looks at its slot every few milliseconds instead.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import mmap
import os
import select
import struct
import threading
import zlib
from pathlib import Path

from millstream.primitives.clock import Clock
from millstream.primitives.errors import StoreBusy, StoreClosed
from millstream.primitives.limits import WAIT_FALLBACK_S, WAITERS_MAX
from millstream.store.locks import lock_descriptor

MAP_BYTES = 8192 + 8 * WAITERS_MAX
_MAGIC = b"MSSIGNL1"
_ARMED = 4096
_MASKS = 8192
_MASK = struct.Struct("<Q")
_COUNTER = struct.Struct("<Q")
_POLL_S = 0.003
_DUTY_BIT = 63
DUTY = "duty"
"""The channel of those who do the background work."""
_HAS_FIFO = hasattr(os, "mkfifo")


@functools.lru_cache(maxsize=4096)
def channel_bit(channel: str) -> int:
    """Return the bit of a channel's name."""
    if channel == DUTY:
        return 1 << _DUTY_BIT
    return 1 << (zlib.crc32(channel.encode()) % _DUTY_BIT)


class Signals:
    """The shared map of one store in one process. Thread-safe."""

    def __init__(self, run: Path, clock: Clock) -> None:
        """Map ``run/signals``, making it if it is missing."""
        self.path = run / "signals"
        self._wake_folder = run / "wake"
        self._wake_folder.mkdir(exist_ok=True)
        self._clock = clock
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if os.fstat(descriptor).st_size < MAP_BYTES:
                os.ftruncate(descriptor, MAP_BYTES)
            self._map = mmap.mmap(descriptor, MAP_BYTES)
        finally:
            os.close(descriptor)
        self._map[0:8] = _MAGIC
        self._pipes: dict[int, int] = {}
        self._pipes_lock = threading.Lock()

    @property
    def shared(self) -> mmap.mmap:
        """The mapped bytes."""
        return self._map

    def counter(self, position: int) -> int:
        """Return the shared counter at a position of the map."""
        value: int = _COUNTER.unpack_from(self._map, position)[0]
        return value

    def set_counter(self, position: int, value: int) -> None:
        """Store the shared counter; callers hold the lock that belongs to it."""
        _COUNTER.pack_into(self._map, position, value)

    def wake(self, mask: int) -> None:
        """Wake every sleeping waiter that waits for one of the channels in ``mask``."""
        armed = self._map.find(b"\x01", _ARMED, _ARMED + WAITERS_MAX)
        while armed >= 0:
            slot = armed - _ARMED
            if _MASK.unpack_from(self._map, _MASKS + 8 * slot)[0] & mask:
                self._map[armed] = 0
                self._poke(slot)
            armed = self._map.find(b"\x01", armed + 1, _ARMED + WAITERS_MAX)

    def _poke(self, slot: int) -> None:
        if not _HAS_FIFO:
            return
        with self._pipes_lock:
            try:
                if slot not in self._pipes:
                    path = self._wake_folder / f"{slot:04d}"
                    self._pipes[slot] = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
                os.write(self._pipes[slot], b"\x00")
            except BlockingIOError:
                return  # full of wake-ups already
            except OSError as error:
                # Nobody reads it: the waiter died, and its slot was disarmed above.
                if error.errno not in {errno.ENXIO, errno.EPIPE, errno.ENOENT}:
                    raise

    def waiter(self, *channels: str) -> Waiter:
        """Return a waiter for the channels, in a slot of its own. Raises StoreBusy when all are taken."""
        mask = 0
        for channel in channels:
            mask |= channel_bit(channel)
        for slot in range(WAITERS_MAX):
            descriptor = self._claim(slot)
            if descriptor is not None:
                _MASK.pack_into(self._map, _MASKS + 8 * slot, mask)
                self._map[_ARMED + slot] = 0
                return Waiter(self._map, slot, descriptor, self._clock, where=str(self.path))
        raise StoreBusy(
            f"all {WAITERS_MAX} places for waiting consumers are taken",
            where=str(self._wake_folder),
            expected="a free place",
            next_step="close consumers and results that are not used any more",
        )

    def _claim(self, slot: int) -> int | None:
        path = self._wake_folder / f"{slot:04d}"
        flags = os.O_RDWR | getattr(os, "O_NONBLOCK", 0)
        if _HAS_FIFO:
            with contextlib.suppress(FileExistsError):
                os.mkfifo(path, 0o644)
        else:
            flags |= os.O_CREAT
        descriptor = os.open(path, flags)
        if lock_descriptor(descriptor):
            return descriptor
        os.close(descriptor)
        return None

    def remove_pipes(self) -> None:
        """Remove the files of all slots. Only while no other process has the store open, and none can open it."""
        for path in self._wake_folder.iterdir():
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Unmap; waiters must be closed before."""
        with self._pipes_lock:
            for descriptor in self._pipes.values():
                os.close(descriptor)
            self._pipes.clear()
        with contextlib.suppress(BufferError):
            self._map.close()


class Waiter:
    """One sleeper. ``arm()``, look at the store, and ``wait()`` if there was nothing. One thread at a time."""

    def __init__(
        self, shared: mmap.mmap, slot: int, descriptor: int, clock: Clock, *, where: str
    ) -> None:
        """Made by ``Store.waiter``."""
        self._where = where
        self._map = shared
        self._slot = slot
        self._descriptor = descriptor
        self._clock = clock
        self._interrupted = False
        # Another thread may wake it while it is closed, and the descriptor is soon that of another file. Reentrant: a
        # signal may come in between.
        self._closing = threading.RLock()

    def arm(self) -> None:
        """Ask to be woken by any commit from now on. Raises StoreClosed."""
        self._mark(1)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Sleep until woken, interrupted, ``timeout_s`` or one second at most; True if woken or interrupted."""
        limit = WAIT_FALLBACK_S if timeout_s is None else min(timeout_s, WAIT_FALLBACK_S)
        if self._interrupted:
            return True
        if not _HAS_FIFO:
            return self._wait_polling(limit)
        poller = select.poll()
        poller.register(self._descriptor, select.POLLIN)
        woken = bool(poller.poll(max(0.0, limit) * 1000))
        if woken:
            self.drain()
        self._mark(0)
        return woken

    def _mark(self, armed: int) -> None:
        try:
            self._map[_ARMED + self._slot] = armed
        except ValueError:  # The store was closed under the waiter, by another thread.
            raise StoreClosed(
                "the store is closed",
                where=self._where,
                expected="a store that this process opened",
                next_step="open it again",
            ) from None

    def drain(self) -> None:
        """Disarm and forget wake-ups that have arrived."""
        self._mark(0)
        if _HAS_FIFO:
            with contextlib.suppress(BlockingIOError):
                os.read(self._descriptor, 4096)

    def _wait_polling(self, limit: float) -> bool:
        end = self._clock.monotonic_s() + limit
        while self._map[_ARMED + self._slot] and not self._interrupted:
            if self._clock.monotonic_s() >= end:
                self._map[_ARMED + self._slot] = 0
                return False
            self._clock.wait_s(_POLL_S)
        return True

    def interrupt(self) -> None:
        """Wake this waiter now and let every later wait return at once. Any thread."""
        self._interrupted = True
        self._poke()

    def nudge(self) -> None:
        """Wake this waiter once, as a commit on its channels does. Any thread; also before it sleeps, once armed."""
        with contextlib.suppress(ValueError):  # The store is closed: nobody sleeps for long.
            self._map[_ARMED + self._slot] = 0
        self._poke()

    def _poke(self) -> None:
        with self._closing:
            if _HAS_FIFO and self._descriptor >= 0:
                with contextlib.suppress(BlockingIOError):  # Full of wake-ups already.
                    os.write(self._descriptor, b"\x00")

    def fileno(self) -> int:
        """Return the descriptor that becomes readable on a wake-up, for event loops."""
        return self._descriptor

    def close(self) -> None:
        """Give the slot back."""
        with self._closing:
            if self._descriptor >= 0:
                with contextlib.suppress(ValueError):
                    self._map[_ARMED + self._slot] = 0
                descriptor, self._descriptor = self._descriptor, -1
                os.close(descriptor)

    def __enter__(self) -> Waiter:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()
