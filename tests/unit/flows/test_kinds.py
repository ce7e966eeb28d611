"""What the types of the outside become inside a flow."""

from __future__ import annotations

import pyarrow as pa
import pytest

from millstream.flows.kinds import unified, widened
from millstream.primitives.schema import TIMESTAMP


@pytest.mark.parametrize(
    ("outside", "inside"),
    [
        (pa.int8(), pa.int64()),
        (pa.uint64(), pa.int64()),
        (pa.float32(), pa.float64()),
        (pa.large_string(), pa.string()),
        (pa.string_view(), pa.string()),
        (pa.dictionary(pa.int32(), pa.string()), pa.string()),
        (pa.timestamp("ns"), TIMESTAMP),
        (pa.timestamp("s", "Europe/Berlin"), TIMESTAMP),
        (pa.duration("ns"), pa.duration("us")),
        (pa.date64(), pa.date32()),
        (pa.large_binary(), pa.binary()),
        (pa.list_(pa.int8()), pa.list_(pa.int8())),
    ],
    ids=str,
)
def test_widening(outside: pa.DataType, inside: pa.DataType):
    assert widened(outside) == inside


def test_two_types_meet_only_if_one_holds_both():
    assert unified(pa.int64(), pa.float64()) == pa.float64()
    assert unified(pa.null(), pa.string()) == pa.string()
    assert unified(pa.int64(), pa.string()) is None
