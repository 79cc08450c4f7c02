"""Where objects lie: each in its own place, whatever their names are."""

from __future__ import annotations

import pytest
from cairn_appliance.store import keys
from hypothesis import given
from hypothesis import strategies as st


def test_netmaps_are_made_of_what_lies_under_one_prefix() -> None:
    made = [
        keys.site("s"),
        keys.vsubnet("v"),
        keys.psks("v"),
        keys.node("n"),
        keys.registration("n"),
        keys.member("v", "n"),
    ]
    assert all(key.startswith(keys.MAP) for key in made)
    others = [keys.token("t"), keys.user("u"), keys.ip("v", "10.0.0.1"), keys.CLUSTER_INFO]
    assert not any(key.startswith(keys.MAP) for key in others)
    assert len(set(made)) == len(made)


def test_the_members_of_a_vsubnet_are_not_those_of_one_with_a_longer_id() -> None:
    assert not keys.member("v1", "n").startswith(keys.members_of("v"))


@pytest.mark.parametrize("text", ["", "a/b", "../x", "a\n", "ü", "a b", "-a", "a" * 129, "/"])
def test_what_could_leave_its_place_is_no_id(text: str) -> None:
    for key_of in (keys.node, keys.vsubnet, keys.token, keys.user, keys.session, keys.event):
        with pytest.raises(ValueError, match="not an ID"):
            key_of(text)


@given(st.text())
def test_any_name_stays_in_its_place_or_is_refused(text: str) -> None:
    try:
        key = keys.name("vsubnet", text)
    except ValueError:
        return
    assert key.count("/") == keys.NAMES.count("/") + 1
    assert key.isascii()
    assert key.startswith(keys.NAMES + "vsubnet/")


@pytest.mark.parametrize(
    ("one", "other"),
    [("Office", "oFFICE"), ("Straße", "STRASSE"), ("ﬁbre", "fibre"), (" lab ", "lab")],
)
def test_names_that_look_alike_are_the_same_name(one: str, other: str) -> None:
    assert keys.name("site", one) == keys.name("site", other)
    assert keys.name("site", one) != keys.name("vsubnet", one)


def test_a_name_of_nothing_visible_is_refused() -> None:
    with pytest.raises(ValueError, match="visible"):
        keys.name("site", "  ")


@pytest.mark.parametrize("number", [0, -1, 1 << 24])
def test_a_vni_has_24_bits_and_is_not_zero(number: int) -> None:
    with pytest.raises(ValueError, match="VNI"):
        keys.vni(number)


def test_an_address_has_one_key_however_it_is_written() -> None:
    assert keys.ip("v", "2001:DB8:0:0::1") == keys.ip("v", "2001:db8::1")
    assert keys.mac("v", "02:AB:00:00:00:01") == keys.mac("v", "02:ab:00:00:00:01")
    for wrong in ("10.0.0.1/24", "10.0.0", "", "10.0.0.1 "):
        with pytest.raises(ValueError, match="address"):
            keys.ip("v", wrong)
    for wrong in ("02:ab", "02-ab-00-00-00-01", "02:ab:00:00:00:01\n"):
        with pytest.raises(ValueError, match="MAC"):
            keys.mac("v", wrong)
