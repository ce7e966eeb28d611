"""The mail server of the demo, the tasks that it serves, and the pictures that they resize."""

from __future__ import annotations

import smtplib
import threading
from email.message import Message
from pathlib import Path

import pytest
from PIL import Image

from millstream.app import App
from millstream.cli.flights import drawings, office
from millstream.cli.flights.post import PostOffice


def test_a_mail_arrives_and_is_counted() -> None:
    seen: list[tuple[int, Message]] = []
    with PostOffice({"one", "two"}, lambda number, mail: seen.append((number, mail))) as post:
        for token in ("one", "two", "one"):
            office.mail_password(post.port, f"{token}@flights.example", token)
    assert post.arrived == {"one": 2, "two": 1}
    assert [number for number, _ in seen] == [1, 2, 3]
    assert [mail["To"] for _, mail in seen[:2]] == ["one@flights.example", "two@flights.example"]
    assert "/password/one" in str(seen[0][1].get_payload())


def test_a_mail_that_nobody_expects_is_refused() -> None:
    with PostOffice({"one"}, lambda *_: None) as post:
        with pytest.raises(smtplib.SMTPDataError, match="unknown token"):
            office.mail_password(post.port, "eve@flights.example", "guess")
    assert not post.arrived


def test_the_server_is_told_of_a_mail_before_its_sender() -> None:
    order: list[str] = []
    with PostOffice({"one"}, lambda *_: order.append("server")) as post:
        office.mail_password(post.port, "one@flights.example", "one")
        order.append("sender")
    assert order == ["server", "sender"]


def test_nothing_is_left_open_behind_the_server() -> None:
    before = threading.active_count()
    with PostOffice(set(), lambda *_: None) as post:
        # Somebody who connects and then says nothing does not keep it open.
        silent = smtplib.SMTP("127.0.0.1", post.port, local_hostname="localhost", timeout=20)
    assert threading.active_count() == before
    silent.close()
    with pytest.raises(ConnectionRefusedError):
        office.mail_password(post.port, "one@flights.example", "one")


def test_a_drawing_is_the_same_for_the_same_seed_and_is_resized_whole(tmp_path: Path) -> None:
    first, again, small = (tmp_path / name for name in ("first.jpg", "again.jpg", "small.jpg"))
    drawings.draw(first, 3)
    drawings.draw(again, 3)
    assert first.read_bytes() == again.read_bytes()
    assert first.stat().st_size > 300_000
    assert office.resize(str(first), str(small), 300) == (300, 200)
    with Image.open(small) as picture:
        assert picture.size == (300, 200)
    assert {path.name for path in tmp_path.iterdir()} == {"first.jpg", "again.jpg", "small.jpg"}


def test_demo_and_workers_know_the_tasks_by_the_same_names(store_path: Path) -> None:
    app = App("flights", store=store_path)
    office.declare(app)
    ours = [name for name in app.tasks.names() if not name.startswith("millstream.")]
    assert ours == ["mail_password", "resize"]
