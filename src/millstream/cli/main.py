"""``millstream``: the group of all commands, and how errors reach a person."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Final

import click

from millstream.primitives.errors import MillstreamError

COMMANDS: Final = {
    "control": "End workers in order, and resize their pools.",
    "check": "Verify every checksum and invariant of a store.",
    "delays": "Show where the time went: the four delays.",
    "demo": "Run real flights through log, batch, stream and queue.",
    "events": "Follow what happens to tasks.",
    "explain": "Show the plan of a flow.",
    "figures": "Show how a stream is doing, step by step.",
    "inspect": "Look at the workers that live.",
    "models": "List models that flows train, and roll them back.",
    "run": "Run a flow as a batch.",
    "schedules": "List, pause, resume and trigger schedules.",
    "queues": "List queues, pause and resume them.",
    "state": "Show what the steps of a stream keep.",
    "stream": "Run a flow as a stream.",
    "tasks": "List, show, retry, revoke and purge tasks.",
    "triggers": "Run flows at times, when files arrive, after others.",
    "topics": "List topics, their size, and how far groups are behind.",
    "webhook": "Take events over HTTP.",
    "worker": "Run tasks.",
}


class _Commands(click.Group):
    """Loads a command's file when it is used, so that ``--help`` starts at once."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"millstream.cli.{cmd_name}")
        command: click.Command = getattr(module, cmd_name)
        command.short_help = COMMANDS[cmd_name]
        return command


@click.command(cls=_Commands)
@click.version_option(package_name="millstream")
def cli() -> None:
    """Tasks, an event log, streams and batch jobs in one directory."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; an error of ours is shown as its four facts, without a traceback, and exits with 2."""
    try:
        cli.main(args=arguments, prog_name="millstream", standalone_mode=False)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except MillstreamError as error:
        click.echo(f"{type(error).__name__}: {error.what}", err=True)
        for label, fact in (
            ("where", error.where),
            ("expected", error.expected),
            ("next", error.next_step),
        ):
            if fact:
                click.echo(f"  {label}: {fact}", err=True)
        sys.exit(2)
