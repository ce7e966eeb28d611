"""A process that streams a flow to a webhook and kills itself at a named step. Run by test_flows_webhook.py."""

from __future__ import annotations

import sys
from pathlib import Path

from millstream.flows.webhook import webhook
from millstream.testing.flows_suite import LocalWorld
from tests.integration import flows_crash


def main() -> None:
    path, url, concurrency, step, nth = sys.argv[1:]
    with LocalWorld(Path(path), durability="disk") as world:
        flows_crash.kill_at(step, int(nth))
        sink = webhook(url, concurrency=int(concurrency), backoff="constant", retries=0)
        flow = flows_crash.flow(world).named("hook").write(sink)
        flow.stream(until="end", batch_events=flows_crash.BATCH_EVENTS)


if __name__ == "__main__":
    main()
