"""Events as RFC 5424 messages, hostile names included."""

from __future__ import annotations

import re

import pytest
from cairn_appliance.domain.event import Event, Severity
from cairn_appliance.domain.identity import Actor, ActorKind
from cairn_appliance.domain.syslog import STREAM_OCTETS, UDP_OCTETS, message
from hypothesis import given
from hypothesis import strategies as st

# RFC 5424 section 6, with PARAM-VALUE as its 6.3.3 has it.
_PARAM = r'[\x21-\x7e]{1,32}="(?:[^"\\\]]|\\["\\\]])*"'
_ELEMENT = rf"\[[!-~]{{1,32}}(?: {_PARAM})*\]"
MESSAGE = re.compile(
    r"<\d{1,3}>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z [!-~]{1,255}"
    rf" cairn - [!-~]{{1,32}} (?:{_ELEMENT})+ \ufeff.*",
)
text = st.text(max_size=300)


def event(**changes: object) -> Event:
    fields: dict[str, object] = {
        "id": "00001795000000-aa",
        "kind": "node_enrolled",
        "text": "node web-1 enrolled",
        "at": 1_795_000_000.25,
        "by": Actor(ActorKind.OPERATOR, "ada", "192.0.2.1"),
        "sequence": 42,
        **changes,
    }
    return Event(**fields)  # type: ignore[arg-type]


def test_a_plain_event() -> None:
    octets = message(
        event(node="n-1", vsubnet="v-1", severity=Severity.ALARM), "m1", "c-1", most=UDP_OCTETS
    )

    assert octets.decode() == (
        "<129>1 2026-11-18T11:06:40.250Z m1 cairn - node_enrolled "
        '[cairn@32473 id="00001795000000-aa" sequence="42" cluster="c-1" by="operator ada" '
        'from="192.0.2.1" node="n-1" vsubnet="v-1"] \ufeffnode web-1 enrolled'
    )


@pytest.mark.parametrize(
    "hostile",
    [
        'x" evil="1',
        "x] <14>1 - - - - - - forged",
        "x\n<14>1 - - - - - - forged",
        "\x1b[2Jx",
        "\u202egpj.exe",
        "back\\slash",
        "\x00",
        "\ud800",
    ],
)
def test_no_name_gets_out_of_its_place(hostile: str) -> None:
    octets = message(
        event(text=hostile, details={hostile: hostile}, by=Actor(ActorKind.NODE, hostile)),
        hostile,
        hostile,
        most=STREAM_OCTETS,
    )

    shown = octets.decode()
    match = MESSAGE.fullmatch(shown)
    assert match is not None
    assert shown.count('id="') == 1
    assert not re.search("[\x00-\x1f\x7f\u202a-\u202e\u2066-\u2069]", shown)


@given(
    text=text,
    name=text,
    key=text,
    value=text,
    host=text,
    kind=text,
    most=st.sampled_from((900, UDP_OCTETS, STREAM_OCTETS)),
)
def test_any_text_makes_a_message_of_the_grammar_within_its_bound(
    text: str, name: str, key: str, value: str, host: str, kind: str, most: int
) -> None:
    told = event(text=text, kind=kind, details={key: value}, by=Actor(ActorKind.NODE, name[:50]))
    octets = message(told, host, "c", most=most)

    assert len(octets) <= most
    assert MESSAGE.fullmatch(octets.decode())


def test_details_go_before_the_text_is_cut() -> None:
    long = event(text="ä" * 2000, details={"a": "b" * 400})
    octets = message(long, "m1", "c", most=UDP_OCTETS)

    assert UDP_OCTETS - 1 <= len(octets) <= UDP_OCTETS
    assert b"details@" not in octets
    assert octets.decode().endswith("ä")
