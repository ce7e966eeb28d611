"""Settings; BOOKSHOP_FOLDER says where database and tasks are."""

from __future__ import annotations

import os
from pathlib import Path

import django

import millstream as ms

FOLDER = Path(os.environ["BOOKSHOP_FOLDER"])
SECRET_KEY = "not a secret: this project exists in tests only"
INSTALLED_APPS = [
    "bookshop.apps.BookshopConfig",
    "millstream.integrations.django",
    *([] if django.VERSION >= (6,) else ["django_tasks"]),
]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": FOLDER / "shop.sqlite3"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
TIME_ZONE = "Europe/Rome"
LOGGING_CONFIG = None
TASKS = {
    "default": {
        "BACKEND": "millstream.integrations.django.backend.MillstreamBackend",
        "QUEUES": ["default", "mail"],
        "OPTIONS": {"store": FOLDER / "tasks.mill", "durability": "process"},
    },
    "patient": {
        "BACKEND": "millstream.integrations.django.backend.MillstreamBackend",
        "QUEUES": ["patient"],
        "OPTIONS": {
            "store": FOLDER / "tasks.mill",
            "durability": "process",
            "retries": 2,
            "backoff": ms.Backoff.constant("1ms"),
        },
    },
}
