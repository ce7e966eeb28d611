"""Every bound of the tasks by name. Each has a test that reaches it."""

from __future__ import annotations

ARGUMENT_BYTES_MAX = 16 * 1024 * 1024
"""The stored arguments of one call."""
RESULT_BYTES_MAX = 16 * 1024 * 1024
"""The stored result of one task."""
ERROR_TEXT_MAX = 4_000
"""Characters of an error's message that are kept."""
TRACEBACK_TEXT_MAX = 32_000
"""Characters of a traceback that are kept: its end, where the error is."""
NAME_LENGTH_MAX = 249
"""Characters of the name of a task, a queue or an id."""
TASKS_PER_COMMIT_MAX = 100_000
"""Calls that one ``enqueue_many`` stores."""
SENT_NAMES_MAX = 1_024
"""Names of tasks of which a sender that does not declare them remembers how their calls are stored."""
QUEUES_PER_WORKER_MAX = 64
"""Queues that one worker reads."""

RETRIES_MAX = 1_000
"""Retries that a task may ask for; each keeps its error, so the history of a task is bounded too."""
WORKER_DEATHS_MAX = 3
"""Workers that may die under one task before it is failed as poison."""

RUNNING_MAX = 1_000_000
"""What a limit may allow at once."""
RATE_CATCH_UP_US = 50_000
"""How far a rate limit may lag behind the clock and catch up: starts that fit into this time may come at once."""
REVOKED_TTL_US = 86_400_000_000
"""How long a revoked task is kept, as a result is by default."""
CHANGED_TASKS_MAX = 1_000
"""Tasks that are revoked, requeued or purged in one transaction; more take several."""
LISTED_TASKS_MAX = 10_000
"""Tasks that one list holds."""
OUTBOX_CALLS_MAX = 1_000
"""Calls that an outbox hands over in one transaction."""
OUTBOX_KEY_TTL_US = 604_800_000_000
"""How long a call of an outbox is known again, so that it is stored once."""
PROGRESS_BYTES_MAX = 64 * 1024
"""The stored ``meta`` of one progress report."""

BATCH_CALLS_MAX = 1_000
"""Calls that one run of a batch takes."""
BATCH_WAIT_US_MAX = 3_600_000_000
"""How long a call may wait for others of its batch."""
BATCH_SEARCHED_TASKS_MAX = 1_000
"""How deep into a queue a claim looks for calls of a batch, behind those of other tasks."""

ROUTES_MAX = 1_000
"""Routes of one app."""
DEPENDENCIES_MAX = 100
"""Dependencies of one task, those of its dependencies included."""

CLAIM_TASKS_MAX = 256
"""Tasks that a worker holds at once."""
CLAIM_GOAL_US = 50_000
"""Work that a worker claims at once; also how long a finished result waits for its commit."""
DUE_TASKS_MAX = 1_000
"""Tasks that become claimable in one transaction because their time has come."""
PRUNED_TASKS_MAX = 1_000
"""Expired results that are removed in one transaction."""

LEASE_US = 15_000_000
"""A worker that shows no sign of life for this long loses its tasks, even when its process exists."""
BEATS_PER_LEASE = 3
"""Signs of life per lease."""
RECOVERY_TICK_US = 1_000_000
"""How often a worker looks for the dead, busy or idle. Also the most that the time between two looks may count
against the lease of another worker, see ``lease.py``."""

TIME_LIMIT_US_MAX = 366 * 86_400_000_000
"""The longest time limit of an attempt."""
MEMORY_LIMIT_BYTES_MIN = 16 * 1024 * 1024
"""The least memory limit of a task."""
LIMIT_GRACE_US = 1_000_000
"""How long a process may take to end itself in order after a hard time limit, before it is killed."""
LIMIT_TICK_US = 100_000
"""How often a supervisor looks at its processes when there are limits to keep."""

CHILDREN_MAX = 256
"""Processes of one ``millstream worker``."""
CONCURRENCY_MAX = 1_000
"""Tasks that one process runs at once, in threads or as coroutines."""
AUTOSCALE_LOOK_US = 1_000_000
"""How often a worker that may grow looks at what waits."""
AUTOSCALE_GROW_US = 1_000_000
"""How long tasks wait for a free process before there are more."""
AUTOSCALE_KEEPALIVE_US = 30_000_000
"""How long a process has nothing to do before there are fewer, unless said."""
RELOAD_LOOK_US = 500_000
"""How often ``--reload`` looks at the source files."""
RELOAD_FILES_MAX = 10_000
"""Source files that ``--reload`` looks at."""
RESTART_FIRST_US = 100_000
RESTART_LONGEST_US = 30_000_000
"""A child that dies is started again after a delay that doubles from the first to the longest."""
RESTART_FORGIVEN_US = 10_000_000
"""A child that lived for this long is started again at once."""

EVENTS_KEPT_MAX = 100_000
"""Changes of tasks that are kept for those who follow them."""
EVENTS_PRUNED_AT = 10_000
"""Changes beyond those, after which the oldest are removed."""
EVENTS_READ_MAX = 1_000
"""Changes that are read at once."""

RUNNING_TOLD_MAX = 100
"""Running tasks that one sign of life names."""
ORDERS_LOOK_US = 100_000
"""How often a worker looks for orders and revocations at most, however often it is woken."""
ORDERS_REMEMBERED = 1_000
"""Orders that a supervisor knows again, so that it obeys each once."""
