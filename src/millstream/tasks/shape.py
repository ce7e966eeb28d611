"""What of a function belongs to its calls: the parameters that a caller gives, their types, and what comes back.

``self`` of ``bind=True`` and dependencies are none of them; of a batch a call gives one item of the list, and is given
one of the values.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from millstream.primitives.errors import ConfigurationError
from millstream.tasks.batch import item_of, value_of
from millstream.tasks.dependencies import Dependency, dependencies_of

POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True, slots=True)
class Shape:
    """The parameters of one call, with the types of their values and of the result."""

    task: str
    signature: inspect.Signature
    hints: Mapping[str, Any]
    returns: Any
    dependencies: Mapping[str, Dependency]
    """The parameters that are none of a call's: the worker gives them."""


def shape_of(
    function: Callable[..., object], *, task: str, bind: bool = False, batch: bool = False
) -> Shape:
    """Read signature and annotations. Raises ConfigurationError when they cannot be resolved or are none of a batch."""
    signature = inspect.signature(function)
    if bind:
        signature = _without_self(signature, task)
    hints = hints_of(function, task)
    given = dependencies_of(signature, hints, where=f"task {task!r}")
    if given:
        own = [one for name, one in signature.parameters.items() if name not in given]
        signature = signature.replace(parameters=own)
    if not batch:
        return Shape(task, signature, hints, hints.get("return", Any), given)
    items = _items_of(signature, task)
    item = item_of(hints.get(items.name, Any), task)
    return Shape(
        task,
        signature.replace(parameters=[items.replace(annotation=item)]),
        {items.name: item},
        value_of(hints.get("return", Any), task),
        given,
    )


def hints_of(function: Callable[..., object], task: str) -> dict[str, Any]:
    """Return the annotations as types. Raises ConfigurationError."""
    try:
        return typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError, AttributeError) as error:
        raise ConfigurationError(
            f"the annotations of the task cannot be resolved: {error}",
            where=f"task {task!r}",
            expected="types that are importable when the task is first used",
            next_step="import the type outside `if TYPE_CHECKING`",
        ) from error


def _without_self(signature: inspect.Signature, task: str) -> inspect.Signature:
    first, *others = signature.parameters.values() or (None,)
    if first is None or first.kind not in POSITIONAL:
        raise ConfigurationError(
            "a task with bind=True has no first parameter",
            where=f"task {task!r}",
            expected="def task(self, …)",
            next_step="add it, or leave bind=True out",
        )
    return signature.replace(parameters=others)


def _items_of(signature: inspect.Signature, task: str) -> inspect.Parameter:
    parameters = list(signature.parameters.values())
    if len(parameters) != 1 or parameters[0].kind not in POSITIONAL:
        raise ConfigurationError(
            f"a batch has the parameters {signature}",
            where=f"task {task!r}",
            expected="one, the list of what each call is given",
            next_step="let each call pass one value, a dataclass if it needs several",
        )
    return parameters[0].replace(default=inspect.Parameter.empty)
