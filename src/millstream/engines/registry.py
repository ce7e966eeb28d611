"""Which engine a URL names. A scheme is known when its engine's folder exists."""

from __future__ import annotations

import os
from typing import Final

from millstream.primitives.errors import ConfigurationError

LOCAL: Final = "local"
_SCHEMES: Final = {
    "log": {"": LOCAL, "local": LOCAL},
    "tasks": {"": LOCAL, "local": LOCAL},
    "batch": {"": LOCAL, "local": LOCAL},
    "stream": {"": LOCAL, "local": LOCAL},
}


def engine_of(contract: str, url: str | None) -> str:
    """Return the name of the engine that a URL means for a contract (``log``, ``tasks``, ``batch``, ``stream``).

    None asks the environment (``MILLSTREAM_LOG`` and so on), then means the embedded engine. Raises ConfigurationError.
    """
    given = url if url is not None else os.environ.get(f"MILLSTREAM_{contract.upper()}", "")
    scheme = given.partition("://")[0].partition("+")[0]
    known = _SCHEMES[contract]
    if scheme not in known:
        raise ConfigurationError(
            f"there is no engine for {given!r}",
            where=f"{contract}=",
            expected=f"nothing, or one of: {', '.join(f'{s}://' for s in known if s)}",
            next_step="leave it out to run embedded in the store's directory",
        )
    return known[scheme]
