"""Django's tasks on millstream. Put ``millstream.integrations.django`` into INSTALLED_APPS, and into the settings:

    TASKS = {
        "default": {
            "BACKEND": "millstream.integrations.django.backend.MillstreamBackend",
            "OPTIONS": {"store": BASE_DIR / "tasks.mill"},
        }
    }

``manage.py millstream_worker`` runs them.
"""
