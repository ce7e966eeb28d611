"""Connects what writes down the signals."""

from __future__ import annotations

from django.apps import AppConfig


class BookshopConfig(AppConfig):
    name = "bookshop"

    def ready(self) -> None:
        import bookshop.signals  # noqa: F401
