"""The app of a backend: one a process and store, whatever thread asks, with the tasks that Django knows."""

from __future__ import annotations

import threading

from millstream.app import App
from millstream.integrations.django.contract import Task, TaskResultDoesNotExist
from millstream.integrations.django.options import BackendOptions
from millstream.integrations.django.results import task_of
from millstream.integrations.django.running import runner_of
from millstream.primitives.errors import UnknownTask
from millstream.tasks.task import AnyTask

_apps: dict[tuple[str, BackendOptions], App] = {}
_lock = threading.Lock()


def app_of(alias: str, options: BackendOptions) -> App:
    """Return the app of a backend. Django makes a backend for each thread; a store is opened once a process."""
    with _lock:
        app = _apps.get((alias, options))
        if app is None:
            app = App(alias, store=options.store, durability=options.durability)
            app.tasks.load_by(_Loader(app, alias, options))
            _apps[alias, options] = app
        return app


class _Loader:
    """Finds tasks by the path of their function, when a worker comes to their first call."""

    def __init__(self, app: App, alias: str, options: BackendOptions) -> None:
        self._app = app
        self._alias = alias
        self._options = options

    def __call__(self, path: str) -> None:
        """Declare the task that is defined at ``path``. Raises UnknownTask."""
        try:
            declare(self._app, task_of(path, path), self._alias, self._options)
        except Exception as error:
            if not isinstance(error, TaskResultDoesNotExist):
                why = f"importing it raised {type(error).__name__}: {error}"
            else:
                why = str(error).removeprefix(f"{path}: ")
            raise UnknownTask(
                f"there is no task {path!r}: {why}",
                where=f"TASKS[{self._alias!r}]",
                expected="a function with Django's @task at that path",
                next_step="deploy the code of the task where the worker runs",
            ) from error


def declare(app: App, task: Task, alias: str, options: BackendOptions) -> AnyTask[..., object]:
    """Return the task of the app that runs a task of Django, under the path of its function."""
    path: str = task.module_path
    if path in app.tasks:
        return app.tasks.get(path)
    runner = runner_of(task, alias, lambda: app.tasks.engine)
    return app.tasks.add(runner, name=path, options=options.tasks, bind=True)
