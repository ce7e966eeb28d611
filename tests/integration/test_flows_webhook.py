"""Webhooks as sinks: each row at least once, in order, under a key that stays the same, whatever kills the sender."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.flows.expression import col
from millstream.flows.flow import Flow
from millstream.flows.keyed_context import KeyedContext
from millstream.flows.report import RunReport
from millstream.flows.webhook import WebhookSink, webhook
from millstream.primitives.backoff import Backoff
from millstream.primitives.errors import ConfigurationError, PlanError, StepError
from millstream.primitives.schema import Timestamp
from millstream.primitives.signing import misfit, secret_key
from millstream.primitives.telemetry import set_listener
from millstream.testing.flows_suite import LocalWorld, at
from tests.flows_kit import STEPS, Crash, crash_at, crash_each
from tests.integration import flows_crash
from tests.webhook_kit import Arrived, Receiver, Told

ROOT = Path(__file__).parents[2]
SCHEMA = {"k": str, "n": int, "at": Timestamp}
HOOK_STEPS = ("flow.webhook_sent", "flow.webhook_marked")
SOON = Backoff.constant("1ms")
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def fill(world: LocalWorld) -> None:
    world.topic("events", SCHEMA, key="k", partitions=1)
    world.append("events", [{"k": "abc"[i % 3], "n": i, "at": at(i)} for i in range(12)])


@pytest.fixture
def world(store_path: Path) -> Iterator[LocalWorld]:
    with LocalWorld(store_path) as world:
        fill(world)
        yield world


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


def events(world: LocalWorld) -> Flow:
    return world.read("events").select("k", "n").named("hook")


def expected(world: LocalWorld) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = events(world).collect().to_pylist()
    return rows


@pytest.mark.parametrize("batch", [None, 1, 5])
def test_a_stream_sends_its_rows_in_order(
    world: LocalWorld, receiver: Receiver, batch: int | None
) -> None:
    flow = events(world).write(webhook(receiver.url, batch=batch, headers={"X-From": "mill"}))
    assert flow.stream(until="end", batch_events=6).rows_out == 12
    assert receiver.taken() == expected(world)
    assert len({came.key for came in receiver.arrived}) == len(receiver.arrived)
    assert len(receiver.arrived) == (12 if batch in (None, 1) else 4)
    first = receiver.arrived[0]
    assert isinstance(json.loads(first.body), dict if batch is None else list)
    assert (first.method, first.path) == ("POST", "/hook")
    assert first.headers["content-type"] == "application/json"
    assert first.headers["x-from"] == "mill"
    assert flow.stream(until="end").rows_out == 0
    # What has arrived is not kept.
    assert world.store.look("flows/delivery", (1,)) == []


def test_a_batch_sends_its_rows_with_keys_of_its_run(world: LocalWorld, receiver: Receiver) -> None:
    flow = events(world).write(webhook(receiver.url, method="PUT"))
    for _ in range(2):
        assert flow.run().rows_out == 12
    assert receiver.taken() == expected(world) * 2
    assert {came.method for came in receiver.arrived} == {"PUT"}


def test_a_column_may_be_the_key(world: LocalWorld, receiver: Receiver) -> None:
    flow = world.read("events").select(id=col("k"), n=col("n")).named("hook")
    flow.write(webhook(receiver.url, key="id")).run()
    assert [came.key for came in receiver.arrived] == ["a", "b", "c"] * 4
    odd = world.table(pa.table({"id": ["é \n/1.", None]}))
    with pytest.raises(StepError, match="id is null"):
        odd.write(webhook(receiver.url, key="id")).run()
    odd.limit(1).write(webhook(receiver.url, key="id")).run()
    assert receiver.arrived[-1].key == "%C3%A9%20%0A%2F1%2E"


def test_every_type_is_json(world: LocalWorld, receiver: Receiver) -> None:
    table = pa.table(
        {
            "i": pa.array([-(2**63), None]),
            "f": pa.array([0.1, float("nan")]),
            "t": pa.array(["ü\n", None]),
            "b": pa.array([True, None]),
            "y": pa.array([b"\x00x", None]),
            "d": pa.array([date(2026, 1, 1), None]),
            "w": pa.array([datetime(2026, 1, 1, 1, 2, 3, 4, tzinfo=UTC), None]),
            "x": pa.array([Decimal("1.50"), None]),
            "l": pa.array([[1, None], None], pa.list_(pa.int64())),
            "s": pa.array([{"a": 1}, None]),
            "p": pa.array([timedelta(seconds=90), None]),
        }
    )
    world.table(table).write(webhook(receiver.url)).run()
    full, empty = receiver.taken()
    assert full == {
        "i": -(2**63), "f": 0.1, "t": "ü\n", "b": True, "y": "AHg=", "d": "2026-01-01",
        "w": "2026-01-01T01:02:03.000004Z", "x": "1.50", "l": [1, None], "s": {"a": 1}, "p": "PT90S",
    }  # fmt: skip
    assert set(empty.values()) == {None}


# ---- crashes ------------------------------------------------------------------------------------


@settings(max_examples=15)
@given(
    batch_events=st.integers(1, 12),
    batch=st.sampled_from([None, 1, 3]),
    concurrency=st.sampled_from([1, 4]),
    crashes=st.lists(
        st.tuples(st.sampled_from((*STEPS, *HOOK_STEPS)), st.integers(1, 4)), max_size=4
    ),
)
def test_any_cut_and_any_crash_lose_nothing(
    batch_events: int, batch: int | None, concurrency: int, crashes: list[tuple[str, int]]
) -> None:
    with tempfile.TemporaryDirectory() as folder, Receiver() as receiver:
        path = Path(folder) / "s.mill"
        with LocalWorld(path) as world:
            fill(world)

        def stream(world: LocalWorld) -> RunReport:
            sink = webhook(receiver.url, batch=batch, concurrency=concurrency)
            return events(world).write(sink).stream(until="end", batch_events=batch_events)

        crash_each(path, crashes, stream)
        with LocalWorld(path) as world:
            stream(world)
            taken = receiver.taken()
            if concurrency > 1:
                taken = sorted(taken, key=lambda row: row["n"])
            assert taken == expected(world)


@pytest.mark.parametrize(
    ("step", "nth", "concurrency"),
    [
        ("flow.committed", 5, 1),
        ("flow.webhook_sent", 3, 4),
        ("flow.webhook_marked", 2, 4),
    ],
)
def test_kill_9_loses_nothing(store_path: Path, step: str, nth: int, concurrency: int) -> None:
    with LocalWorld(store_path, durability="process") as world:
        flows_crash.fill(world)
    with Receiver() as receiver:
        arguments = [str(store_path), receiver.url, str(concurrency), step, str(nth)]
        done = subprocess.run(
            [sys.executable, "-m", "tests.integration.webhook_crash", *arguments],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == -signal.SIGKILL, done.stderr
        goes_on(store_path, receiver)


def test_kill_9_in_the_middle_of_a_request_loses_nothing(store_path: Path) -> None:
    with LocalWorld(store_path, durability="process") as world:
        flows_crash.fill(world)
    started = threading.Event()
    process: list[subprocess.Popen[bytes]] = []

    def answer(_: Arrived, number: int) -> Told:
        if number == 3:
            started.wait(60)
            os.kill(process[0].pid, signal.SIGKILL)
            process[0].wait()
        return Told()

    with Receiver(answer) as receiver:
        arguments = [str(store_path), receiver.url, "1", "never", "1"]
        process.append(
            subprocess.Popen(
                [sys.executable, "-m", "tests.integration.webhook_crash", *arguments], cwd=ROOT
            )
        )
        started.set()
        assert process[0].wait() == -signal.SIGKILL
        keys = [came.key for came in receiver.arrived]
        goes_on(store_path, receiver)
        # The one that was in the air comes again, and what was marked does not.
        assert [came.key for came in receiver.arrived].count(keys[2]) == 2
        assert [came.key for came in receiver.arrived].count(keys[1]) == 1


def goes_on(store_path: Path, receiver: Receiver) -> None:
    """The next process finishes: a receiver that drops known keys has each row of the batch once."""
    with LocalWorld(store_path) as world:
        flow = flows_crash.flow(world).named("hook")
        flow.write(webhook(receiver.url)).stream(until="end", batch_events=flows_crash.BATCH_EVENTS)
        rows = json.loads(json.dumps(flow.collect().to_pylist(), default=spoken))
    assert sorted(map(str, receiver.taken())) == sorted(map(str, rows))


def spoken(value: datetime) -> str:
    return value.isoformat().replace("+00:00", "Z")


def crashed_behind_its_commit(store_path: Path, sink: WebhookSink) -> None:
    with LocalWorld(store_path) as world:
        fill(world)
        crash_at("flow.committed", 1)
        with pytest.raises(Crash):
            events(world).write(sink).stream(until="end")
        set_listener(None)


def test_a_reset_delivers_what_was_committed_first(store_path: Path, receiver: Receiver) -> None:
    crashed_behind_its_commit(store_path, webhook(receiver.url))
    assert receiver.arrived == []
    with LocalWorld(store_path) as world:
        flow = events(world).write(webhook(receiver.url))
        flow.reset()
        assert receiver.taken() == expected(world)
        flow.stream(until="end")
        assert receiver.taken() == expected(world) * 2


def test_a_flow_does_not_leave_a_webhook_that_it_owes_rows(
    store_path: Path, receiver: Receiver
) -> None:
    crashed_behind_its_commit(store_path, webhook("http://127.0.0.1:9/wrong"))
    with LocalWorld(store_path) as world:
        with pytest.raises(PlanError, match="may not be in a webhook"):
            events(world).write("topic").stream(until="end")
        # Another URL is no other sort of place: that is how a wrong one is mended.
        assert events(world).write(webhook(receiver.url)).stream(until="end").rows_out == 0
        assert receiver.taken() == expected(world)


# ---- answers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 503])
def test_what_may_pass_is_tried_again_in_order(
    world: LocalWorld, receiver: Receiver, status: int
) -> None:
    receiver.answer = lambda _, number: Told(status if number in (1, 2, 5) else 200)
    events(world).write(webhook(receiver.url, backoff=SOON)).stream(until="end")
    assert receiver.taken() == expected(world)
    keys = [came.key for came in receiver.arrived]
    assert keys[0] == keys[1] == keys[2] != keys[3]
    assert len(keys) == 15


def test_a_receiver_is_given_the_time_it_asks_for(world: LocalWorld, receiver: Receiver) -> None:
    clock = world.store.clock
    asked_s: list[float] = []

    def answer(_: Arrived, number: int) -> Told:
        asked_s.append(clock.monotonic_s())
        return Told(429, {"retry-after": "1"}) if number == 1 else Told()

    receiver.answer = answer
    events(world).write(webhook(receiver.url, backoff=SOON)).run()
    assert asked_s[1] - asked_s[0] >= 1


def test_a_receiver_that_is_away_ends_the_run_and_nothing_is_lost(
    world: LocalWorld, receiver: Receiver
) -> None:
    with Receiver() as gone:
        away = gone.url
    lost = events(world).write(webhook(away, backoff=SOON, retries=2))
    for _ in range(2):  # the flow is not held by the one that failed
        with pytest.raises(StepError, match="does not answer, 3 times"):
            lost.stream(until="end")
    receiver.answer = lambda _, number: Told(503 if number == 4 else 200, text="no room")
    flow = events(world).write(webhook(receiver.url, retries=0))
    with pytest.raises(StepError, match="answers 503, 1 times: no room"):
        flow.stream(until="end")
    assert flow.stream(until="end").rows_out == 0
    assert receiver.taken() == expected(world)
    assert len(receiver.arrived) == 13  # three were marked before the fourth failed


def test_a_request_that_hangs_ends_in_time(world: LocalWorld, receiver: Receiver) -> None:
    free = threading.Event()
    receiver.answer = lambda *_: Told(200 if free.wait(60) else 500)
    try:
        with pytest.raises(StepError, match=r"no answer within 0\.05 s"):
            events(world).write(webhook(receiver.url, timeout="50ms", retries=0)).run()
    finally:
        free.set()


def refusing(came: Arrived, _: int) -> Told:
    return Told(422, text="no b") if any(row["k"] == "b" for row in came.rows) else Told()


def test_a_refused_row_ends_the_run_until_somebody_mends_it(
    world: LocalWorld, receiver: Receiver
) -> None:
    receiver.answer = refusing
    flow = events(world).write(webhook(receiver.url))
    for _ in range(2):
        with pytest.raises(StepError, match=r'refuses rows with 422: no b.*"k":"b","n":1.*skip'):
            flow.stream(until="end")
    receiver.answer = lambda *_: Told()
    flow.stream(until="end")
    assert receiver.taken() == expected(world)


@pytest.mark.parametrize("batch", [None, 2])
@pytest.mark.parametrize("run", ["batch", "stream"])
def test_refused_rows_become_dead_letters(
    world: LocalWorld, receiver: Receiver, run: str, batch: int | None
) -> None:
    receiver.answer = refusing
    sink = webhook(receiver.url, on_error="dead_letter", batch=batch)
    flow = events(world).write(sink)
    report = flow.run() if run == "batch" else flow.stream(until="end", batch_events=12)
    refused = [json.loads(letter["event"]) for letter in world.events("hook.dead")]
    all_rows = expected(world)
    step = batch or 1
    pieces = [all_rows[i : i + step] for i in range(0, 12, step)]
    assert refused == [row for p in pieces if any(r["k"] == "b" for r in p) for row in p]
    assert report.failed == len(refused)
    assert "refuses rows with 422" in world.events("hook.dead")[0]["error"]


def test_refused_rows_may_be_skipped(world: LocalWorld, receiver: Receiver) -> None:
    receiver.answer = refusing
    report = events(world).write(webhook(receiver.url, on_error="skip")).stream(until="end")
    assert report.failed == 4
    assert "hook.dead" not in world.log.topic_names()


@pytest.mark.parametrize("step", HOOK_STEPS)
def test_a_crash_writes_each_dead_letter_once(store_path: Path, step: str) -> None:
    with Receiver(refusing) as receiver:
        with LocalWorld(store_path) as world:
            fill(world)

        def stream(world: LocalWorld) -> RunReport:
            sink = webhook(receiver.url, on_error="dead_letter")
            return events(world).write(sink).stream(until="end")

        crash_each(store_path, [(step, nth) for nth in (1, 2, 2, 3)], stream)
        with LocalWorld(store_path) as world:
            stream(world)
            letters = [json.loads(letter["event"]) for letter in world.events("hook.dead")]
            assert letters == [row for row in expected(world) if row["k"] == "b"]


def test_a_redirect_is_not_followed(world: LocalWorld, receiver: Receiver) -> None:
    receiver.answer = lambda *_: Told(307, {"location": "/elsewhere"})
    with pytest.raises(StepError, match="refuses rows with 307"):
        events(world).write(webhook(receiver.url)).run()


# ---- a stop, and what runs beside each other ----------------------------------------------------


@pytest.mark.parametrize("until", [None, "end"])
def test_a_stop_is_heard_while_a_retry_is_waited_for(
    world: LocalWorld, receiver: Receiver, until: str | None
) -> None:
    stop = threading.Event()

    def answer(_: Arrived, number: int) -> Told:
        if number < 4:
            return Told()
        stop.set()
        return Told(503, {"retry-after": "3600"})

    receiver.answer = answer
    flow = events(world).write(webhook(receiver.url))
    flow.stream(until=until, stop=stop)
    assert len(receiver.arrived) == 4
    flow.stream(until=until, stop=stop)  # stopped before it begins
    assert len(receiver.arrived) == 4
    receiver.answer = lambda *_: Told()
    flow.stream(until="end")
    assert receiver.taken() == expected(world)


def test_a_stop_holds_timers_back_that_are_due(world: LocalWorld, receiver: Receiver) -> None:
    """A timer's commit would drop the rows that the stop has left in the store."""
    stop = threading.Event()

    def answer(*_: object) -> Told:
        stop.set()
        return Told(503)

    def seen(event: dict[str, Any], context: KeyedContext[int]) -> dict[str, Any]:
        context.set_clock_timer("1us")
        return {"n": event["n"]}

    def fired(context: KeyedContext[int]) -> dict[str, Any]:
        return {"n": -1}

    receiver.answer = answer
    counted = world.read("events").key_by("k").process(seen, {"n": int}, state=int, on_timer=fired)
    flow = counted.named("hook").write(webhook(receiver.url))
    flow.stream(stop=stop)
    assert len(receiver.arrived) == 1
    receiver.answer = lambda *_: Told()
    flow.stream(until="end")
    assert [row["n"] for row in receiver.taken() if row["n"] >= 0] == list(range(12))


def test_requests_run_beside_each_other(world: LocalWorld, receiver: Receiver) -> None:
    together = threading.Barrier(4)

    def answer(*_: object) -> Told:
        together.wait(60)
        return Told()

    receiver.answer = answer
    events(world).write(webhook(receiver.url, concurrency=4)).stream(until="end")
    assert sorted(row["n"] for row in receiver.taken()) == list(range(12))


# ---- signing ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scheme", "secret"), [("standard", SECRET), ("github", "it's a secret")])
def test_requests_are_signed_anew_each_time(
    world: LocalWorld, receiver: Receiver, scheme: str, secret: str
) -> None:
    receiver.answer = lambda _, number: Told(500 if number == 1 else 200)
    sink = webhook(receiver.url, secret=secret, signature=scheme, backoff=SOON)
    events(world).write(sink).run()
    key = secret_key(secret, scheme, where="here")
    now_s = world.store.clock.now_us() // 1_000_000
    for came in receiver.arrived:
        assert misfit(scheme, [key], came.headers, came.body, now_s=now_s) is None
        assert misfit(scheme, [key], came.headers, came.body + b" ", now_s=now_s) is not None
    if scheme == "standard":
        assert receiver.arrived[0].headers["webhook-id"] == receiver.arrived[0].key


def test_a_missing_client_says_what_to_install(
    world: LocalWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(ConfigurationError, match=r"pip install millstream\[http\]"):
        events(world).write(webhook("http://127.0.0.1:9/")).stream(until="end")
    assert events(world).write("topic").stream(until="end").rows_out == 12


def test_a_micro_batch_that_is_too_large_is_refused(
    world: LocalWorld, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("millstream.engines.local.flow_delivery.DELIVERY_BYTES_MAX", 60)
    flow = events(world).write(webhook(receiver.url))
    with pytest.raises(StepError, match=r"at most 60.*smaller batch_events"):
        flow.stream(until="end")
    flow.stream(until="end", batch_events=2)
    assert receiver.taken() == expected(world)
