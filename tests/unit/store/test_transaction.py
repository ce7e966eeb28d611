"""The commit point: one transaction for many threads, each work undone alone, syncs shared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Event

import pytest

from millstream.primitives.durability import Durability
from millstream.primitives.errors import MillstreamError, StoreStopped
from millstream.primitives.telemetry import set_listener
from millstream.store import Joinable, Store, Transaction, transaction
from millstream.testing.faulty import FaultyDisk

SOON_S = 20.0


@pytest.fixture
def disk() -> FaultyDisk:
    return FaultyDisk()


@pytest.fixture
def store(store_path: Path, disk: FaultyDisk) -> Iterator[Store]:
    with Store.open(store_path, disk=disk) as made:
        yield made


@pytest.fixture
def steps() -> Iterator[list[str]]:
    reached: list[str] = []
    set_listener(reached.append)
    yield reached
    set_listener(None)


def producer(name: str, *, fails: bool = False):
    """A work that adds a row, and may fail behind it."""

    def work(tx: Transaction) -> str:
        tx.run("log/producer_open", (name,))
        if fails:
            raise KeyError(name)
        return name

    return work


def names(store: Store) -> list[str]:
    with store.read() as snapshot:
        rows = snapshot._cursor.execute("SELECT name FROM producer ORDER BY name")
        return [row[0] for row in rows]


def together(store: Store, count: int, work_of) -> list[object]:
    """Submit works of many threads while the connection is held, so that they wait together."""
    barrier, done = Barrier(count + 1), []

    def submit(number: int) -> object:
        barrier.wait(SOON_S)
        try:
            return store.write(work_of(number))
        except (KeyError, MillstreamError) as error:
            return error

    with ThreadPoolExecutor(count) as threads:
        submitted = [threads.submit(submit, n) for n in range(count)]
        barrier.wait(SOON_S)
        done = [future.result(SOON_S) for future in submitted]
    return done


def test_a_work_returns_what_it_returns(store: Store):
    assert store.write(producer("a")) == "a"
    assert names(store) == ["a"]


def test_a_work_that_fails_leaves_nothing(store: Store):
    with pytest.raises(KeyError):
        store.write(producer("a", fails=True))
    assert names(store) == []
    store.write(producer("b"))
    assert names(store) == ["b"]


def test_of_many_works_only_those_that_fail_are_undone(store: Store):
    found = together(store, 24, lambda n: producer(f"{n:02}", fails=n % 3 == 0))
    assert [isinstance(one, KeyError) for one in found] == [n % 3 == 0 for n in range(24)]
    assert names(store) == [f"{n:02}" for n in range(24) if n % 3]


def test_threads_share_commits_and_syncs(store: Store, steps: list[str]):
    rounds, count = 10, 8
    barrier = Barrier(count)

    def work(number: int) -> None:
        for turn in range(rounds):
            barrier.wait(SOON_S)
            store.write(producer(f"{turn}-{number}"))

    with ThreadPoolExecutor(count) as threads:
        for future in [threads.submit(work, n) for n in range(count)]:
            future.result(SOON_S)
    assert len(names(store)) == rounds * count
    assert steps.count("commit.before") < rounds * count
    assert steps.count("commit.sync_started") < rounds * count


def test_a_group_has_so_many_works(store: Store, steps: list[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(transaction, "GROUP_COMMIT_WORKS_MAX", 3)
    reached, go = Event(), Event()

    def hold(tx: Transaction) -> None:
        reached.set()
        assert go.wait(SOON_S)

    with ThreadPoolExecutor(11) as threads:
        first = threads.submit(store.write, hold)
        assert reached.wait(SOON_S)
        others = [threads.submit(store.write, producer(f"{n}")) for n in range(10)]
        while len(store.committer._queue) < 10:
            assert not any(future.done() for future in others)
        go.set()
        for future in [first, *others]:
            future.result(SOON_S)
    # One for the first, and at least four for the ten that waited.
    assert steps.count("commit.before") >= 5
    assert len(names(store)) == 10


def test_a_transaction_inside_a_transaction_is_our_own_mistake(store: Store):
    def work(tx: Transaction) -> None:
        store.write(producer("inner"))

    with pytest.raises(RuntimeError, match="inside"):
        store.write(work)
    assert names(store) == []


def test_process_durability_does_not_sync(store: Store, disk: FaultyDisk):
    store.write(producer("warm"))
    disk.calls.clear()
    store.write(producer("a"), durability=Durability.PROCESS)
    assert not [call for call in disk.calls if call[0] == "sync"]
    store.write(producer("b"))
    assert [call for call in disk.calls if call[0] == "sync"] == [("sync", "catalog.db-wal")]


def test_a_failed_sync_fails_everybody_who_waits_for_it_and_all_who_come_later(
    store: Store, disk: FaultyDisk
):
    disk.fail("sync", name="-wal")
    found = together(store, 12, lambda n: producer(f"{n}"))
    assert all(isinstance(one, StoreStopped) for one in found)
    disk.heal()
    assert all(isinstance(one, StoreStopped) for one in together(store, 3, lambda n: producer("x")))


def test_an_interrupted_leader_leaves_the_works_of_others_to_the_next(store: Store):
    def interrupted(tx: Transaction) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.write(interrupted)
    assert together(store, 4, lambda n: producer(f"{n}")) == ["0", "1", "2", "3"]


def test_a_read_sees_one_moment(store: Store):
    store.write(producer("a"))
    with store.read() as snapshot, ThreadPoolExecutor(1) as other:
        before = snapshot.run("log/producer_epoch", (1,))
        other.submit(store.write, producer("a")).result(SOON_S)
        assert snapshot.run("log/producer_epoch", (1,)) == before
        with store.read() as nested:
            assert nested.run("log/producer_epoch", (1,)) == before
    with store.read() as snapshot:
        assert snapshot.run("log/producer_epoch", (1,)) == [(1,)]


class Together(Joinable[str]):
    """Adds a row; all of a kind are added by whoever comes first, and the first that fails undoes them."""

    def __init__(self, name: str, kind: str | None, joined: list[int], *, fails: bool = False):
        self._kind = kind
        self.name = name
        self.joined = joined
        self.fails = fails

    @property
    def kind(self) -> str | None:
        return self._kind

    def __call__(self, tx: Transaction) -> str:
        tx.run("log/producer_open", (self.name,))
        if self.fails:
            raise KeyError(self.name)
        return self.name

    def join(self, tx: Transaction, works: Sequence[Together]) -> list[str]:
        self.joined.append(len(works))
        return [work(tx) for work in works]


@pytest.mark.parametrize("bad", [None, 5])
def test_works_of_one_kind_are_done_at_once_and_an_error_finds_its_own(
    store: Store, bad: int | None
):
    joined: list[int] = []

    def work_of(n: int) -> Together:
        kind = None if n % 4 == 3 else f"kind {n % 2}"
        return Together(f"{n:02}", kind, joined, fails=n == bad)

    all_wait = Event()

    class Watched(list[object]):
        def append(self, entry: object) -> None:
            super().append(entry)
            if len(self) == 24:
                all_wait.set()

    store.committer._queue = Watched()  # type: ignore[assignment]
    with ThreadPoolExecutor(25) as threads:
        # The first one leads alone, and holds the others up until they can be taken together.
        threads.submit(store.write, lambda tx: all_wait.wait(SOON_S))
        futures = [threads.submit(store.write, work_of(n)) for n in range(24)]
        found = [future.exception(SOON_S) or future.result() for future in futures]
    assert [type(one) for one in found] == [KeyError if n == bad else str for n in range(24)]
    assert names(store) == [f"{n:02}" for n in range(24) if n != bad]
    assert sorted(joined) == [6, 12]
