"""All systems, in the order of the table."""

from __future__ import annotations

from benchmarks.harness import OWN, Unavailable
from benchmarks.tasks.contract import Amounts, TaskSystem
from benchmarks.tasks.own import DISK, OWN_PROCESS, PROCESS, Millstream
from benchmarks.tasks.peers.celery_queue import RABBITMQ, REDIS, Celery
from benchmarks.tasks.peers.dramatiq_queue import Dramatiq
from benchmarks.tasks.peers.honker_queue import Honker
from benchmarks.tasks.peers.huey_queue import Huey
from benchmarks.tasks.peers.process_pool import ProcessPool
from benchmarks.tasks.peers.rq_queue import RQ
from benchmarks.tasks.peers.taskiq_queue import Taskiq
from benchmarks.tasks.peers.taskito_queue import Taskito

OWN_SYSTEMS: tuple[TaskSystem, ...] = (
    Millstream(OWN, DISK),
    Millstream(OWN_PROCESS, PROCESS),
)
CELERY_ON_REDIS: tuple[TaskSystem, ...] = (
    Celery(REDIS),
    Celery(REDIS, late=True),
    Celery(REDIS, tuned=True),
    Celery(REDIS, tuned=True, late=True),
    Celery(REDIS, tuned=True, late=True, safe=True),
)
PEERS: tuple[TaskSystem, ...] = (
    *CELERY_ON_REDIS,
    Celery(RABBITMQ),
    Celery(RABBITMQ, late=True),
    Celery(RABBITMQ, tuned=True),
    Celery(RABBITMQ, tuned=True, late=True),
    Celery(RABBITMQ, tuned=True, late=True, safe=True),
    Dramatiq(),
    Huey(fsync=False),
    Huey(fsync=True),
    Taskiq(),
    RQ(forks=True, amounts=Amounts(singles=200, bulk=200, spins_1_ms=100, round_trips=30)),
    RQ(forks=False, amounts=Amounts(singles=2_000, bulk=2_000)),
    Taskito(),
    Honker(PROCESS),
    Honker(DISK),
    ProcessPool(),
)


def system_named(name: str) -> TaskSystem:
    """Return the system of this name. Raises Unavailable."""
    for system in (*OWN_SYSTEMS, *PEERS):
        if system.name == name:
            return system
    raise Unavailable(f"there is no system {name!r}")
