"""What INSTALLED_APPS names: brings ``manage.py millstream_worker``."""

from __future__ import annotations

from django.apps import AppConfig


class MillstreamConfig(AppConfig):
    """There are no models: tasks live in the store."""

    name = "millstream.integrations.django"
    label = "millstream"
    verbose_name = "millstream"
