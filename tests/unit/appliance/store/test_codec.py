"""Values in the store: versioned, and a broken one stops nothing (BI-15)."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field

import pytest
from cairn_appliance.store.codec import Broken, Codec, Quarantine
from cairn_appliance.store.port import Item
from hypothesis import given
from hypothesis import strategies as st


@dataclass(frozen=True, slots=True)
class Thing:
    name: str
    sizes: tuple[int, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)


codec = Codec(Thing)


def item(value: bytes, revision: int = 7) -> Item:
    return Item("/t/a", value, revision, 1)


@given(
    st.builds(
        Thing,
        st.text(),
        st.lists(st.integers(-(2**53), 2**53)).map(tuple),
        st.dictionaries(st.text(), st.text()),
    )
)
def test_what_was_encoded_comes_back(thing: Thing) -> None:
    assert codec.decode(item(codec.encode(thing))) == thing


def test_a_value_says_its_schema_version() -> None:
    assert json.loads(codec.encode(Thing("a")))["v"] == 1


def test_unknown_fields_are_ignored_and_missing_ones_take_their_default() -> None:
    assert codec.decode(item(b'{"v": 1, "name": "a", "new": [1]}')) == Thing("a")


@given(st.binary() | st.text().map(str.encode))
def test_any_octets_are_decoded_or_broken_and_nothing_else(octets: bytes) -> None:
    try:
        codec.decode(item(octets))
    except Broken as broken:
        assert broken.key == "/t/a"


@pytest.mark.parametrize(
    ("octets", "reason"),
    [
        (b"", "truncated"),
        (b'{"v": 1, "name": "a"', "truncated"),
        (b"[]", "object"),
        (b'{"name": "a"}', "no schema version"),
        (b'{"v": true, "name": "a"}', "no schema version"),
        (b'{"v": 0, "name": "a"}', "no schema version"),
        (b'{"v": 2, "name": "a"}', "newer"),
        (b'{"v": 1}', "name"),
        (b'{"v": 1, "name": 5}', "str"),
        (b"\xff\xfe", "malformed"),
        (b"[" * 100_000, ""),
    ],
)
def test_what_cannot_be_read_is_broken_with_the_reason(octets: bytes, reason: str) -> None:
    with pytest.raises(Broken) as caught:
        codec.decode(item(octets))
    assert reason in caught.value.reason


def test_an_old_version_is_upgraded_step_by_step() -> None:
    steps = {
        1: lambda fields: {**fields, "title": fields["t"]},
        2: lambda fields: {**fields, "name": fields["title"]},
    }
    third = Codec(Thing, 3, steps)
    assert third.decode(item(b'{"v": 1, "t": "a"}')) == Thing("a")
    assert third.decode(item(b'{"v": 2, "title": "b"}')) == Thing("b")
    with pytest.raises(Broken):  # the upgrade itself fails
        third.decode(item(b'{"v": 1}'))


def test_a_codec_that_lacks_an_upgrade_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="version 1"):
        Codec(Thing, 3, {2: lambda fields: fields})


def test_a_broken_object_is_left_out_told_once_and_forgotten_when_whole(
    caplog: pytest.LogCaptureFixture,
) -> None:
    quarantine = Quarantine()
    good = Item("/t/b", codec.encode(Thing("b")), 3, 3)
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            assert list(codec.decode_all([item(b"{"), good], quarantine)) == [Thing("b")]
    assert list(quarantine.broken) == ["/t/a"]
    assert len(caplog.records) == 1
    whole = item(codec.encode(Thing("a")), 8)
    assert list(codec.decode_all([whole], quarantine)) == [Thing("a")]
    assert not quarantine.broken
