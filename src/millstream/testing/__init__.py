"""What proves millstream, and what helps to test code that uses it.

- ``VirtualClock``: time that passes only when the test says so.
- ``FaultyDisk``: a disk on which a chosen write or sync fails.
- ``TraceDisk``: a disk that remembers every write and sync, so that ``power.PowerLoss`` can lose
  power between any two of them.
- ``UnsyncedDisk``: a disk that never syncs, for tests that kill processes only.
- ``TaskTest``: takes what an app's tasks send, and runs it in the test.
- ``FlowTest``: streams a flow a micro-batch at a time, and shows what it gives and keeps.
- ``BadNetwork``: loses, delays, reorders and repeats events, and knows which.
- ``crash``: runs a function in a process that kills itself at a named step.
- ``log_suite``, ``tasks_suite``, ``flows_suite``: what every engine must do; it is finished when
  its suite passes.
- ``plugin``: fixtures for pytest. Put ``pytest_plugins = ["millstream.testing.plugin"]`` into
  ``conftest.py``.
"""

from millstream.testing.clock import VirtualClock
from millstream.testing.faulty import FaultyDisk
from millstream.testing.flows import FlowTest
from millstream.testing.network import BadNetwork, GilbertElliott
from millstream.testing.tasks import TaskTest
from millstream.testing.trace import TraceDisk
from millstream.testing.unsynced import UnsyncedDisk

__all__ = [
    "BadNetwork",
    "FaultyDisk",
    "FlowTest",
    "GilbertElliott",
    "TaskTest",
    "TraceDisk",
    "UnsyncedDisk",
    "VirtualClock",
]
