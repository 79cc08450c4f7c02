"""Lines that nodes send up the stream's connection: a bounded number of a bounded length."""

from __future__ import annotations

import random

import msgspec
from cairn_agent.protocol import acks
from cairn_agent.protocol.enrolment import AckRequest
from cairn_agent.protocol.telemetry import LINE_MAX_OCTETS, Report
from cairn_appliance.api.agent_v1.lines import ACKS_BURST, BURST, OCTETS_BURST, TOO_MANY, Lines

from tests.unit.appliance.replica import FakeClock


class Coming:
    """Takes lines."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.lines: list[bytes] = []
        self.is_aborted = False
        self.reader = Lines(self.lines.append, self._abort, self.clock)

    def _abort(self) -> None:
        self.is_aborted = True


def test_lines_come_whole_however_they_are_cut() -> None:
    dice, sent = random.Random(1), [b"a" * n for n in range(1, 8)]
    octets, coming = b"".join(line + b"\n" for line in sent), Coming()
    while octets:
        cut = dice.randrange(1, 6)
        coming.reader.feed(octets[:cut])
        octets = octets[cut:]
    assert coming.lines == sent


def test_a_line_that_does_not_end_ends_the_connection() -> None:
    coming = Coming()
    coming.reader.feed(b"x" * LINE_MAX_OCTETS)
    assert not coming.is_aborted
    coming.reader.feed(b"x")
    assert coming.is_aborted
    coming.reader.feed(b"\nmore\n")
    assert coming.lines == []


def test_lines_beyond_the_budget_are_passed_over_and_then_the_node_is_cut_off() -> None:
    coming = Coming()
    coming.reader.feed(b"x\n" * 50)
    assert (len(coming.lines), coming.is_aborted) == (BURST, False)
    coming.clock.now += 3
    coming.reader.feed(b"x\n" * 10)
    assert len(coming.lines) == BURST + 3
    coming.reader.feed(b"x\n" * TOO_MANY)
    assert coming.is_aborted


def test_a_node_that_sends_too_much_is_cut_off() -> None:
    coming = Coming()
    for _ in range(OCTETS_BURST // 60_000 + 1):
        coming.reader.feed(b"x" * 59_999 + b"\n")
    assert coming.is_aborted


def test_an_agent_that_keeps_to_its_pace_is_never_cut_off() -> None:
    coming = Coming()
    for _ in range(600):
        coming.reader.feed(b"x" * 30_000 + b"\n")
        coming.clock.now += 1
    assert len(coming.lines) == 600
    assert not coming.is_aborted


def test_acknowledgements_have_a_budget_of_their_own() -> None:
    ack, coming = acks.encode(AckRequest(5, 1)), Coming()
    coming.reader.feed(b"x\n" * (int(BURST) + 5) + ack)
    assert coming.lines[-1] + b"\n" == ack, "reports that are passed over cost none"
    coming.reader.feed(ack * (int(ACKS_BURST) + 20) + b"x\n")
    assert len(coming.lines) == BURST + ACKS_BURST
    for _ in range(600):
        coming.clock.now += acks.APART_S
        coming.reader.feed(ack)
    assert len(coming.lines) == BURST + ACKS_BURST + 600
    assert not coming.is_aborted


def test_a_report_is_no_acknowledgement() -> None:
    assert acks.encode(AckRequest(5, 1)).startswith(acks.BEGINS)
    assert acks.decode(acks.encode(AckRequest(5, 1, {"node": "aa"}))).digests == {"node": "aa"}
    assert not msgspec.json.encode(Report(full=True)).startswith(acks.BEGINS)
