"""The app: cheap to declare, opened at first use, closed and opened again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import millstream as ms
from millstream.primitives.errors import (
    ConfigurationError,
    SchemaError,
    TopicExists,
    UnknownTopic,
)
from tests.refusals import refused


@pytest.fixture
def app(store_path: Path) -> Any:
    with ms.App("shop", store=store_path, durability="process") as made:
        yield made


def test_declaring_opens_nothing(store_path: Path):
    app = ms.App("shop", store=store_path)
    app.topic("orders", schema={"n": int})
    app.close()
    assert not store_path.exists()


def test_the_store_is_named_after_the_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with ms.App("shop") as app:
        assert app.topics() == []
    assert (tmp_path / "shop.mill" / "MILLSTREAM").is_file()


def test_a_closed_app_is_opened_again_at_its_next_use(app: ms.App):
    orders = app.topic("orders", schema={"n": int})
    orders.append({"n": 1})
    app.close()
    app.close()
    orders.append({"n": 2})
    assert orders.to_table().to_pylist() == [{"n": 1}, {"n": 2}]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"name": ""}, "name"),
        ({"durability": "memory"}, "'memory'"),
        ({"log": "kafka://x"}, "kafka"),
        ({"tasks": "x://"}, "x://"),
    ],
)
def test_what_an_app_cannot_be_is_refused_at_once(options: dict[str, Any], word: str):
    with refused(ConfigurationError, word, somewhere=False):
        ms.App(**{"name": "shop", **options})


def test_an_engine_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MILLSTREAM_LOG", "local://")
    ms.App("shop")
    monkeypatch.setenv("MILLSTREAM_LOG", "elsewhere://")
    with refused(ConfigurationError, "elsewhere://"):
        ms.App("shop")


def test_two_handles_of_a_topic_are_one_topic(app: ms.App):
    schema = {"n": int}
    app.topic("orders", schema=schema).append({"n": 1})
    again = app.topic("orders", schema=schema)
    assert len(again) == 1
    with refused(TopicExists, "orders"):
        app.topic("orders", schema={"n": str}).append({"n": "1"})
    assert repr(again) == "Topic('orders')"
    assert again.schema.names == ["n"]


@pytest.mark.parametrize("start", [1.5, None, "middle", ["earliest"], b"latest"])
def test_a_start_that_means_nothing_is_refused(app: ms.App, start: Any):
    orders = app.topic("orders", schema={"n": int})
    with refused(ConfigurationError, "orders", repr(start)):
        orders.consume("readers", start=start)


@pytest.mark.parametrize("options", [{"group": ""}, {"batch_events": 0}, {"batch_bytes": 0}])
def test_a_consumer_needs_a_name_and_room(app: ms.App, options: dict[str, Any]):
    orders = app.topic("orders", schema={"n": int})
    with refused(ConfigurationError, "orders"):
        orders.consume(**{"group": "readers", **options})


def test_a_topic_is_read_without_a_group(app: ms.App):
    orders = app.topic("orders", schema={"n": int}, partitions=2)
    assert orders.to_table() == pa.table({"n": []}, schema=orders.schema)
    for n in range(10):
        orders.append({"n": n}, partition=n % 2)
    assert len(orders) == 10
    assert orders.ends() == [(0, 5), (0, 5)]
    assert sorted(row["n"] for row in orders.to_table().to_pylist()) == list(range(10))
    assert sum(len(batch) for batch in orders.batches()) == 10
    batch = orders.read(1, 3)
    assert batch is not None
    assert batch.to_pylist() == [{"n": 7}, {"n": 9}]
    assert orders.lag() == {}


def test_a_transaction_is_left_by_an_error_without_a_trace(app: ms.App):
    orders = app.topic("orders", schema={"n": int})
    with pytest.raises(ZeroDivisionError), app.transaction() as transaction:
        transaction.append(orders, {"n": 1 // 0})
    with app.transaction() as transaction:
        transaction.append(orders, {"n": 1})
    assert [(one.first_offset, one.next_offset) for one in transaction.appended] == [(0, 1)]
    with app.transaction() as transaction, refused(SchemaError, "orders"):
        transaction.append(orders, {"n": "x"})
    assert len(orders) == 1


def test_a_producer_flushes_at_the_end_of_its_block(app: ms.App):
    orders = app.topic("orders", schema={"n": int})
    with orders.producer(name="import", linger="1d") as producer:
        futures = [producer.send({"n": n}, sequence=n) for n in range(5)]
        producer.flush(10)
        assert producer.sequences() == {0: 4}
    assert [future.result().first_offset for future in futures] == list(range(5))


def test_a_deleted_topic_is_made_anew_by_its_handle(app: ms.App):
    orders = app.topic("orders", schema={"n": int})
    other = app.topic("orders", schema={"n": int})
    orders.append({"n": 1})
    assert len(other) == 1
    orders.delete()
    with refused(UnknownTopic, "orders"):
        other.append({"n": 2})  # this handle still means the old one
    orders.append({"n": 3})
    assert orders.to_table().to_pylist() == [{"n": 3}]
