"""Acknowledgements that go up the netmap stream: docs/protocol.md section 3.7.

A connection of its own for each, as `POST /agent/v1/ack` needs, costs a handshake with two
certificates; on the stream's own it is a line.
"""

from __future__ import annotations

import msgspec

from cairn_agent.protocol.enrolment import AckRequest

HEADER = "cairn-acks"  # of the stream's answer: the version that the appliance reads
VERSION = 1
APART_S = 0.5  # between two of them, at least
BEGINS = b'{"type":"ack",'  # each of them; no other line does


class _Line(AckRequest, frozen=True, tag_field="type", tag="ack"):
    """An acknowledgement as a line."""


def encode(ack: AckRequest) -> bytes:
    """Return the line."""
    return msgspec.json.encode(_Line(**msgspec.structs.asdict(ack))) + b"\n"


def decode(line: bytes) -> AckRequest:
    """Return what a line says that begins as one; raise msgspec.MsgspecError."""
    return _decoder.decode(line)


_decoder = msgspec.json.Decoder(_Line)
