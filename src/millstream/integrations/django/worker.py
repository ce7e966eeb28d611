"""Where workers find the app of a backend: ``millstream worker -A millstream.integrations.django.worker:default``.

The attribute is the alias in ``TASKS``; ``DJANGO_SETTINGS_MODULE`` says which settings. ``manage.py millstream_worker``
starts its processes so.
"""

from __future__ import annotations

import django

from millstream.app import App
from millstream.integrations.django.backend import MillstreamBackend
from millstream.integrations.django.contract import (
    DEFAULT_TASK_BACKEND_ALIAS,
    InvalidTaskBackend,
    task_backends,
)
from millstream.primitives.errors import ConfigurationError


def __getattr__(alias: str) -> App:
    """Set Django up and return the app of a backend; ``app`` is the default one."""
    if alias.startswith("__"):
        raise AttributeError(alias)
    django.setup()
    return backend_of(DEFAULT_TASK_BACKEND_ALIAS if alias == "app" else alias).app


def backend_of(alias: str) -> MillstreamBackend:
    """Return the backend of that alias. Raises ConfigurationError when it is none of ours."""
    try:
        backend = task_backends[alias]
    except InvalidTaskBackend as error:
        raise ConfigurationError(
            f"there is no backend {alias!r}: {error}",
            where="the setting TASKS",
            expected=", ".join(sorted(task_backends.settings)),
        ) from error
    if not isinstance(backend, MillstreamBackend):
        raise ConfigurationError(
            f"the backend {alias!r} is a {type(backend).__name__}",
            where="the setting TASKS",
            expected="millstream.integrations.django.backend.MillstreamBackend",
        )
    return backend
