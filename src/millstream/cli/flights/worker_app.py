"""What the demo's workers import: ``millstream worker -A millstream.cli.flights.worker_app:app``."""

from __future__ import annotations

import os

import millstream as ms
from millstream.cli.flights.office import STORE_VARIABLE, declare

app = ms.App("flights", store=os.environ.get(STORE_VARIABLE))
office = declare(app)
