"""Django's priorities, -100 to 100, on the store's, 0 to 9: steps of twenty.

    -100…-81  -80…-61  -60…-41  -40…-21  -20…-1   0…19   20…39   40…59   60…79   80…100
        0        1        2        3       4       5       6       7       8        9

The order of two priorities is never turned round. Within one step it is the order in which tasks were sent.
"""

from __future__ import annotations

from millstream.tasks.options import PRIORITY_MAX

_STEP = 20
_LOWEST = -100


def stored_priority(priority: int) -> int:
    """Return the store's priority of a task of Django."""
    return min(PRIORITY_MAX, (priority - _LOWEST) // _STEP)
