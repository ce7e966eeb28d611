"""A Django project whose tasks run on millstream. Used by test_django.py."""
