"""``manage.py millstream_worker``: ``millstream worker`` for a backend of ``TASKS``."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser
from collections.abc import Mapping

import click
from django.core.management.base import BaseCommand, CommandError

from millstream.cli.worker import worker
from millstream.integrations.django.contract import DEFAULT_TASK_BACKEND_ALIAS
from millstream.integrations.django.worker import backend_of
from millstream.primitives.errors import ConfigurationError

_TARGET = "millstream.integrations.django.worker"
_OPTIONS = [
    option
    for option in worker.params
    if isinstance(option, click.Option) and not option.hidden and option.name != "target"
]
"""Those of ``millstream worker``, whatever they are, without the one that names the app."""


class Command(BaseCommand):
    """Takes the options of ``millstream worker``."""

    help = "Run the tasks of a backend until stopped. The options are those of `millstream worker`."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take over the options."""
        parser.add_argument(
            "--backend",
            default=DEFAULT_TASK_BACKEND_ALIAS,
            help="The alias in TASKS. [default: %(default)s]",
        )
        for option in _OPTIONS:
            words = (option.help or "").replace("%", "%%")
            if option.is_flag:
                parser.add_argument(*option.opts, dest=option.name, action="store_true", help=words)
            else:
                parser.add_argument(
                    *option.opts, dest=option.name, metavar=option.metavar, help=words
                )

    def handle(self, *_: object, **given: str | bool | None) -> None:
        """Run the workers; ends with their exit code."""
        if "DJANGO_SETTINGS_MODULE" not in os.environ:
            raise CommandError("workers find the settings by DJANGO_SETTINGS_MODULE: set it")
        alias = str(given["backend"])
        try:
            backend = backend_of(alias)
        except ConfigurationError as error:
            raise CommandError(str(error)) from error
        if given["queues"] is None and backend.queues:
            given["queues"] = ",".join(sorted(backend.queues))
        # Worker processes import what manage.py imports, whatever directory it is run in.
        os.environ["PYTHONPATH"] = os.pathsep.join(
            [sys.path[0], *filter(None, [os.environ.get("PYTHONPATH")])]
        )
        worker.main(["-A", f"{_TARGET}:{alias}", *_arguments(given)], prog_name="millstream_worker")


def _arguments(given: Mapping[str, object]) -> list[str]:
    arguments: list[str] = []
    for option in _OPTIONS:
        value = given[option.name]
        if option.is_flag:
            arguments += [option.opts[0]] if value else []
        elif value is not None:
            arguments += [option.opts[0], str(value)]
    return arguments
