"""``-A module:app``: finding the app that a command is about."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Protocol, TypeGuard

from millstream.engines.local.tasks import LocalTasks
from millstream.primitives.errors import ConfigurationError
from millstream.tasks.task import TaskRegistry

_EXPECTED = "module:app, as in `import module` and `module.app`"


class HasTasks(Protocol):
    """What a worker needs of an app."""

    @property
    def tasks(self) -> TaskRegistry:
        """The tasks that the app defines."""
        ...

    @property
    def tasks_engine(self) -> LocalTasks:
        """Where they are stored; opened at first use."""
        ...


def load_app(target: str) -> HasTasks:
    """Import the app of ``module:attribute``; the attribute is ``app`` when it is left out.

    The current directory is importable, as with ``python -m``. Raises ConfigurationError when there is no such module
    or attribute, or when it is no app. What the module itself raises is the user's, and passes.
    """
    module_name, _, attribute = target.partition(":")
    attribute = attribute or "app"
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # An import inside the module that fails is the user's error, and keeps its traceback.
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise ConfigurationError(
            f"there is no module {module_name!r}",
            where=f"-A {target}",
            expected=f"{_EXPECTED}; looked in {here} and the installed packages",
            next_step="run the command in the directory of the module, or install it",
        ) from None
    except ValueError as error:
        raise ConfigurationError(
            f"{module_name!r} cannot be the name of a module", expected=_EXPECTED
        ) from error
    app = getattr(module, attribute, None)
    if app is None:
        found = [name for name, value in vars(module).items() if _is_app(value)]
        raise ConfigurationError(
            f"module {module_name!r} has no {attribute!r}",
            where=getattr(module, "__file__", None) or module_name,
            expected=_EXPECTED,
            next_step=f"try -A {module_name}:{found[0]}" if found else "make one with ms.App(…)",
        )
    if not _is_app(app):
        raise ConfigurationError(
            f"{module_name}.{attribute} is a {type(app).__name__}, not an app",
            where=getattr(module, "__file__", None) or module_name,
            expected="what ms.App(…) returns",
        )
    return app


def _is_app(value: object) -> TypeGuard[HasTasks]:
    # The class is asked, not the value: reading the property would open its store.
    return hasattr(type(value), "tasks_engine")
