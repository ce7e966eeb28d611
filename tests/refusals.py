"""How a refusal looks: the right error, with all its facts filled in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from millstream.primitives.errors import MillstreamError


@dataclass
class Refusal:
    """The error, once it was raised."""

    error: MillstreamError | None = None

    def __str__(self) -> str:
        return str(self.error)


@contextmanager
def refused(kind: type[MillstreamError], *saying: str, somewhere: bool = True) -> Iterator[Refusal]:
    """Expect exactly ``kind``, with what, where, expected and next step, and with these words among them.

    ``somewhere=False``: a plain function of values does not know where they came from.
    """
    found = Refusal()
    with pytest.raises(kind) as caught:
        yield found
    error = found.error = caught.value
    assert type(error) is kind
    facts = {"what": error.what, "expected": error.expected, "next_step": error.next_step}
    if somewhere:
        facts["where"] = error.where
    assert all(facts.values()), f"without {[name for name, fact in facts.items() if not fact]}"
    missing = [word for word in saying if word not in str(error)]
    assert not missing, f"{missing} is not in: {error}"
