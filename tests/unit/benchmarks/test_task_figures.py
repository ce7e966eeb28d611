"""What becomes of the values of all task queues."""

from __future__ import annotations

import json

import pytest

from benchmarks.drivers import answer_in
from benchmarks.harness import OWN, Outcome, Settings, Unavailable
from benchmarks.tasks.contract import NO_OP, SPIN_20, USUAL
from benchmarks.tasks.driver import drained
from benchmarks.tasks.systems import CELERY_ON_REDIS, OWN_SYSTEMS, PEERS, system_named
from benchmarks.tasks.throughput import amounts_note, drain_figure, systems, times_celery

CELERY = [system.name for system in CELERY_ON_REDIS]


def outcome(rates: dict[str, list[float]], reasons: dict[str, str] | None = None) -> Outcome:
    value = drained(NO_OP, 1)
    rounds = {name: [{value: rate} for rate in found] for name, found in rates.items()}
    return Outcome([*rates, *(reasons or {})], rounds, reasons or {})


def test_we_are_compared_with_the_best_celery_on_redis_of_each_round():
    found = outcome({OWN: [300.0, 400.0], CELERY[0]: [10.0, 5.0], CELERY[1]: [6.0, 8.0]})
    figure = times_celery(found, 1)
    assert figure.samples.values == (30.0, 50.0)
    assert figure.met is True


def test_a_celery_that_failed_is_not_compared_with():
    found = outcome({OWN: [300.0], CELERY[0]: [10.0]}, {CELERY[1]: "it broke"})
    assert times_celery(found, 1).samples.values == (30.0,)


def test_without_celery_the_target_is_not_met():
    figure = times_celery(outcome({OWN: [300.0]}), 1)
    assert figure.met is False
    assert figure.all_notes()[-1] == "millstream: no Celery on Redis was measured"


def test_a_drain_names_its_target_only_where_there_is_one():
    found = outcome({OWN: [25_000.0]})
    figure = drain_figure(found, NO_OP, 1, "5,000 tasks")
    assert figure.met is True
    assert figure.notes[-1] == "5,000 tasks"
    found = Outcome([OWN], {OWN: [{drained(SPIN_20, 2): 99.0}]}, {})
    figure = drain_figure(found, SPIN_20, 2, "5,000 tasks")
    assert figure.name == "done, 20 ms tasks, 2 workers"
    assert figure.met is None
    assert figure.notes[-1] == "nothing but the tasks themselves: 100"


def test_who_gets_another_number_of_tasks_is_named():
    assert amounts_note([*CELERY_ON_REDIS]).endswith("but none")
    slow = system_named("rq redis fork (memory)")
    assert slow.amounts != USUAL
    assert amounts_note([slow]).endswith("but rq redis fork (memory) 200 and 200")


def test_every_system_has_a_name_of_its_own_that_ends_with_its_durability():
    names = [system.name for system in (*OWN_SYSTEMS, *PEERS)]
    assert len(set(names)) == len(names)
    assert all(name.endswith(")") for name in names if name != OWN)


def test_peers_are_chosen_by_a_pattern(tmp_path):
    own = [system.name for system in OWN_SYSTEMS]
    chosen = systems(Settings(tmp_path, against="huey*"))
    assert [system.name for system in chosen] == [
        *own,
        "huey sqlite early (no sync)",
        "huey sqlite early (fsync)",
    ]
    assert [system.name for system in systems(Settings(tmp_path, with_peers=False))] == own


def test_a_driver_answers_with_values_or_a_reason():
    answer = answer_in('a banner\n{"values": {"send": 2.0}}\n', "")
    assert answer == {"values": {"send": 2.0}}
    with pytest.raises(Unavailable, match="not installed"):
        answer_in(json.dumps({"reason": "not installed"}), "")


@pytest.mark.parametrize("output", ["", "Segmentation fault"])
def test_a_driver_without_an_answer_tells_its_last_words(output: str):
    with pytest.raises(RuntimeError, match="without an answer: killed by a signal"):
        answer_in(output, "killed by\na signal")
