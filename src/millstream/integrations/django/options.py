"""``TASKS[alias]["OPTIONS"]``, read and checked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from millstream.primitives.durability import Durability, durability_of
from millstream.primitives.errors import ConfigurationError
from millstream.tasks.options import TaskKeywords, TaskOptions, options_of

_OF_THE_STORE = {"store", "durability"}
_OF_TASKS = {"retries", "backoff", "result_ttl", "acks_late"}


@dataclass(frozen=True, slots=True)
class BackendOptions:
    """Where the tasks of a backend are kept, and what holds for each."""

    store: str
    durability: Durability
    tasks: TaskOptions


def backend_options(given: Mapping[str, Any]) -> BackendOptions:
    """Return the options. Raises ConfigurationError for one that is missing, unknown or out of range.

    Without ``retries`` a task that raises has failed, as with Django's own backends.
    """
    known = _OF_THE_STORE | _OF_TASKS
    unknown = sorted(set(given) - known)
    if unknown:
        raise ConfigurationError(
            f"{', '.join(map(repr, unknown))} is no option of the backend",
            where="OPTIONS",
            expected=", ".join(sorted(known)),
        )
    store = given.get("store")
    if not store or not isinstance(store, str | os.PathLike):
        raise ConfigurationError(
            "the backend needs a directory for its store",
            where="OPTIONS['store']",
            expected='a path that web processes and workers share, such as BASE_DIR / "tasks.mill"',
        )
    chosen = {name: given[name] for name in _OF_TASKS if name in given}
    keywords = cast(TaskKeywords, {"retries": 0, **chosen})
    try:
        tasks = options_of(keywords)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(str(error), where="OPTIONS") from error
    durability = durability_of(given.get("durability", Durability.DISK))
    return BackendOptions(os.fspath(store), durability, tasks)
