"""A process that streams a topic to a webhook; killed at a step, and ended with 3 when nobody answers."""

from __future__ import annotations

import sys
from pathlib import Path

from millstream.flows.webhook import webhook
from millstream.primitives.backoff import Backoff
from millstream.primitives.errors import StepError
from millstream.testing.flows_suite import LocalWorld
from tests.integration import flows_crash


def main() -> int:
    path, url, secret, step, nth = sys.argv[1:]
    with LocalWorld(Path(path), durability="process") as world:
        flows_crash.kill_at(step, int(nth))
        sink = webhook(url, batch=10, secret=secret, retries=1, backoff=Backoff.constant("1ms"))
        try:
            world.read("events").named("hook").write(sink).stream(until="end", batch_events=40)
        except StepError:
            return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
