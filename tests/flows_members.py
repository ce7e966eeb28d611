"""Several members of one shared stream in this process, each in a thread."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from millstream.flows.report import RunReport


def together(members: int, stream: Callable[[], RunReport]) -> list[RunReport]:
    """Stream in so many threads at once, and return what each says. Raises what one raises."""
    with ThreadPoolExecutor(members) as threads:
        return [running.result() for running in [threads.submit(stream) for _ in range(members)]]
