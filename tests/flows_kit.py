"""A crash at any step of a stream, inside the process: everything after it fails, as if the process were gone."""

from __future__ import annotations

from hypothesis import strategies as st

from millstream.primitives.telemetry import set_listener

STEPS = ("flow.claimed", "flow.read", "flow.computed", "flow.staged", "flow.applied",
         "flow.committed", "flow.closing")  # fmt: skip
CRASHES = st.lists(st.tuples(st.sampled_from(STEPS), st.integers(1, 4)), max_size=4)


class Crash(BaseException):
    """The process is gone: nothing catches it, and nothing works after it."""


def crash_at(step: str, nth: int) -> None:
    seen = [0, 0]

    def listen(reached: str) -> None:
        seen[0] += reached == step
        if seen[1] or seen[0] == nth:
            seen[1] = 1
            raise Crash

    set_listener(listen)
