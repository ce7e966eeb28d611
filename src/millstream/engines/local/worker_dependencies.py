"""Dependencies of the scope ``worker``: one value for all that a process runs.

Each is opened at its first use, under a lock: of several threads or coroutines that come at once, one opens it and the
others wait. They are closed in the reverse order when the worker ends in order, but not when it is killed, ends at
once, or is terminated.

    pool            plain providers are shared by       async providers are shared by
    process, solo   the tasks of one process            its async def tasks, on the one loop of the process
    thread          all threads: they must allow that   not there: each thread has a loop of its own for each task
    async           the loop and the threads            the coroutines of the loop
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import AsyncExitStack, ExitStack
from typing import Any

from millstream.primitives.errors import ConfigurationError
from millstream.tasks.dependencies import Opening
from millstream.tasks.opened import Values, aopen_value, open_value


class WorkerDependencies:
    """The ``SharedValues`` of one worker. Any thread; async providers on one event loop only."""

    def __init__(self, *, has_loop: bool) -> None:
        """Open nothing. ``has_loop``: whether all ``async def`` tasks run on one event loop."""
        self._has_loop = has_loop
        self._lock = threading.RLock()
        self._turn = asyncio.Lock()
        self._stack = ExitStack()
        self._loop_stack = AsyncExitStack()
        self._values: Values = {}
        self.uses_loop = False
        """Whether anything was opened on an event loop."""

    def value(self, opening: Opening) -> Any:  # noqa: ANN401 - what the provider gives
        """Return the value of a plain provider; open it if it is the first time."""
        with self._lock:
            if opening.key not in self._values:
                needs = {name: self.value(need) for name, need in opening.needs.items()}
                self._values[opening.key] = open_value(opening, needs, self._stack)
            return self._values[opening.key]

    async def avalue(self, opening: Opening) -> Any:  # noqa: ANN401 - as above
        """Return the value of any provider; open it if it is the first time."""
        if not opening.needs_loop:
            return self.value(opening)
        if not self._has_loop:
            raise ConfigurationError(
                f"the dependency {opening.name} cannot be shared by this worker",
                where="--pool thread",
                expected="a plain provider, or one of the scope 'task'",
                next_step="run async tasks with --pool async, or with processes",
            )
        if opening.key in self._values:
            return self._values[opening.key]
        async with self._turn:
            return await self._aopened(opening)

    async def _aopened(self, opening: Opening) -> Any:  # noqa: ANN401 - as above
        if not opening.needs_loop:
            return self.value(opening)
        if opening.key not in self._values:
            self.uses_loop = True
            needs = {name: await self._aopened(need) for name, need in opening.needs.items()}
            self._values[opening.key] = await aopen_value(opening, needs, self._loop_stack)
        return self._values[opening.key]

    async def aclose(self) -> None:
        """Close what was opened on the event loop that calls it; before ``close``."""
        await self._loop_stack.aclose()

    def close(self) -> None:
        """Close the rest. No task runs any more. Raises what a provider raises."""
        self._stack.close()
