"""``-A module:app`` and ``module:flow``: finding what a command is about."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from millstream.app import App
from millstream.engines.local.check import is_store
from millstream.primitives.errors import ConfigurationError

if TYPE_CHECKING:
    from millstream.flows.flow import Flow

_APP_EXPECTED = "module:app, as in `import module` and `module.app`"
_FLOW_EXPECTED = "module:flow, as in `import module` and `module.flow`"


def load_app(target: str) -> App:
    """Import the app of ``module:attribute``; the attribute is ``app`` when it is left out.

    The current directory is importable, as with ``python -m``. Raises ConfigurationError when there is no such module
    or attribute, or when it is no app. What the module itself raises is the user's, and passes. So do errors of the
    modules that the app includes.
    """
    module_name, _, attribute = target.partition(":")
    attribute = attribute or "app"
    module = _imported(module_name, where=f"-A {target}", expected=_APP_EXPECTED)
    app = getattr(module, attribute, None)
    if app is None:
        found = [name for name, value in vars(module).items() if isinstance(value, App)]
        raise ConfigurationError(
            f"module {module_name!r} has no {attribute!r}",
            where=getattr(module, "__file__", None) or module_name,
            expected=_APP_EXPECTED,
            next_step=f"try -A {module_name}:{found[0]}" if found else "make one with ms.App(…)",
        )
    if not isinstance(app, App):
        raise ConfigurationError(
            f"{module_name}.{attribute} is a {type(app).__name__}, not an app",
            where=getattr(module, "__file__", None) or module_name,
            expected="what ms.App(…) returns",
        )
    app.tasks.discover()
    return app


def load_flow(target: str) -> tuple[Flow, list[App]]:
    """Import the flow of ``module:attribute``, or what a function of that name returns, and the apps of the module.

    Raises ConfigurationError when there is no such module or attribute, or when it is no flow.
    """
    from millstream.flows.flow import Flow  # it brings Polars, which other commands do without

    module_name, _, attribute = target.partition(":")
    module = _imported(module_name, where=target, expected=_FLOW_EXPECTED)
    found = getattr(module, attribute, None) if attribute else None
    if found is None:
        known = [
            name
            for name, value in vars(module).items()
            if isinstance(value, Flow) or _makes_flow(value, module)
        ]
        raise ConfigurationError(
            f"module {module_name!r} has no {attribute!r}" if attribute else "which flow?",
            where=getattr(module, "__file__", None) or module_name,
            expected=_FLOW_EXPECTED,
            next_step=f"try {module_name}:{known[0]}"
            if known
            else "write a function that returns one",
        )
    flow = _called(found, f"{module_name}.{attribute}", module) if callable(found) else found
    if not isinstance(flow, Flow):
        raise ConfigurationError(
            f"{module_name}.{attribute} is a {type(flow).__name__}, not a flow",
            where=getattr(module, "__file__", None) or module_name,
            expected="what app.read(…) and the steps behind it return, or a function that returns it",
        )
    return flow, [value for value in vars(module).values() if isinstance(value, App)]


def _called(function: Callable[..., object], name: str, module: ModuleType) -> object:
    """Return what a function gives. What it raises is the user's, and passes."""
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        raise ConfigurationError(
            f"{name} cannot be called without arguments: {error}",
            where=getattr(module, "__file__", None) or name,
            expected="a flow, or a function without arguments that returns one",
            next_step="give its parameters defaults, or write a function that calls it",
        ) from error
    except ValueError:
        pass  # Something built in, that does not say what it takes.
    return function()


def _makes_flow(value: object, module: ModuleType) -> bool:
    own = getattr(value, "__module__", None) == module.__name__
    returns = getattr(value, "__annotations__", {}).get("return")
    return own and "Flow" in str(returns)


def _imported(name: str, *, where: str, expected: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise ConfigurationError(
            f"{name!r} cannot be the name of a module",
            where=where,
            expected=expected,
            next_step="write the module as in an import: without a path, and without .py",
        )
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # An import inside the module that fails is the user's error, and keeps its traceback.
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise ConfigurationError(
            f"there is no module {name!r}",
            where=where,
            expected=f"{expected}; looked in {here} and the installed packages",
            next_step="run the command in the directory of the module, or install it",
        ) from None


def existing_store(path: str | None) -> str:
    """Return the path of a store that exists: the given one, or the only ``*.mill`` here. Raises ConfigurationError."""
    if path is None:
        found = sorted(str(p) for p in Path.cwd().glob("*.mill"))
        if len(found) != 1:
            raise ConfigurationError(
                f"there are {len(found)} stores here" if found else "there is no store here",
                where=str(Path.cwd()),
                expected="one directory *.mill, or the path of a store",
                next_step="name the store" + (f": {', '.join(found)}" if found else ""),
            )
        path = found[0]
    if not is_store(path):
        raise ConfigurationError(
            f"there is no store {path!r}",
            where=str(Path(path).absolute()),
            expected="the directory of a store",
            next_step="check the path; stores are made by the programs that use them",
        )
    return path
