"""``millstream webhook`` as a process: it starts, ends and is killed; and from one store to another, each row once."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

import millstream as ms
from millstream.cli.main import main
from millstream.testing.flows_suite import LocalWorld
from tests.integration import flows_crash

ROOT = Path(__file__).parents[2]
BODY = b'{"k": "a", "n": 1}'
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


class Server:
    """The command in a process."""

    def __init__(self, store: Path, *options: str, kill: str | None = None, **said: str) -> None:
        environment = {**os.environ, "WEBHOOK_STORE": str(store), **said}
        if kill is not None:
            environment["WEBHOOK_KILL"] = kill
        self.process = subprocess.Popen(
            [sys.executable, "-m", "millstream", "webhook", "tests.integration.webhook_shop:app", *options],
            cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.line = self.process.stdout.readline().strip()
        self.url = self.line.removeprefix("listening at ").replace("NAME", "orders")

    def post(self, body: bytes = BODY, **headers: str) -> httpx.Response:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return httpx.post(self.url, content=body, headers=sent, timeout=60)

    def ended(self) -> tuple[int, str]:
        assert self.process.stderr is not None
        return self.process.wait(60), self.process.stderr.read()


@contextmanager
def serving(store: Path, *options: str, **said: Any) -> Iterator[Server]:
    server = Server(store, *(options or ("--port", "0")), **said)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.communicate()


def rows(store: Path) -> list[tuple[str, int]]:
    with ms.App("shop", store=store) as app:
        return sorted((row["k"], row["n"]) for row in app.read("orders").collect().to_pylist())


def test_it_takes_events_until_it_is_told_to_end(store_path: Path) -> None:
    with serving(store_path) as server:
        assert server.line.startswith("listening at http://127.0.0.1:")
        answer = server.post()
        assert answer.json() == {"topic": "orders", "events": 1, "repeated": False}
        assert server.post(b" " * (8 * 1024 * 1024 + 1)).status_code == 413
        server.process.send_signal(signal.SIGTERM)
        assert server.ended() == (0, "")
    assert rows(store_path) == [("a", 1)]


def test_what_was_stored_and_not_answered_is_known_when_it_comes_again(store_path: Path) -> None:
    # The first commit makes the topic.
    with serving(store_path, kill="commit.visible:2") as server:
        with pytest.raises(httpx.TransportError):
            server.post(idempotency_key="one")
        assert server.process.wait(60) == -signal.SIGKILL
    with serving(store_path) as server:
        assert server.post(idempotency_key="one").json()["repeated"] is True
        assert server.post(idempotency_key="two").json()["repeated"] is False
        server.process.kill()  # what was answered is there
    assert rows(store_path) == [("a", 1), ("a", 1)]


def test_rows_of_a_flow_arrive_once_whoever_is_killed(tmp_path: Path) -> None:
    """A flow sends to a server of another store; both are killed, at moments of their own."""
    source, target = tmp_path / "from.mill", tmp_path / "to.mill"
    with LocalWorld(source, durability="process") as world:
        flows_crash.fill(world)
    options = ("--port", "0", "--secret-env", "HOOK")
    sender_kills = iter(["flow.webhook_sent:2"])
    ends = []
    for kill in ("append.staged:4", "commit.visible:7", None):
        with serving(target, *options, kill=kill, HOOK=SECRET) as server:
            while server.process.poll() is None and 0 not in ends:
                # Each server has another port: what is owed goes to the URL that the flow has now.
                ends.append(send(source, server.url, next(sender_kills, "never:1")))
        assert (0 in ends) is (kill is None), "the server was to be killed before the end"
    assert ends[0] == -signal.SIGKILL
    with LocalWorld(source) as world:
        wanted = sorted((row["k"], row["n"]) for row in world.events("events"))
    assert rows(target) == wanted


def send(source: Path, url: str, kill: str) -> int:
    """Stream in a process of its own, which ends when the server does not answer."""
    arguments = [str(source), url, SECRET, *kill.split(":")]
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.webhook_sender", *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 3, -signal.SIGKILL), done.stderr
    return done.returncode


# ---- what is refused ----------------------------------------------------------------------------


@pytest.fixture
def told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Any:
    """What the command says when it refuses, in this process."""
    (tmp_path / "hook_refused.py").write_text(
        "import millstream as ms\n"
        "app = ms.App('shop', store='shop.mill')\n"
        "orders = app.topic('orders', schema={'k': str, 'n': int})\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def told(*options: str) -> str:
        sys.modules.pop("hook_refused", None)
        with pytest.raises(SystemExit) as ended:
            main(["webhook", "hook_refused:app", *options])
        assert ended.value.code == 2
        return capsys.readouterr().err

    return told


def test_other_machines_need_a_secret(told: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for host in ("0.0.0.0", "::", "shop.example"):
        said = told("--host", host)
        assert f"whoever reaches {host} could append events" in said
        assert "--secret-env" in said
    assert "no secret in HOOK" in told("--secret-env", "HOOK")
    monkeypatch.setenv("HOOK", "not base64")
    assert "secret of a webhook cannot be read" in told("--host", "0.0.0.0", "--secret-env", "HOOK")


def test_what_cannot_be_is_said_at_once(told: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"cannot listen at 127.0.0.1, port {port}" in told("--port", port)
    assert "no topic 'nothing'" in told("--topic", "nothing", "--port", "0")
    assert "'much' is not an amount" in told("--limit", "much", "--port", "0")
    assert "'long' is not a duration" in told("--remember", "long", "--port", "0")
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert "pip install millstream[http]" in told("--port", "0")


def test_options_reach_the_server(store_path: Path) -> None:
    options = ("--host", "0.0.0.0", "--open", "--port", "0", "--limit", "30B", "--topic", "orders")
    with serving(store_path, *options, "--durability", "process") as server:
        assert server.post().status_code == 200
        assert server.post(BODY + b" " * 30).status_code == 413
        server.process.send_signal(signal.SIGINT)
        assert server.ended() == (0, "")
