"""Finding the modules that declare an app's tasks, so that a worker knows them without an import written for each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

from millstream.primitives.errors import ConfigurationError

Packages = Iterable[str] | Callable[[], Iterable[str]]


@dataclass(frozen=True, slots=True)
class Discovery:
    """Modules to import: each of ``packages`` itself, or what is called ``related_name`` in it."""

    packages: Packages
    related_name: str | None
    where: str

    def run(self) -> list[str]:
        """Import the modules and return their names. Raises ConfigurationError, and whatever a module raises.

        A package without such a module is passed over; that none of them has one is an error.
        """
        packages = list(self.packages() if callable(self.packages) else self.packages)
        if isinstance(self.packages, str):
            raise ConfigurationError(
                f"the packages are one text, {self.packages!r}",
                where=self.where,
                expected="a list of names",
                next_step=f"write [{self.packages!r}]",
            )
        found = [module for package in packages if (module := self._module_of(package)) is not None]
        if packages and not found:
            raise ConfigurationError(
                f"none of {', '.join(map(repr, packages))} has a module {self.related_name!r}",
                where=self.where,
                expected=f"a module such as {packages[0]}.{self.related_name}",
                next_step="name it with `related_name=`, or None for the packages themselves",
            )
        for module in found:
            import_module(module)
        return found

    def _module_of(self, package: str) -> str | None:
        if not all(part.isidentifier() for part in package.split(".")):
            raise self._unknown(package, "it cannot be the name of a module")
        try:
            import_module(package)
        except ModuleNotFoundError as error:
            # An import inside the package that fails is an error of the package, and keeps its traceback.
            if error.name is None or not f"{package}.".startswith(f"{error.name}."):
                raise
            raise self._unknown(package, f"there is no module {error.name!r}") from None
        if self.related_name is None:
            return package
        module = f"{package}.{self.related_name}"
        try:
            return module if find_spec(module) is not None else None
        except ModuleNotFoundError:
            return None  # It is a module, and has none inside.

    def _unknown(self, package: str, why: str) -> ConfigurationError:
        return ConfigurationError(
            f"the package {package!r} cannot be imported: {why}",
            where=self.where,
            expected="a package of the project, or an installed one",
            next_step="start the worker in the directory of the project, or correct the name",
        )


def run_all(discoveries: Sequence[Discovery]) -> None:
    """Import what each of them names, in their order."""
    for discovery in discoveries:
        discovery.run()
