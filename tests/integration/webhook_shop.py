"""An app that takes webhooks; the environment names its store, and the step at which it is killed."""

from __future__ import annotations

import os

import millstream as ms
from tests.integration.flows_crash import kill_at

app = ms.App("shop", store=os.environ["WEBHOOK_STORE"])
orders = app.topic(
    "orders", schema={"k": str, "n": int, "at": ms.Timestamp | None}, key="k", partitions=2
)

if "WEBHOOK_KILL" in os.environ:
    step, nth = os.environ["WEBHOOK_KILL"].split(":")
    kill_at(step, int(nth))
