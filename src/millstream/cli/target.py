"""``-A module:app``: finding the app that a command is about."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from millstream.app import App
from millstream.engines.local.check import is_store
from millstream.primitives.errors import ConfigurationError

_EXPECTED = "module:app, as in `import module` and `module.app`"


def load_app(target: str) -> App:
    """Import the app of ``module:attribute``; the attribute is ``app`` when it is left out.

    The current directory is importable, as with ``python -m``. Raises ConfigurationError when there is no such module
    or attribute, or when it is no app. What the module itself raises is the user's, and passes. So do errors of the
    modules that the app includes.
    """
    module_name, _, attribute = target.partition(":")
    attribute = attribute or "app"
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise ConfigurationError(
            f"{module_name!r} cannot be the name of a module",
            where=f"-A {target}",
            expected=_EXPECTED,
            next_step="write the module as in an import: without a path, and without .py",
        )
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
    app = getattr(module, attribute, None)
    if app is None:
        found = [name for name, value in vars(module).items() if isinstance(value, App)]
        raise ConfigurationError(
            f"module {module_name!r} has no {attribute!r}",
            where=getattr(module, "__file__", None) or module_name,
            expected=_EXPECTED,
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
