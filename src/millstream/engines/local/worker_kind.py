"""The kinds of pools."""

from __future__ import annotations

from enum import StrEnum


class PoolKind(StrEnum):
    """How one ``millstream worker`` runs tasks at the same time."""

    PROCESS = "process"
    THREAD = "thread"
    ASYNC = "async"
    SOLO = "solo"
