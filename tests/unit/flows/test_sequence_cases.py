"""Cases that others have published for what a sequence does, with what their sources expect.

Where a source measures a deadline from another moment, or believes a jump at once, the test says so.
"""

from __future__ import annotations

import random

import pytest

import millstream as ms
from millstream.flows.sequence_arrivals import Arrivals
from millstream.flows.sequence_output import Sequenced

MS = 1_000
PACKET_MS = 20


def sequencer(**options: object) -> ms.Sequencer:
    return ms.Sequencer(ms.SequenceOptions(**options))  # type: ignore[arg-type]


def put(machine: ms.Sequencer, *numbers: int, at_ms: float = 0) -> Sequenced:
    return machine.feed([("k", n, None, b"") for n in numbers], now_us=round(at_ms * MS))


def ordered(out: Sequenced) -> list[int]:
    return [event.seq for event in out.ordered]


# ---- Oracle, Intelligent Event Processor, "Contiguous Order" ------------------------------------
# docs.oracle.com/cd/E19182-01/821-0139/ghjzb


def test_oracle_contiguous_order():
    machine = sequencer(start=1)
    given = {n: [] for n in range(8)}
    for place, n in enumerate((3, 2, 5, 1, 7, 4, 4, 6)):
        given[place] = ordered(put(machine, n))
    assert list(given.values()) == [[], [], [], [1, 2, 3], [], [4, 5], [], [6, 7]]
    assert (machine.counts.duplicates, machine.counts.buffered) == (1, 0)


# ---- Apache Camel, ResequencerEngineTest --------------------------------------------------------
# core/camel-core/src/test/java/org/apache/camel/processor/resequencer. "Last delivered: 2" is start=3 here.
# Its testTimeout1, where nothing was delivered, waits before the very first; a sequence begins with it.


def test_camel_timeout_2_a_gap_before_it_makes_it_wait():
    machine = sequencer(start=3, wait="500ms")
    assert ordered(put(machine, 4)) == []
    assert ordered(machine.advance(250 * MS)) == []
    assert ordered(machine.advance(500 * MS)) == [4]
    assert machine.awaited("k") == 5


def test_camel_timeout_3_the_next_one_does_not_wait():
    machine = sequencer(start=4, wait="500ms")
    assert ordered(put(machine, 4)) == [4]


def test_camel_timeout_4_what_was_missing_comes():
    machine = sequencer(start=3, wait="500ms")
    put(machine, 4)
    assert ordered(put(machine, 3)) == [3, 4]


def test_camel_timeout_after_restart():
    machine = sequencer(start=3, wait="2s")
    put(machine, 4)
    machine = ms.Sequencer.load(machine.dump(), machine.options, now_us=0)
    assert ordered(put(machine, 5)) == []
    assert ordered(machine.advance(2_000 * MS)) == [4, 5]


@pytest.mark.parametrize("order", ["random", "reverse"])
def test_camel_random_and_reverse(order: str, seed: int):
    numbers = list(range(1_000))
    if order == "random":
        random.Random(seed).shuffle(numbers)
    else:
        numbers.reverse()
    machine = sequencer(start=0, wait="1s")
    assert ordered(put(machine, *numbers)) == list(range(1_000))


# ---- aiortc, tests/test_jitterbuffer.py ---------------------------------------------------------
# Its MAX_MISORDER of 100 holds both ways. It begins anew with the first number that is too far; here, as RFC 3550
# advises, the next one has to follow.


def test_aiortc_add_ordered():
    assert ordered(put(sequencer(), 0, 1, 2, 3)) == [0, 1, 2, 3]


def test_aiortc_add_unordered():
    assert ordered(put(sequencer(), 1, 3, 2)) == [1, 2, 3]


def test_aiortc_add_seq_too_low_drop():
    machine = sequencer(late="drop")
    out = put(machine, 2, 1)
    assert ordered(out) == [2]
    assert machine.awaited("k") == 3


def test_aiortc_add_seq_too_low_reset():
    machine = sequencer()
    out = put(machine, 2_000, 1, 2)
    assert [reset.start for reset in out.resets] == [1]
    assert ordered(out) == [2_000, 1, 2]


def test_aiortc_add_seq_too_high_reset():
    machine = sequencer(max_dropout=100)
    out = put(machine, 0, 3_000, 3_001)
    assert [reset.start for reset in out.resets] == [3_000]
    assert ordered(out) == [0, 3_000, 3_001]


# ---- RFC 3550, A.1: update_seq ------------------------------------------------------------------


def test_rfc_3550_two_in_sequence_after_a_large_jump_are_a_restart_of_the_sender():
    machine = sequencer(modulo=2**16)
    put(machine, 10)
    assert put(machine, 20_000) == Sequenced(taken=1)
    assert ordered(put(machine, 11)) == [11]  # not in sequence: the jump was a stray packet
    put(machine, 20_000)
    assert [reset.start for reset in put(machine, 20_001).resets] == [20_000]


@pytest.mark.parametrize("n", [3_011, 2**16 + 11 - 100])
def test_rfc_3550_up_to_the_limits_it_is_a_loss_or_a_disorder(n: int):
    machine = sequencer(modulo=2**16)
    put(machine, 10)
    put(machine, n % 2**16)
    assert machine.counts.rejected == 0
    assert machine._keys["k"].probation is None


# ---- pion/interceptor, pkg/jitterbuffer/jitter_buffer_test.go -----------------------------------


def test_pion_appends_packets_in_order():
    machine = sequencer(modulo=2**16)
    out = put(machine, 5_000, 5_001, 5_002, 5_012)
    assert ordered(out) == [5_000, 5_001, 5_002]
    assert machine.counts.buffered == 1
    assert ordered(machine.advance(2_000 * MS)) == [5_012]


def test_pion_wraps_playout_correctly():
    """It counts modulo 65,535, so the number 65,535 is never sent."""
    sent = [(2**16 - 1 - 32 + i) % (2**16 - 1) for i in range(100)]
    machine = sequencer(modulo=2**16)
    out = put(machine, *sent)
    out.extend(machine.advance(2_000 * MS))
    assert [seq % 2**16 for seq in ordered(out)] == sent
    assert [(gap.first, gap.last) for gap in out.gaps] == [(2**16 - 1, 2**16 - 1)]


# ---- GStreamer, tests/check/elements/rtpjitterbuffer.c ------------------------------------------
# Packets of 20 ms. Its deadline is the time of the missing packet plus the latency; here it is that of the detection,
# one packet later, plus the wait. So the wait is one packet shorter. A gap of several is one record here: rule 5.


def playing(latency_ms: int, **options: object) -> tuple[ms.Sequencer, int]:
    """Its construct_deterministic_initial_state: packets on time until the latency is over; the next number."""
    machine = sequencer(modulo=2**16, wait=(latency_ms - PACKET_MS) / 1_000, **options)
    following = latency_ms // PACKET_MS + 1
    for n in range(following):
        put(machine, n, at_ms=n * PACKET_MS)
    return machine, following


def test_gstreamer_lost_event():
    machine, missing = playing(100)
    assert put(machine, missing + 1, at_ms=(missing + 1) * PACKET_MS) == Sequenced(taken=1)
    assert machine.due_us == (missing * PACKET_MS + 100) * MS
    out = machine.advance(machine.due_us)
    assert [(gap.first, gap.last) for gap in out.gaps] == [(missing, missing)]
    assert ordered(out) == [missing + 1]
    assert (machine.counts.ordered, machine.counts.lost) == (missing + 1, 1)


def test_gstreamer_only_one_lost_event_on_large_gaps():
    machine, following = playing(200)
    assert following == 11
    put(machine, 500, at_ms=10_000)
    out = machine.advance(10_200 * MS)
    assert [(gap.first, gap.last) for gap in out.gaps] == [(11, 499)]
    assert ordered(out) == [500]
    assert machine.counts.lost == 489


def test_gstreamer_late_packets_still_make_lost_events():
    """A jump of 10 s: two are lost, and the packet that is very late itself is given."""
    machine, following = playing(100)
    put(machine, following + 2, at_ms=10_000)
    out = machine.advance(10_100 * MS)
    assert ordered(out) == [following + 2]
    assert (machine.counts.ordered, machine.counts.lost) == (following + 1, 2)


def test_gstreamer_num_late_when_considered_lost_arrives():
    machine, missing = playing(100)
    put(machine, missing + 1, at_ms=(missing + 1) * PACKET_MS)
    machine.advance((missing * PACKET_MS + 100) * MS)
    assert (machine.counts.lost, machine.counts.late) == (1, 0)
    out = put(machine, missing, at_ms=missing * PACKET_MS + 101)
    assert out.late[0].event.seq == missing
    assert (machine.counts.ordered, machine.counts.lost, machine.counts.late) == (missing + 1, 1, 1)


def test_gstreamer_out_of_order_loss_not_reported():
    """The last moment is before the deadline here, and the deadline itself there."""
    machine, first = playing(100)
    put(machine, first, first + 2, at_ms=first * PACKET_MS)
    out = put(machine, first + 1, at_ms=first * PACKET_MS + 80 - 0.001)
    assert ordered(out) == [first + 1, first + 2]
    assert (machine.counts.ordered, machine.counts.lost) == (first + 3, 0)


def test_gstreamer_reorder_of_non_equidistant_packets():
    """Two packets a frame; of the second frame the second comes first: its deadline is its arrival plus the latency."""
    machine = sequencer(modulo=2**16, wait="5ms")
    assert ordered(put(machine, 0, 1)) == [0, 1]
    put(machine, 3, at_ms=20)
    assert machine.due_us == 25 * MS
    assert ordered(put(machine, 2, at_ms=25 - 0.001)) == [2, 3]


# ---- QuickFIX, test/definitions/server/fix44 ----------------------------------------------------
# A FIX engine asks at once; a sequence does after three later arrivals or the reorder time.


def test_quickfix_2b_msg_seq_num_too_high():
    """1 to 4, then 10: 5 to 9 are asked for; when they have come, 10 has its turn, and 11 goes on."""
    calls: list[tuple[int, int]] = []
    options = ms.SequenceOptions(gap="request", start=1)
    machine = ms.Sequencer(
        options, resend=lambda ranges: calls.extend((r.first, r.last) for r in ranges)
    )
    assert ordered(put(machine, 1, 2, 3, 4)) == [1, 2, 3, 4]
    assert ordered(put(machine, 10)) == []
    machine.advance(machine.due_us or 0)
    assert calls == [(5, 9)]
    assert ordered(put(machine, 5, 6, 7, 8, 9, at_ms=30)) == [5, 6, 7, 8, 9, 10]
    assert ordered(put(machine, 11, at_ms=31)) == [11]


def test_quickfix_10_msg_seq_num_greater():
    """2 is expected, and 10 and 20 come: what is asked for begins with 2."""
    options = ms.SequenceOptions(gap="request", start=1)
    machine = ms.Sequencer(options)
    put(machine, 1, 10, 20)
    out = machine.advance(machine.due_us or 0)
    assert [(request.first, request.last) for request in out.requests] == [(2, 9), (11, 19)]


def test_quickfix_2e_poss_dup_already_received():
    machine = sequencer(start=1)
    out = put(machine, 1, 2, 2, 3, 4)
    assert ordered(out) == [1, 2, 3, 4]
    assert [duplicate.event.seq for duplicate in out.duplicates] == [2]


# ---- WebRTC, NetEq: delay_manager_unittest.cc, UpdateNormal -------------------------------------


def test_neteq_update_normal():
    """Fifty packets of 20 ms without delay: the target is 20 ms."""
    arrivals = Arrivals(2_000 * MS)
    for n in range(50):
        arrivals.observe(n * PACKET_MS * MS, n * PACKET_MS * MS, 0)
    assert arrivals.wait_us == 20 * MS


def test_neteq_before_there_is_a_figure_the_target_is_80_ms():
    assert Arrivals(2_000 * MS).wait_us == 80 * MS
