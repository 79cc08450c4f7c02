"""Prefixes, ranges, candidates, MAC addresses."""

from __future__ import annotations

import ipaddress
import itertools
import uuid
from dataclasses import replace

import pytest
from cairn_appliance.domain.addressing import (
    candidates,
    checked_reserved,
    checked_shared,
    checked_static,
)
from cairn_appliance.domain.errors import Invalid
from cairn_appliance.domain.member import derived_mac
from cairn_appliance.domain.vsubnet import (
    Policy,
    Psks,
    VSubnet,
    checked_mtu,
    checked_policy,
    checked_prefixes,
)
from hypothesis import given
from hypothesis import strategies as st

V4 = ipaddress.ip_network("10.7.0.0/28")
VSUBNET = VSubnet("v", 7, "red", 0.0, ("10.7.0.0/28", "fd00:7::/64"))


def test_candidates_leave_out_network_router_broadcast_reserved_and_taken() -> None:
    free = list(candidates(V4, ("10.7.0.4-10.7.0.9",), {"10.7.0.3"}))
    assert free == ["10.7.0.2", *(f"10.7.0.{host}" for host in range(10, 15))]


@given(
    st.lists(st.tuples(st.integers(0, 15), st.integers(0, 15)), max_size=4),
    st.sets(st.integers(0, 15)),
)
def test_candidates_are_what_a_naive_search_finds(
    pairs: list[tuple[int, int]], taken: set[int]
) -> None:
    ranges = [(min(pair), max(pair)) for pair in pairs]
    reserved = tuple(f"10.7.0.{first}-10.7.0.{last}" for first, last in ranges)
    inside = {host for first, last in ranges for host in range(first, last + 1)}
    expected = [f"10.7.0.{host}" for host in range(2, 15) if host not in inside | taken]
    assert list(candidates(V4, reserved, {f"10.7.0.{host}" for host in taken})) == expected


def test_a_large_prefix_costs_no_more_than_what_is_asked_for() -> None:
    network = ipaddress.ip_network("fd00::/8")
    first = itertools.islice(candidates(network, ("fd00::2-fd00:ffff::",), set()), 2)
    assert list(first) == ["fd00:ffff::1", "fd00:ffff::2"]


@pytest.mark.parametrize(
    "prefixes",
    [
        ("10.7.0.1/24",),
        ("10.7.0.0/31",),
        ("10.0.0.0/7",),
        ("224.0.0.0/8",),
        ("127.0.0.0/8",),
        ("fe80::/64",),
        ("nonsense",),
        ("10.7.0.0/24", "10.8.0.0/24"),
    ],
)
def test_prefixes_that_cannot_be_are_refused(prefixes: tuple[str, ...]) -> None:
    with pytest.raises(Invalid):
        checked_prefixes(prefixes)


def test_prefixes_come_out_canonical_with_ipv4_first() -> None:
    assert checked_prefixes(("fd00:0:0::/64", "10.7.0.0/24")) == ("10.7.0.0/24", "fd00::/64")


@pytest.mark.parametrize("text", ["10.7.0.9-10.7.0.4", "10.8.0.1", "10.7.0.1-fd00::1", "x"])
def test_reserved_ranges_that_cannot_be_are_refused(text: str) -> None:
    with pytest.raises(Invalid):
        checked_reserved((text,), ("10.7.0.0/24",))


@pytest.mark.parametrize("ip", ["10.7.0.0", "10.7.0.15", "10.9.0.1", "fd00:7::", "x", "fe80::1%e"])
def test_static_addresses_outside_the_prefix_or_of_the_network_are_refused(ip: str) -> None:
    with pytest.raises(Invalid):
        checked_static(VSUBNET, (ip,))


def test_a_member_has_one_static_address_of_each_family() -> None:
    assert checked_static(VSUBNET, ("fd00:7:0::9", "10.7.0.9")) == ("10.7.0.9", "fd00:7::9")
    with pytest.raises(Invalid):
        checked_static(VSUBNET, ("10.7.0.8", "10.7.0.9"))


@given(st.uuids(), st.integers(1, (1 << 24) - 1), st.integers(0, 7))
def test_a_mac_is_unicast_locally_administered_and_always_the_same(
    node: uuid.UUID, vni: int, attempt: int
) -> None:
    mac = derived_mac(str(node), vni, attempt)
    assert int(mac[:2], 16) & 0b11 == 0b10
    assert mac == derived_mac(str(node), vni, attempt)
    assert mac != derived_mac(str(node), vni, attempt + 1)


@pytest.mark.parametrize("mtu", [0, 1279, 9001])
def test_mtus_that_cannot_be_are_refused(mtu: int) -> None:
    with pytest.raises(Invalid):
        checked_mtu(mtu)


@pytest.mark.parametrize(
    "policy",
    [Policy(bum_pps=0), Policy(bum_burst=-1), Policy(ageing_s=1), Policy(offline_trust_s=3600)],
)
def test_policies_that_make_no_sense_are_refused(policy: Policy) -> None:
    with pytest.raises(Invalid):
        checked_policy(policy)


def test_shared_addresses_come_out_canonical_and_are_no_members_own() -> None:
    prefixes = ("10.7.0.0/28", "fd00:7::/64")
    shared = checked_shared(("fd00:7:0::9", "10.7.0.9", "10.7.0.9"), prefixes)
    assert shared == ("10.7.0.9", "fd00:7::9")
    vsubnet = replace(VSUBNET, policy=Policy(shared_ips=shared))
    with pytest.raises(Invalid, match="shared"):
        checked_static(vsubnet, ("10.7.0.9",))
    assert checked_static(vsubnet, ("10.7.0.8",)) == ("10.7.0.8",)


@pytest.mark.parametrize("ip", ["10.7.0.0", "10.7.0.15", "10.9.0.1", "x", ""])
def test_shared_addresses_that_no_host_can_have_are_refused(ip: str) -> None:
    with pytest.raises(Invalid):
        checked_shared((ip,), ("10.7.0.0/28",))


def test_the_old_epoch_is_accepted_for_the_overlap_and_no_longer() -> None:
    psks = Psks("v", ()).rotated("a", 100.0, 600.0).rotated("b", 200.0, 600.0)
    assert [(psk.epoch, psk.sealed) for psk in psks.epochs] == [(2, "b"), (1, "a")]
    assert [psk.epoch for psk in psks.unexpired(799.0).epochs] == [2, 1]
    assert [psk.epoch for psk in psks.unexpired(800.0).epochs] == [2]


def test_revoke_now_leaves_no_old_epoch() -> None:
    psks = Psks("v", ()).rotated("a", 100.0, 600.0).rotated("b", 200.0, 0.0)
    assert [psk.epoch for psk in psks.epochs] == [2]


def test_epochs_wrap_past_zero_which_means_no_secret() -> None:
    psks = Psks("v", ())
    for _ in range(0x10000):
        psks = psks.rotated("s", 0.0, 0.0)
    assert psks.epochs[0].epoch == 1
