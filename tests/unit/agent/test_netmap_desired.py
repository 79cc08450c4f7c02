"""What follows from a netmap for the data plane and the host."""

from __future__ import annotations

import base64
import dataclasses

import msgspec
import pytest
from cairn_agent.netmap.desired import Desired, Own, desired, forgetting, link_local, nothing
from cairn_agent.netmap.trust import OfflineTime
from cairn_agent.protocol import gateway
from cairn_agent.protocol import netmap as wire
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.agent.fakes.netmaps import Cluster, header, member, node_id
from tests.unit.agent.test_netmap_held import apply_all, copy_of

OWN = Own(
    node_id=node_id(1),
    data_key=base64.b64encode(bytes(32)).decode(),
    cluster_id=Cluster().id,
    port=8002,
)


def wanted(
    *members: wire.Member, own: Own = OWN, offline_s: float = 0.0, header_: object = None
) -> Desired:
    cluster = Cluster()
    copy = copy_of(cluster)
    lines = [
        cluster.reset(),
        cluster.node(1, [7], 5),
        cluster.vsubnet(members, 5, header_=header_ or header()),  # type: ignore[arg-type]
        cluster.in_sync(5),
    ]
    apply_all(copy, lines)
    assert copy.current is not None
    return desired(copy.current, own, warm=frozenset({node_id(2)}), offline_s=offline_s)


def test_the_node_itself_is_nobody_to_itself() -> None:
    [vsubnet] = wanted(member(1), member(2), member(3)).state.vsubnets
    assert [(peer.id, peer.warm) for peer in vsubnet.peers] == [
        (node_id(2), True),
        (node_id(3), False),
    ]


def test_link_local_addresses_belong_to_what_a_member_may_say() -> None:
    [vsubnet] = wanted(member(1), member(2)).state.vsubnets
    assert vsubnet.ips == ["10.7.0.1", "fe80::ff:fe00:1"]
    assert vsubnet.peers[0].ips == ["10.7.0.2", "fe80::ff:fe00:2"]


def test_the_link_local_address_is_that_of_rfc_4291() -> None:
    assert link_local("34:56:78:9a:bc:de") == "fe80::3656:78ff:fe9a:bcde"


def test_the_tap_is_named_by_the_longest_vni() -> None:
    own = member(1)
    cluster = Cluster()
    copy = copy_of(cluster)
    head = header(vni=0xFFFFFF)
    lines = [
        cluster.reset(),
        cluster.node(1, [0xFFFFFF], 5),
        cluster.vsubnet([own], 5, header_=head),
        cluster.in_sync(5),
    ]
    apply_all(copy, lines)
    assert copy.current is not None
    [tap] = desired(copy.current, OWN, warm=frozenset(), offline_s=0.0).taps
    assert tap.name == "cairn16777215"
    assert len(tap.name) <= 15


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(member(2, public_key="AAAA"), id="a short key"),
        pytest.param(member(2, public_key="?"), id="no base64"),
        pytest.param(member(2, public_key=member(3).public_key), id="the key of another"),
    ],
)
def test_one_bad_peer_blocks_no_other(bad: wire.Member) -> None:
    [vsubnet] = wanted(member(1), bad, member(3)).state.vsubnets
    assert len(vsubnet.peers) == 1


def test_an_endpoint_that_is_none_is_left_out() -> None:
    odd = ["192.0.2.2:8002", "example.org:8002", "2001:db8::1:8002", "[2001:db8::1]:8002", "x", ""]
    [vsubnet] = wanted(member(1), member(2, endpoints=odd)).state.vsubnets
    assert vsubnet.peers[0].endpoints == ["192.0.2.2:8002", "[2001:db8::1]:8002"]


def test_a_vsubnet_without_its_own_member_waits() -> None:
    found = wanted(member(2))
    assert found.taps == ()
    assert found.state.vsubnets == []
    assert set(found.problems) == {7}


@pytest.mark.parametrize(
    ("carried", "mtu"), [(None, 1400), (1448, 1400), (1400, 1400), (1320, 1320), (1200, 1280)]
)
def test_a_tap_has_the_mtu_of_its_vsubnet_unless_the_underlay_carries_less(
    carried: int | None, mtu: int
) -> None:
    own = dataclasses.replace(OWN, carried_mtu=carried)
    found = wanted(member(1), member(2), own=own)
    assert [tap.mtu for tap in found.taps] == [mtu]
    assert [vsubnet.mtu for vsubnet in found.state.vsubnets] == [mtu]


def test_nothing_has_no_vsubnet() -> None:
    assert nothing(OWN).taps == ()
    assert nothing(OWN).state.vsubnets == []


@pytest.mark.parametrize(
    ("limit_s", "offline_s", "override_s", "is_up"),
    [
        (100, 100.0, None, True),
        (100, 100.1, None, False),
        (0, 1e9, None, True),
        (100, 5.0, 3, False),
    ],
)
def test_a_vsubnet_goes_down_at_its_offline_limit(
    limit_s: int, offline_s: float, override_s: int | None, is_up: bool
) -> None:
    own = Own(OWN.node_id, OWN.data_key, OWN.cluster_id, 8002, offline_trust_s=override_s)
    head = header(policy=wire.Policy(offline_trust_s=limit_s))

    found = wanted(member(1), member(2), own=own, offline_s=offline_s, header_=head)

    assert [tap.is_up for tap in found.taps] == [is_up]
    assert len(found.state.vsubnets) == int(is_up)
    assert bool(found.problems) is not is_up


@given(
    st.lists(
        st.tuples(st.sampled_from(["heard", "restart", "look"]), st.floats(0.0, 1e6)), max_size=30
    )
)
def test_time_alone_is_what_passed_since_an_appliance_was_heard(
    steps: list[tuple[str, float]],
) -> None:
    """Over restarts the time is added up; reboots set CLOCK_BOOTTIME back to zero (KT-11)."""
    now, alone, clock = 0.0, 0.0, OfflineTime(0.0, 0.0)
    for step, passed_s in steps:
        now += passed_s
        alone += passed_s
        match step:
            case "heard":
                clock.heard(now)
                alone = 0.0
            case "restart":
                clock, now = OfflineTime(clock.seconds(now), 5.0), 5.0
            case _:
                pass
        assert clock.seconds(now) == pytest.approx(alone, rel=1e-9, abs=1e-3)


def test_a_clock_that_goes_back_never_makes_the_time_alone_shrink_below_what_was() -> None:
    clock = OfflineTime(50.0, 1000.0)
    assert clock.seconds(900.0) == 50.0


def generation(number: int, value: int) -> wire.Member:
    return msgspec.structs.replace(member(number), generation=value)


def test_a_restored_member_loses_its_sessions_and_no_other_does() -> None:
    before = wanted(member(1), member(2), member(3))
    after = wanted(member(1), generation(2, 9), member(3))
    state = forgetting(after.state, before.generations, after.generations)
    assert state is not None
    assert [peer.id for peer in state.vsubnets[0].peers] == [node_id(3)]


def test_a_node_that_was_restored_itself_loses_all_sessions() -> None:
    before = wanted(member(1), member(2), member(3))
    after = wanted(generation(1, 9), member(2), member(3))
    state = forgetting(after.state, before.generations, after.generations)
    assert state is not None
    assert [vsubnet.peers for vsubnet in state.vsubnets] == [[]]


def test_new_members_and_members_that_stay_have_nothing_to_forget() -> None:
    before = wanted(member(1), member(2))
    after = wanted(member(1), member(2), generation(3, 9))
    assert forgetting(after.state, before.generations, after.generations) is None
    assert forgetting(after.state, {}, after.generations) is None, "a data plane that is new"


def test_a_gateway_takes_part_with_a_mac_and_no_addresses() -> None:
    made = wanted(member(1, role="gateway", ips=[]), member(2, role="gateway", ips=[]))
    [vsubnet] = made.state.vsubnets
    assert (vsubnet.role, vsubnet.macs, vsubnet.ips) == ("gateway", ["02:00:00:00:00:01"], [])
    assert (vsubnet.peers[0].role, vsubnet.peers[0].ips) == ("gateway", [])
    assert made.taps[0].addresses == ()


def test_shared_addresses_reach_the_data_plane_and_change_no_digest_where_there_are_none() -> None:
    head = header(policy=wire.Policy(shared_ips=["10.7.0.9"]))
    [vsubnet] = wanted(member(1), header_=head).state.vsubnets
    assert vsubnet.policy.shared_ips == ["10.7.0.9"]
    assert b"shared_ips" not in wire.encode(header()), "older agents have the same digest"


def test_a_gateways_limits_are_its_segments_and_others_have_the_usual_ones() -> None:
    guards = gateway.Guards(bum_pps=500, source_bum_pps=50)
    duty = gateway.GatewayDuty("s", "office", 7, "eth1", 0, "", [], "safety", guards)
    cluster = Cluster()
    copy = copy_of(cluster)
    lines = [
        cluster.reset(),
        cluster.node(1, [7, 8], 5, gateways=[duty]),
        cluster.vsubnet([member(1, role="gateway", ips=[])], 5),
        cluster.vsubnet([member(1)], 5, header_=header(vni=8)),
        cluster.in_sync(5),
    ]
    apply_all(copy, lines)
    assert copy.current is not None
    bridged, plain = desired(copy.current, OWN, warm=frozenset(), offline_s=0.0).state.vsubnets
    limits = [(p.gateway_bum_pps, p.gateway_source_bum_pps) for p in (bridged.policy, plain.policy)]
    assert limits == [(500, 50), (1000, 200)]
