"""Routes: which queue the calls of a task wait in, by the task's name. Celery's ``task_routes``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import translate
from typing import TypedDict, cast

from millstream.primitives.errors import ConfigurationError
from millstream.tasks.limits import ROUTES_MAX
from millstream.tasks.options import TaskKeywords, check_name, check_priority

Pattern = str | re.Pattern[str]


class Route(TypedDict, total=False):
    """Where calls go."""

    queue: str
    priority: int


RoutesLike = Mapping[Pattern, str | Route] | Iterable[tuple[Pattern, str | Route]]


@dataclass(frozen=True, slots=True)
class Routes:
    """Patterns of names in their order; the first that fits decides."""

    rules: tuple[tuple[re.Pattern[str], Route], ...] = ()

    def of(self, name: str) -> TaskKeywords:
        """Return the route of a task; an empty one when no pattern fits."""
        for pattern, route in self.rules:
            if pattern.fullmatch(name):
                return cast(TaskKeywords, route)
        return {}


def routes_of(value: RoutesLike) -> Routes:
    """Return the routes of ``{"mail.*": "mail", "shop.images.*": {"queue": "images", "priority": 3}}``.

    A pattern is a name, a name with ``*``, ``?`` and ``[…]``, or a compiled regular expression that fits a whole name.
    Raises ConfigurationError.
    """
    pairs = list(value.items() if isinstance(value, Mapping) else value)
    if len(pairs) > ROUTES_MAX:
        raise ConfigurationError(
            f"{len(pairs):,} routes", expected=f"at most {ROUTES_MAX:,}", next_step="use patterns"
        )
    return Routes(tuple((_compiled(pattern), _route_of(pattern, to)) for pattern, to in pairs))


def _compiled(pattern: Pattern) -> re.Pattern[str]:
    if isinstance(pattern, re.Pattern):
        return pattern
    if not pattern:
        raise ConfigurationError(
            f"{pattern!r} is no pattern of task names",
            where="task_routes",
            expected="a text such as 'mail.*', or a compiled regular expression",
        )
    return re.compile(translate(pattern))


def _route_of(pattern: Pattern, to: str | Route) -> Route:
    route: Route = {"queue": to} if isinstance(to, str) else to
    unknown = sorted(set(route) - Route.__annotations__.keys())
    if unknown or not route:
        raise ConfigurationError(
            f"the route of {pattern!r} says {', '.join(map(repr, unknown)) or 'nothing'}",
            where="task_routes",
            expected="the name of a queue, or a dict with 'queue' and 'priority'",
        )
    if "queue" in route:
        check_name("queue", route["queue"])
    if "priority" in route:
        check_priority(route["priority"])
    return route
