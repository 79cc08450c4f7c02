"""Which of a machine's addresses are its underlay, and what is the agent's own."""

from __future__ import annotations

import ipaddress

import pytest
from cairn_agent.host.network import (
    IFA_F_DEPRECATED,
    IFA_F_TEMPORARY,
    IFA_F_TENTATIVE,
    IFF_LOOPBACK,
    IFF_UP,
    Address,
    Link,
    Network,
)
from cairn_agent.membership import _is_translated

TAP = 9


def link(index: int, name: str, **changes: object) -> Link:
    values: dict[str, object] = {
        "index": index,
        "name": name,
        "kind": "",
        "mac": f"02:00:00:00:01:{index:02x}",
        "mtu": 1500,
        "flags": IFF_UP,
        "alias": "",
        "over": 0,
        "master": 0,
    }
    return Link(**(values | changes))  # type: ignore[arg-type]


def address(index: int, text: str, flags: int = 0) -> Address:
    return Address(index, ipaddress.ip_interface(text), flags, 0)


LO = link(1, "lo", flags=IFF_UP | IFF_LOOPBACK, mac="00:00:00:00:00:00")
ETH = link(2, "eth0")
OWN = link(TAP, "cairn7", kind="tun", alias="cairn-agent: vSubnet 7")


def endpoints(*addresses: Address, links: tuple[Link, ...] = ()) -> tuple[str, ...]:
    return Network((LO, ETH, OWN, *links), addresses).endpoints(8002, ["10.7.0.0/24", "fd07::/64"])


def test_both_families_are_offered_in_a_stable_order() -> None:
    found = endpoints(address(2, "2001:db8::7/64"), address(2, "192.0.2.7/24"))
    assert found == ("192.0.2.7:8002", "[2001:db8::7]:8002")


@pytest.mark.parametrize(
    "unfit",
    [
        pytest.param(address(1, "127.0.0.1/8"), id="loopback"),
        pytest.param(address(2, "169.254.1.1/16"), id="IPv4 link-local"),
        pytest.param(address(2, "fe80::1/64"), id="IPv6 link-local"),
        pytest.param(address(2, "2001:db8::8/64", IFA_F_TENTATIVE), id="tentative"),
        pytest.param(address(2, "2001:db8::8/64", IFA_F_DEPRECATED), id="deprecated"),
        pytest.param(address(2, "2001:db8::8/64", IFA_F_TEMPORARY), id="temporary"),
        pytest.param(address(TAP, "192.0.2.8/24"), id="on an own TAP"),
        pytest.param(address(2, "10.7.0.9/24"), id="inside an own vSubnet, on another interface"),
        pytest.param(address(2, "fd07::9/64"), id="inside an own vSubnet, IPv6"),
    ],
)
def test_an_address_that_peers_cannot_use_is_not_offered(unfit: Address) -> None:
    assert endpoints(address(2, "192.0.2.7/24"), unfit) == ("192.0.2.7:8002",)


def test_a_secondary_ipv4_address_is_offered() -> None:
    assert endpoints(address(2, "192.0.2.7/24", IFA_F_TEMPORARY)) == ("192.0.2.7:8002",)


def test_an_interface_that_is_down_offers_nothing() -> None:
    down = link(3, "eth1", flags=0)
    assert endpoints(address(3, "192.0.2.7/24"), links=(down,)) == ()


def test_what_is_stacked_on_a_tap_is_overlay_too() -> None:
    """TAP in a bridge, VLAN on the bridge: their addresses are not the underlay's."""
    bridge = link(20, "br0", kind="bridge")
    tap = link(21, "cairn8", kind="tun", alias="cairn-agent: vSubnet 8", master=20)
    vlan = link(22, "br0.5", kind="vlan", over=20)
    network = Network((LO, ETH, bridge, tap, vlan), (address(22, "192.0.2.8/24"),))
    assert network.overlay_indexes() == {20, 21, 22}
    assert network.endpoints(8002) == ()


def test_a_gateways_bridge_may_have_the_hosts_own_address() -> None:
    bridge = link(20, "cbr8", kind="bridge", alias="cairn-agent: gateway of vSubnet 8")
    tap = link(21, "cairn8", kind="tun", alias="cairn-agent: vSubnet 8", master=20)
    network = Network((LO, ETH, bridge, tap), (address(20, "192.0.2.8/24"),))
    assert network.overlay_indexes() == {21}
    assert network.endpoints(8002) == ("192.0.2.8:8002",)


@pytest.mark.parametrize(
    ("other", "is_own"),
    [
        (link(9, "cairn7", kind="tun", alias="cairn-agent: vSubnet 7"), True),
        (link(9, "cairn7", kind="tun"), False),
        (link(9, "tap0", kind="tun", alias="cairn-agent: vSubnet 7"), False),
        (link(9, "cairn7", kind="veth", alias="cairn-agent: vSubnet 7"), False),
    ],
)
def test_own_is_what_bears_name_kind_and_mark(other: Link, is_own: bool) -> None:
    assert other.is_own is is_own


def test_the_first_mac_is_no_tap_and_no_loopback() -> None:
    assert Network((LO, OWN, ETH)).first_mac() == ETH.mac
    assert Network((LO, OWN)).first_mac() == ""


@pytest.mark.parametrize(
    ("seen", "behind_nat"),
    [
        ("192.0.2.7", False),
        ("192.0.2.7:40000", False),
        ("198.51.100.1", True),
        ("198.51.100.1:40000", True),
        ("2001:db8::7", False),
        ("[2001:db8::7]:40000", False),
        ("2001:db8::99", True),
        ("127.0.0.1", False),
        ("::1", False),
        ("", False),
    ],
)
def test_a_nat_is_told_by_an_address_that_we_do_not_have(seen: str, behind_nat: bool) -> None:
    network = Network((ETH,), (address(2, "192.0.2.7/24"), address(2, "2001:db8::7/64")))
    assert _is_translated(seen, network) is behind_nat


def test_the_interface_with_most_room_says_what_an_inner_packet_may_be() -> None:
    jumbo = link(3, "eth1", mtu=9001)
    both = (LO, ETH, OWN, jumbo)
    v4, v6 = address(2, "192.0.2.7/24"), address(3, "2001:db8::7/64")
    assert Network(both, (v4,)).carried_mtu() == 1500 - 28 - 52
    assert Network(both, (v4, v6)).carried_mtu() == 9001 - 48 - 52
    assert Network(both, (address(TAP, "10.7.0.1/24"),)).carried_mtu() is None
