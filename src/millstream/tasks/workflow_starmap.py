"""The task behind ``ms.starmap`` and ``ms.chunks``: it runs the function of another task for many arguments."""

from __future__ import annotations

from typing import Any

from millstream.tasks.registry import TaskRegistry
from millstream.tasks.workflow import STARMAP


def declare_starmap(registry: TaskRegistry) -> None:
    """Let the workers of an app run ``starmap`` for its tasks."""

    async def starmap(task: str, values: list[list[Any]]) -> list[Any]:
        known: Any = registry.get(task)  # A Task or a CoroutineTask, which are called alike.
        found = []
        for arguments in values:
            args, kwargs = known.arguments.decode(known.arguments.encode(arguments, {}))
            value = known(*args, **kwargs)
            found.append(await value if known.is_async else value)
        return found

    registry.task(name=STARMAP)(starmap)
