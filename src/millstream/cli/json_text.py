"""What ``--json`` prints."""

from __future__ import annotations

import json
import math


def json_text(value: object) -> str:
    """Return values as JSON text. It has no NaN and nothing infinite: they are null."""
    return json.dumps(_finite(value), indent=2, allow_nan=False)


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
