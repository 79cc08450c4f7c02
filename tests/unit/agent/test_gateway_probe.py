"""Loop probes: what goes in comes out, and nothing else does."""

from __future__ import annotations

import inspect

from cairn_agent.gateway import probe as module
from cairn_agent.gateway.probe import (
    MAX_ACKNOWLEDGED,
    MAX_STATIONS,
    Heard,
    Probe,
    decode,
    decode_stations,
    encode,
    encode_stations,
)
from hypothesis import given
from hypothesis import strategies as st

KEY = bytes(range(32))
_U64 = st.integers(0, 2**64 - 1)
_HEARD = st.builds(Heard, st.uuids().map(str), _U64, _U64)
_PROBES = st.builds(
    Probe,
    side=st.sampled_from(["lan", "overlay"]),
    segment=st.uuids().map(str),
    node=st.uuids().map(str),
    boot=_U64,
    sequence=_U64,
    term=_U64,
    role=st.sampled_from(["standby", "forwarder"]),
    acknowledged=st.lists(_HEARD, max_size=MAX_ACKNOWLEDGED).map(tuple),
)


@given(_PROBES)
def test_what_is_encoded_is_decoded_the_same(probe: Probe) -> None:
    assert decode(encode(probe, KEY), KEY) == probe


@given(_PROBES, st.data())
def test_a_flipped_bit_makes_it_nothing(probe: Probe, data: st.DataObject) -> None:
    octets = bytearray(encode(probe, KEY))
    bit = data.draw(st.integers(0, len(octets) * 8 - 1))
    octets[bit // 8] ^= 1 << bit % 8
    assert decode(bytes(octets), KEY) is None


@given(_PROBES, st.data())
def test_a_part_of_it_or_more_than_it_is_nothing(probe: Probe, data: st.DataObject) -> None:
    octets = encode(probe, KEY)
    length = data.draw(st.integers(0, len(octets) - 1))
    assert decode(octets[:length], KEY) is None
    assert decode(octets + data.draw(st.binary(min_size=1, max_size=64)), KEY) is None


@given(st.binary(max_size=1600))
def test_what_is_no_probe_is_nothing(octets: bytes) -> None:
    assert decode(octets, KEY) is None


@given(_PROBES)
def test_another_key_makes_it_nothing(probe: Probe) -> None:
    assert decode(encode(probe, KEY), bytes(32)) is None


def test_no_more_are_acknowledged_than_fit() -> None:
    one = Heard("00000000-0000-4000-8000-000000000001", 1, 1)
    probe = Probe("lan", one.node, one.node, 1, 1, 1, "standby", (one,) * 40)
    decoded = decode(encode(probe, KEY), KEY)
    assert decoded is not None and len(decoded.acknowledged) == MAX_ACKNOWLEDGED
    assert len(encode(probe, KEY)) <= 1280


def test_the_tag_is_compared_in_constant_time() -> None:
    assert "hmac.compare_digest" in inspect.getsource(module.decode)


_MACS = st.lists(st.binary(min_size=6, max_size=6).map(lambda mac: mac.hex(":")), max_size=300)


@given(_PROBES, _MACS, st.data())
def test_stations_come_out_as_they_went_in_and_never_changed(
    probe: Probe, macs: list[str], data: st.DataObject
) -> None:
    octets = encode_stations(probe, macs, KEY)
    said = decode_stations(octets, KEY)
    assert said is not None and said[1] == macs[:MAX_STATIONS] and said[0].node == probe.node
    assert decode(octets, KEY) is None and decode_stations(encode(probe, KEY), KEY) is None
    changed = bytearray(octets)
    bit = data.draw(st.integers(0, len(octets) * 8 - 1))
    changed[bit // 8] ^= 1 << bit % 8
    assert decode_stations(bytes(changed), KEY) is None
    assert decode_stations(octets[: data.draw(st.integers(0, len(octets) - 1))], KEY) is None
