"""Names, IDs, labels, endpoints: what comes from outside."""

from __future__ import annotations

import pytest
from cairn_appliance.domain.errors import Invalid
from cairn_appliance.domain.identity import checked_labels, checked_name, checked_node_id
from cairn_appliance.domain.node import Registration
from cairn_appliance.domain.token import Token, secret_hash
from cairn_appliance.services.enrolment import host_name
from cairn_appliance.services.registry import checked_endpoints
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize("name", ["", "-a", "a-", "a b", "a/b", "ä", "a" * 64, "../x", "a\n"])
def test_names_that_files_and_urls_cannot_carry_are_refused(name: str) -> None:
    with pytest.raises(Invalid):
        checked_name(name, "vSubnet")


@pytest.mark.parametrize(
    "text",
    ["", "x", "0F7B5E0E-5B0E-4A53-9F6E-0D6B6C2A1D11", "{0f7b5e0e-5b0e-4a53-9f6e-0d6b6c2a1d11}"],
)
def test_a_node_id_is_a_uuid_in_lower_case(text: str) -> None:
    with pytest.raises(Invalid):
        checked_node_id(text)


def test_too_many_or_too_long_labels_are_refused() -> None:
    with pytest.raises(Invalid):
        checked_labels({f"k{number}": "v" for number in range(33)})
    with pytest.raises(Invalid):
        checked_labels({"k": "v" * 129})


@given(st.text())
def test_any_host_name_becomes_one_that_can_be_shown(name: str) -> None:
    shown = host_name(name, "0f7b5e0e-5b0e-4a53-9f6e-0d6b6c2a1d11")
    assert checked_name(shown, "node") == shown


@given(st.text(max_size=40))
def test_any_endpoint_is_taken_in_canonical_form_or_refused(text: str) -> None:
    try:
        checked = checked_endpoints((text,))
    except Invalid:
        return
    assert checked_endpoints(checked) == checked


def test_endpoints_that_no_peer_can_reach_are_left_out() -> None:
    texts = ("127.0.0.1:8002", "[fe80::1]:8002", "192.0.2.7:8002", "[2001:DB8:0::7]:8002")
    assert checked_endpoints(texts) == ("192.0.2.7:8002", "[2001:db8::7]:8002")


@pytest.mark.parametrize("text", ["192.0.2.7", "192.0.2.7:0", "192.0.2.7:65536", "host:8002"])
def test_endpoints_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(Invalid):
        checked_endpoints((text,))


@pytest.mark.parametrize(
    ("seen", "candidates"),
    [
        ("", ("10.0.0.5:8002",)),
        ("10.0.0.5", ("10.0.0.5:8002",)),
        ("203.0.113.9", ("10.0.0.5:8002", "203.0.113.9:8002")),
        ("2001:db8::9", ("10.0.0.5:8002", "[2001:db8::9]:8002")),
    ],
)
def test_peers_also_try_the_address_that_the_appliance_saw(
    seen: str, candidates: tuple[str, ...]
) -> None:
    registration = Registration("n", endpoints=("10.0.0.5:8002",), seen_address=seen)
    assert registration.candidates == candidates


def test_a_token_matches_its_secret_alone() -> None:
    token = Token("t1", secret_hash("t1", "secret"), 0.0, "admin", 1.0)
    assert token.matches("secret")
    assert not token.matches("Secret")
    assert not Token("t2", token.secret_hash, 0.0, "admin", 1.0).matches("secret")
