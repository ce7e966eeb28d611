"""``millstream webhook``: takes events over HTTP. The server is uvicorn, imported here alone."""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

import click

from millstream.cli.target import load_app
from millstream.primitives.errors import ConfigurationError

if TYPE_CHECKING:
    from millstream.gateway.http.asgi import Webhook

GRACE_S: Final = 30
"""How long requests that are being answered may take when the server is told to end."""
_BACKLOG: Final = 1_024


@click.command()
@click.argument("app", metavar="MODULE:APP")
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="The address to listen at; this machine."
)
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=8_000,
    show_default=True,
    help="The port to listen at; 0 takes a free one.",
)
@click.option(
    "--topic", "topics", metavar="NAME", multiple=True, help="Only this topic; may be repeated."
)
@click.option(
    "--secret-env",
    metavar="VARIABLE",
    help="The environment variable that holds the secret, or several with spaces between them.",
)
@click.option(
    "--signature",
    type=click.Choice(["standard", "github"]),
    default="standard",
    show_default=True,
    help="How requests are signed.",
)
@click.option(
    "--limit", metavar="SIZE", default="8MiB", show_default=True, help="The largest body."
)
@click.option(
    "--durability",
    type=click.Choice(["disk", "process"]),
    help="What 200 promises; the app's if left out.",
)
@click.option(
    "--remember",
    metavar="DURATION",
    default="7d",
    show_default=True,
    help="How long the key of a message is known.",
)
@click.option(
    "--open", "is_open", is_flag=True, help="Take events without a secret from other machines too."
)
def webhook(  # noqa: PLR0913 - one parameter for each option
    app: str,
    host: str,
    port: int,
    topics: tuple[str, ...],
    secret_env: str | None,
    signature: str,
    limit: str,
    durability: str | None,
    remember: str,
    is_open: bool,
) -> None:
    """Append what is posted to /topics/NAME, as JSON, to the topics of an app.

    Answers 200 when the events are stored. SIGTERM and Ctrl-C let requests that are being answered end. Listens at this
    machine only, unless --host says otherwise, which asks for --secret-env or --open.
    """
    secrets = _secrets(secret_env)
    if not (secrets or is_open or _is_loopback(host)):
        raise ConfigurationError(
            f"whoever reaches {host} could append events",
            where="--host",
            expected="a secret that requests are signed with",
            next_step="name its variable with --secret-env, or say --open if something in front of it looks who comes",
        )
    found = load_app(app)
    with found:
        hook = found.webhook(
            *topics,
            secret=secrets,
            signature=signature,
            limit=limit,
            durability=durability,
            remember=remember,
        )
        hook.prepare()
        _serve(hook, _listening(host, port))


def _secrets(variable: str | None) -> tuple[str, ...]:
    if variable is None:
        return ()
    secrets = tuple(os.environ.get(variable, "").split())
    if not secrets:
        raise ConfigurationError(
            f"there is no secret in {variable}",
            where="--secret-env",
            expected="an environment variable with at least one secret",
            next_step=f"export {variable}=whsec_…",
        )
    return secrets


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens. Raises ConfigurationError when the address cannot be had."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except (OSError, OverflowError) as error:
        raise ConfigurationError(
            f"cannot listen at {host}, port {port}: {error}",
            where="--host, --port",
            expected="an address of this machine, and a port that is free",
            next_step="choose another port; 0 takes a free one",
        ) from error


def _serve(hook: Webhook, listener: socket.socket) -> None:
    try:
        import uvicorn
    except ImportError as error:
        listener.close()
        raise ConfigurationError(
            "the server of HTTP is not installed",
            where="millstream webhook",
            expected="uvicorn",
            next_step="pip install millstream[http]",
        ) from error

    class Server(uvicorn.Server):
        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            # Ours stay: uvicorn would raise the signal again at the end, and the store would not be closed.
            yield

    config = uvicorn.Config(
        hook,
        log_level="warning",
        access_log=False,
        lifespan="on",
        timeout_graceful_shutdown=GRACE_S,
        server_header=False,
    )
    server = Server(config)

    def end(number: int, frame: FrameType | None) -> None:
        server.force_exit = server.should_exit
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    host, port = listener.getsockname()[:2]
    shown: Any = f"[{host}]" if ":" in host else host
    click.echo(f"listening at http://{shown}:{port}/topics/NAME")
    server.run(sockets=[listener])
