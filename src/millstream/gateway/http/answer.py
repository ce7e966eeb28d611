"""Answers to requests: a status and JSON. A refusal says what, where, what was expected, and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from millstream.primitives.errors import (
    EventTooLarge,
    MillstreamError,
    SchemaError,
    StoreError,
    StoreFull,
    UnknownTopic,
)


@dataclass(frozen=True)
class Answer:
    """What is sent back."""

    status: int
    told: Mapping[str, object]
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def body(self) -> bytes:
        """The JSON."""
        return msgspec.json.encode(self.told)


class Refusal(Exception):
    """A request that is not taken. Nothing of it was stored."""

    def __init__(
        self,
        status: int,
        what: str,
        *,
        where: str = "",
        expected: str = "",
        next_step: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """``headers`` are those of the answer."""
        super().__init__(what)
        facts = {"error": what, "where": where, "expected": expected, "next": next_step}
        told = {name: fact for name, fact in facts.items() if fact}
        self.answer = Answer(status, told, headers or {})


def refusal_of(error: MillstreamError) -> Refusal | None:
    """Return what an error of the log means to the sender; None for one that is no matter of his."""
    status = 422
    match error:
        case UnknownTopic():
            return Refusal(404, error.what, next_step="post to a topic that was declared")
        case EventTooLarge():
            status = 413
        case SchemaError():
            pass
        case StoreError():
            # It names files of this machine, which are nobody's business outside.
            wait = "30" if isinstance(error, StoreFull) else "1"
            return Refusal(
                503,
                "the events cannot be stored now",
                next_step="send them again, with the same key",
                headers={"retry-after": wait},
            )
        case _:
            return None
    return Refusal(
        status,
        error.what,
        where=error.where,
        expected=error.expected,
        next_step=error.next_step,
    )
