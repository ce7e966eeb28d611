"""``ms.arrival``: files that are rewritten, deleted, empty, elsewhere or many, and places that cannot be looked at."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import s3fs
from fsspec.implementations.memory import MemoryFileSystem

import millstream as ms
from millstream.engines.local import flow_trigger_facts
from millstream.engines.local.flow_trigger_facts import LISTED_PAUSES, Listings
from millstream.primitives.clock import SYSTEM_CLOCK
from millstream.primitives.errors import StepError
from millstream.testing import VirtualClock
from tests import s3
from tests.triggers_kit import add, declare, only, opened, out, put


class Vault(MemoryFileSystem):
    """Files that only who has the key may see; it counts how often they are listed, and takes its time."""

    protocol = "vault"
    listed = 0
    takes_s = 0.0
    is_away = False
    clock: VirtualClock | None = None

    def __init__(self, *, key: str = "", **options: Any) -> None:
        super().__init__(**options)
        self._key = key

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return super()._strip_protocol(str(path).removeprefix("vault://"))

    def find(self, path: str, *arguments: Any, **options: Any) -> Any:
        if Vault.is_away:
            raise OSError("the vault is away")
        if self._key != "open":
            raise PermissionError("the vault is locked")
        Vault.listed += 1
        if Vault.clock is not None:
            Vault.clock.wait_s(Vault.takes_s)
        return super().find(path, *arguments, **options)


fsspec.register_implementation("vault", Vault, clobber=True)


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def app(store_path: Path, clock: VirtualClock) -> Iterator[ms.App]:
    with opened(store_path, clock) as app:
        yield app


@pytest.fixture
def vault(clock: VirtualClock) -> Iterator[str]:
    Vault.listed, Vault.takes_s, Vault.is_away, Vault.clock = 0, 0.0, False, clock
    yield f"vault://{uuid.uuid4().hex}"
    Vault.clock = None


def loads(app: ms.App, path: Path, *, mode: str = "batch") -> None:
    """Declare a trigger that copies files."""

    @app.trigger(ms.arrival(path), mode=mode, name="job")
    def job() -> ms.Flow:
        return app.read(path, schema={"eur": int}).write("out_job")


def test_a_directory_in_the_place_is_no_file(
    app: ms.App, clock: VirtualClock, tmp_path: Path
) -> None:
    """Files that were processed are moved into a folder beside them."""
    inbox = tmp_path / "inbox"
    put(clock, inbox / "a.csv", "eur\n1\n")
    (inbox / "done").mkdir()
    os.utime(inbox / "done", ns=(0, 0))
    declare(app, ms.arrival(inbox), name="directory")
    declare(app, ms.arrival(inbox / "*"), name="pattern")
    declare(app, ms.arrival(inbox / "d*"), name="folders")
    assert app.triggers.run_due() == 2
    os.utime(inbox / "done", ns=(10**9, 10**9))
    assert app.triggers.run_due() == 0
    assert [one.runs for one in app.triggers.list()] == [1, 1, 0]


def test_a_file_that_comes_back_changed_is_new_and_one_that_is_gone_is_not(
    app: ms.App, clock: VirtualClock, tmp_path: Path
) -> None:
    inbox = tmp_path / "inbox"
    path = put(clock, inbox / "a.csv", "eur\n1\n")
    put(clock, inbox / "b.csv", "eur\n2\n")
    loads(app, inbox / "*.csv", mode="stream")
    assert app.triggers.run_due() == 1
    path.unlink()
    assert app.triggers.run_due() == 0
    clock.advance("1s")
    put(clock, path, "eur\n1\n")
    assert app.triggers.run_due() == 1
    assert app.triggers.run_due() == 0
    assert out(app) == [1, 2], "a stream has read that file"


def test_a_file_that_is_rewritten_during_the_run_is_due_once_more(
    app: ms.App, clock: VirtualClock, tmp_path: Path
) -> None:
    path = put(clock, tmp_path / "in" / "a.csv", "eur\n1\n")

    @app.trigger(ms.arrival(path), name="job")
    def job() -> ms.Flow:
        flow = app.read(path).write(f"{tmp_path}/all.csv")
        put(clock, path, "eur\n5\n", age_us=0)
        return flow

    assert app.triggers.run_due() == 1
    assert app.triggers.run_due() == 0, "it is not left alone yet"
    clock.advance("2s")
    assert app.triggers.run_due() == 1
    assert (tmp_path / "all.csv").read_text() == "eur\n5\n"


def test_an_empty_file_that_cannot_be_read_is_told_and_tried_again(
    app: ms.App, clock: VirtualClock, tmp_path: Path
) -> None:
    path = put(clock, tmp_path / "in" / "a.csv", "")

    @app.trigger(ms.arrival(path), name="job")
    def job() -> ms.Flow:
        return app.read(path).write("out_job")

    heard: list[str] = []
    assert app.triggers.run_due(report=heard.append) == 1
    assert "tried again in 5 s" in heard[0]
    assert "a.csv" in heard[0]
    put(clock, path, "eur\n1\n")
    assert app.triggers.run_due() == 0
    clock.advance("5s")
    assert app.triggers.run_due() == 1
    assert out(app) == [1]


def test_an_error_is_forgotten_when_what_it_was_about_is_gone(
    app: ms.App, clock: VirtualClock, tmp_path: Path
) -> None:
    path = put(clock, tmp_path / "in" / "a.csv", "")

    @app.trigger(ms.arrival(path), name="job")
    def job() -> ms.Flow:
        return app.read(path).write("out_job")

    assert app.triggers.run_due() == 1
    path.unlink()
    assert app.triggers.run_due() == 0
    assert only(app).failures == 1, "it is not looked at before its time"
    clock.advance("5s")
    assert app.triggers.run_due() == 0
    assert (only(app).failures, only(app).error) == (0, None)


def test_a_path_that_the_system_refuses_ends_no_other_trigger(app: ms.App) -> None:
    @app.trigger(ms.arrival("x" * 300), name="refused")
    def refused() -> ms.Flow:
        return app.read("orders").write("never")

    @app.trigger(ms.gathered("orders", events=1), name="job")
    def job() -> ms.Flow:
        return app.read("orders").write("out_job")

    assert "cannot be looked at" in str(app.triggers.list()[0].error), "before any run"
    add(app, 1)
    heard: list[str] = []
    assert app.triggers.run_due(report=heard.append) == 1
    assert "trigger refused failed, and is tried again in 5 s: it cannot be looked at" in heard[0]
    assert out(app) == [1]
    assert "cannot be looked at" in str(app.triggers.list()[0].error)


def test_a_place_that_is_away_keeps_no_other_condition_from_being_enough(
    app: ms.App, clock: VirtualClock, vault: str
) -> None:
    """arrival   a.csv: run   ✕ away ────────────── back: a.csv is known, b.csv: run
    every       ─────────────────────10m──▶ run
    """
    place = fsspec.filesystem("vault", key="open")
    place.pipe_file(f"{vault}/a.csv", b"eur\n1\n")
    clock.jump(SYSTEM_CLOCK.now_us() - clock.now_us() + 10_000_000)
    files = ms.arrival(f"{vault}/*.csv", storage_options={"key": "open"})
    declare(app, files, ms.every("10m"))
    add(app, 1)
    assert app.triggers.run_due() == 1
    Vault.is_away = True
    assert app.triggers.run_due() == 0
    assert "the vault is away" in str(only(app).error)
    clock.advance("10m")
    assert app.triggers.run_due() == 1
    assert only(app).runs == 2
    Vault.is_away = False
    assert app.triggers.run_due() == 0
    assert only(app).error is None
    place.pipe_file(f"{vault}/b.csv", b"eur\n2\n")
    assert app.triggers.run_due() == 1


def test_files_elsewhere_are_seen_with_the_options_that_open_them(
    app: ms.App, clock: VirtualClock, vault: str
) -> None:
    options = {"key": "open"}
    place = fsspec.filesystem("vault", **options)
    place.pipe_file(f"{vault}/a.csv", b"eur\n1\n")
    clock.jump(
        SYSTEM_CLOCK.now_us() - clock.now_us() + 10_000_000
    )  # the file has the machine's time

    @app.trigger(ms.arrival(f"{vault}/*.csv", storage_options=options), mode="stream", name="job")
    def job() -> ms.Flow:
        flow = app.read(f"{vault}/*.csv", storage_options=options, schema={"eur": int})
        return flow.write("out_job")

    @app.trigger(ms.arrival(f"{vault}/*.csv"), name="locked")
    def locked() -> ms.Flow:
        return app.read("orders").write("never")

    heard: list[str] = []
    assert app.triggers.run_due(report=heard.append) == 1, heard
    assert out(app) == [1]
    assert app.triggers.run_due() == 0
    assert "the vault is locked" in str(app.triggers.list()[1].error)
    assert "open" not in str(app.log_engine.store.look("flows/trigger_get", ("job",)))


def test_an_object_counts_as_soon_as_it_is_there(app: ms.App, clock: VirtualClock) -> None:
    """Nobody can still be writing it; where and with which key it lies only the options say."""
    with s3.server() as options:
        url = f"s3://{s3.BUCKET}/{uuid.uuid4().hex}/*.csv"
        files = s3fs.S3FileSystem(**options, skip_instance_cache=True)

        @app.trigger(ms.arrival(url, storage_options=options), mode="stream", name="job")
        def job() -> ms.Flow:
            flow = app.read(url, storage_options=options, schema={"eur": int})
            return flow.write("out_job")

        assert app.triggers.run_due() == 0
        for number in (1, 2):
            files.pipe_file(url.replace("*", f"{number}"), f"eur\n{number}\n".encode())
            assert app.triggers.run_due() == 1, only(app).error
            assert app.triggers.run_due() == 0
        assert out(app) == [1, 2]


def test_other_file_systems_are_listed_once_a_second_and_slow_ones_more_rarely(
    clock: VirtualClock, vault: str
) -> None:
    arrival = ms.arrival(f"{vault}/*.csv", storage_options={"key": "open"})
    fsspec.filesystem("vault", key="open").pipe_file(f"{vault}/a.csv", b"eur\n1\n")
    listings = Listings(clock)

    def looked() -> int:
        before = Vault.listed
        listings.files(arrival)
        return Vault.listed - before

    assert [looked(), looked()] == [1, 0]
    clock.advance("999ms")
    assert looked() == 0
    clock.advance("1ms")
    Vault.takes_s = 3.0
    assert looked() == 1
    clock.wait_s(LISTED_PAUSES * 3.0 - 0.001)
    assert looked() == 0
    clock.wait_s(0.001)
    assert looked() == 1


def test_an_error_of_a_place_is_kept_as_long_as_its_files(
    clock: VirtualClock, vault: str, tmp_path: Path
) -> None:
    arrival = ms.arrival(f"{tmp_path}/{'x' * 300}")
    listings = Listings(clock)
    errors = []
    for wait in ("0s", "999ms", "1ms"):
        clock.advance(wait)
        with pytest.raises(StepError) as caught:
            listings.files(arrival)
        errors.append(caught.value)
    assert errors[0] is errors[1] is not errors[2]


def test_too_many_files_are_an_error_that_says_what_to_do(
    clock: VirtualClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow_trigger_facts, "ARRIVAL_FILES_MAX", 2)
    for name in ("a", "b"):
        put(clock, tmp_path / "in" / name, "")
    assert len(Listings(clock).files(ms.arrival(tmp_path / "in"))) == 2
    put(clock, tmp_path / "in" / "c", "")
    with pytest.raises(StepError, match="there are 3 files") as caught:
        Listings(clock).files(ms.arrival(tmp_path / "in"))
    assert "move files away" in str(caught.value.next_step)
