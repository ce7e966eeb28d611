"""A process that streams a flow to a store of objects and kills itself at a step. Run by test_flows_s3.py."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from millstream.testing.flows_suite import LocalWorld
from tests.integration import flows_crash


def main() -> None:
    path, url, options, step, nth = sys.argv[1:]
    with LocalWorld(Path(path), durability="disk") as world:
        flows_crash.kill_at(step, int(nth))
        flow = flows_crash.flow(world).write(url, storage_options=json.loads(options))
        if url.endswith("/"):
            flow.stream(until="end", batch_events=flows_crash.BATCH_EVENTS)
        else:
            flow.run()


if __name__ == "__main__":
    main()
