"""Segments: what may be attached where, what follows from it, and what nobody is told."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import random

import pytest
from cairn_agent.protocol import netmap as wire
from cairn_appliance.domain.errors import CairnError, Changed, Clash, Invalid, NotFound
from cairn_appliance.domain.identity import SYSTEM
from cairn_appliance.domain.member import MemberRole
from cairn_appliance.domain.segment import Guards, Preference
from cairn_appliance.services.members import MemberChange, MemberOrder
from cairn_appliance.services.preflights import PreflightOrder
from cairn_appliance.services.segments import SegmentChange, SegmentOrder, Segments
from cairn_appliance.store import keys, records
from cairn_appliance.store.port import Delete, Events, Item, Put, Reset

from tests.unit.appliance.gateways import LAN, Office
from tests.unit.appliance.replica import Replica


def segments_of(office: Office) -> Segments:
    return office.replica.services.segments


async def refusal(office: Office, node: str, port: str = "eth1", vlan: int = 0) -> CairnError:
    with pytest.raises(CairnError) as refused:
        await segments_of(office).attach(LAN, node, port, vlan, SYSTEM)
    assert refused.value.remedy
    return refused.value


async def document(office: Office, node: str) -> wire.NodeDocument:
    await office.look()
    return office.replica.services.netmaps.node_document(node)


async def test_a_gateway_is_a_member_with_a_mac_and_no_addresses() -> None:
    office = await Office().open("g1", "g2")
    members = [each.value for each in await office.replica.services.members.list("red")]
    assert [(each.role, each.ips) for each in members] == [(MemberRole.GATEWAY, ())] * 2
    assert len({each.mac for each in members}) == 2
    assert (await office.replica.kinds())[-1] == "gateway_attached"
    (duty,) = (await document(office, office.gateways[0].id)).gateways
    assert (duty.segment, duty.port, duty.vlan) == (office.segment, "eth1", 0)
    assert sorted(duty.gateways) == sorted(each.id for each in office.gateways)
    assert len(base64.b64decode(duty.key)) == 32


async def test_the_same_again_changes_nothing() -> None:
    office = await Office().open("g1")
    node = office.gateways[0].id
    before = await segments_of(office).get(LAN)
    assert await segments_of(office).attach(LAN, node, "eth1", 0, SYSTEM) == before


async def test_the_last_one_can_go_and_leaves_nothing_behind() -> None:
    office = await Office().open("g1")
    node = office.gateways[0].id
    assert not (await segments_of(office).detach(LAN, "g1", SYSTEM)).value.gateways
    assert not await office.replica.services.members.list("red")
    assert not (await office.memory.list(keys.SEGMENT_PORTS)).items
    assert (await document(office, node)).gateways == []
    await segments_of(office).attach(LAN, node, "eth1", 0, SYSTEM)


async def test_a_node_with_addresses_in_the_vsubnet_is_refused_with_what_to_do() -> None:
    office = await Office().open("g1")
    host = await office.replica.joined("web", "red")
    refused = await refusal(office, host.id)
    assert refused.code == "is_member"
    assert "is a host in vSubnet red already with 10.7.0." in refused.cause
    assert "cairn member delete red web" in refused.remedy


async def test_a_port_belongs_to_one_segment_and_each_vlan_of_it_too() -> None:
    office = await Office().open("g1")
    await office.replica.vsubnet("blue", "10.8.0.0/24")
    await segments_of(office).create(SegmentOrder("blue-lan", "blue"), SYSTEM)
    with pytest.raises(Clash) as refused:
        await segments_of(office).attach("blue-lan", "g1", "eth1", 0, SYSTEM)
    assert refused.value.code == "port_taken"
    assert LAN in refused.value.cause
    await segments_of(office).attach("blue-lan", "g1", "eth1", 20, SYSTEM)
    duties = (await document(office, office.gateways[0].id)).gateways
    assert sorted(each.vlan for each in duties) == [0, 20]


async def test_two_lans_of_one_vsubnet_need_two_nodes() -> None:
    office = await Office().open("g1")
    await segments_of(office).create(SegmentOrder("second", "red"), SYSTEM)
    with pytest.raises(Clash) as refused:
        await segments_of(office).attach("second", "g1", "eth2", 0, SYSTEM)
    assert refused.value.code == "is_gateway"


async def test_asked_at_two_replicas_at_once_one_of_two_segments_gets_the_node() -> None:
    office = await Office().open()
    node = await office.replica.joined("g1")
    await segments_of(office).create(SegmentOrder("second", "red"), SYSTEM)
    answers = await asyncio.gather(
        office.first.replica.services.segments.attach(LAN, node.id, "eth1", 0, SYSTEM),
        office.second.replica.services.segments.attach("second", node.id, "eth2", 0, SYSTEM),
        return_exceptions=True,
    )
    assert sum(isinstance(each, Clash) for each in answers) == 1


async def test_segments_of_one_vsubnet_share_a_key_and_those_of_another_don_t() -> None:
    office = await Office().open("g1")
    await segments_of(office).create(SegmentOrder("second", "red"), SYSTEM)
    await office.replica.vsubnet("blue", "10.8.0.0/24")
    await segments_of(office).create(SegmentOrder("third", "blue"), SYSTEM)
    other = await office.replica.joined("g2")
    await segments_of(office).attach("second", other.id, "eth1", 0, SYSTEM)
    await segments_of(office).attach("third", other.id, "eth2", 0, SYSTEM)
    (first,) = (await document(office, office.gateways[0].id)).gateways
    by_name = {each.name: each for each in (await document(office, other.id)).gateways}
    assert first.key == by_name["second"].key != by_name["third"].key


async def test_the_key_is_sealed_in_the_store_and_in_no_repr() -> None:
    office = await Office().open("g1")
    (duty,) = (await document(office, office.gateways[0].id)).gateways
    held = (await office.memory.list(keys.ROOT)).items
    octets = base64.b64decode(duty.key)
    assert not any(duty.key.encode() in each.value or octets in each.value for each in held)
    assert duty.key not in repr(duty) + repr(await document(office, office.gateways[0].id))
    (item,) = (await office.memory.list(keys.PROBE_KEYS)).items
    sealed = records.probe_keys.decode(item)
    assert sealed.sealed not in repr(sealed)


async def test_a_change_is_told_to_the_gateways_and_to_nobody_else() -> None:
    office = await Office().open("g1", "g2")
    for name in ("h1", "h2", "h3"):
        await office.replica.joined(name, "red")
    await office.look()
    netmaps = office.replica.services.netmaps
    guards = Guards(dhcp=True, silent_hosts=("02:00:00:00:00:09",))
    await segments_of(office).change(LAN, SegmentChange(guards=guards), SYSTEM)
    listing = await office.memory.list(keys.MAP)
    concerned = netmaps.take([Reset(listing.revision, listing.items)])
    assert concerned == {each.id for each in office.gateways}
    (duty,) = (await document(office, office.gateways[1].id)).gateways
    assert (duty.guards.dhcp, duty.guards.silent_hosts) == (True, ["02:00:00:00:00:09"])


async def test_beats_and_grants_are_no_news_of_the_map() -> None:
    office = await Office().open("g1", "g2")
    before = {item.key: item.revision for item in (await office.memory.list(keys.MAP)).items}
    for _ in range(3):
        await office.first.beat(office.gateways[0], office.segment)
    assert before == {i.key: i.revision for i in (await office.memory.list(keys.MAP)).items}


async def test_stop_and_resume_reach_the_gateways() -> None:
    office = await Office().open("g1")
    node = office.gateways[0].id
    await segments_of(office).set_bridging(LAN, SYSTEM, is_bridging=False)
    assert not (await document(office, node)).gateways[0].is_bridging
    again = await segments_of(office).set_bridging(LAN, SYSTEM, is_bridging=False)
    await segments_of(office).set_bridging(LAN, SYSTEM, is_bridging=True)
    assert (await document(office, node)).gateways[0].is_bridging
    assert (await office.replica.kinds()).count("bridging_stopped") == 1
    assert again.value.name == LAN


async def test_a_segment_is_renamed_and_its_old_name_is_free() -> None:
    office = await Office().open()
    old = await segments_of(office).get(LAN)
    change = SegmentChange(name="plant", preference=Preference.AVAILABILITY)
    with pytest.raises(Changed):
        await segments_of(office).change(LAN, change, SYSTEM, expected=old.revision - 1)
    new = await segments_of(office).change(LAN, change, SYSTEM, expected=old.revision)
    assert (new.value.id, new.value.preference) == (old.value.id, Preference.AVAILABILITY)
    with pytest.raises(NotFound):
        await segments_of(office).get(LAN)
    await segments_of(office).create(SegmentOrder(LAN, "red"), SYSTEM)
    with pytest.raises(Clash):
        await segments_of(office).create(SegmentOrder("Plant", "red"), SYSTEM)


async def test_what_is_in_use_is_not_deleted() -> None:
    office = await Office().open("g1")
    with pytest.raises(Clash) as refused:
        await segments_of(office).delete(LAN, SYSTEM)
    assert refused.value.code == "has_gateways"
    await segments_of(office).detach(LAN, "g1", SYSTEM)
    with pytest.raises(Clash) as refused:
        await office.replica.services.vsubnets.delete("red", SYSTEM)
    assert refused.value.code == "has_segments"
    await segments_of(office).delete(LAN, SYSTEM)
    await office.replica.services.vsubnets.delete("red", SYSTEM)
    assert not (await office.memory.list(keys.PROBE_KEYS)).items


async def test_the_membership_of_a_gateway_belongs_to_its_segment() -> None:
    office = await Office().open("g1")
    members = office.replica.services.members
    for act in (
        members.delete("red", "g1", SYSTEM),
        members.change("red", "g1", MemberChange(role=MemberRole.HOST), SYSTEM),
    ):
        with pytest.raises(Clash) as refused:
            await act
        assert refused.value.code == "is_gateway"
        assert "cairn gateway detach" in refused.value.remedy


async def test_a_removed_node_is_told_to_nobody_and_taken_out() -> None:
    office = await Office().open("g1", "g2")
    await office.replica.services.nodes.remove("g1", SYSTEM)
    (duty,) = (await document(office, office.gateways[1].id)).gateways
    assert duty.gateways == [office.gateways[1].id]
    await segments_of(office).tidy()
    assert (await segments_of(office).get(LAN)).value.nodes == (office.gateways[1].id,)


async def test_a_damaged_key_closes_the_gateway_and_nothing_else_ends() -> None:
    office = await Office().open("g1")
    (item,) = (await office.memory.list(keys.PROBE_KEYS)).items
    broken = item.value.replace(b'"sealed":"', b'"sealed":"AAAA')
    await office.memory.commit([], [Put(item.key, broken)])
    found = await document(office, office.gateways[0].id)
    assert (found.gateways, len(found.vnis)) == ([], 1)


async def test_a_removed_node_becomes_no_gateway() -> None:
    office = await Office().open()
    node = await office.replica.joined("g9")
    await office.replica.services.nodes.remove(node.id, SYSTEM)
    assert (await refusal(office, node.id)).code == "node_not_approved"


async def test_while_an_upgrade_is_under_way_there_are_no_segments() -> None:
    office = await Office().open()
    await office.memory.commit([], [Put(keys.CLUSTER_FORMAT, b"2")])
    with pytest.raises(Clash) as refused:
        await segments_of(office).create(SegmentOrder("other", "red"), SYSTEM)
    assert refused.value.code == "upgrade_unfinished"


@pytest.mark.parametrize(
    ("port", "vlan", "code"),
    [
        ("", 0, "invalid_port"),
        ("eth0/1", 0, "invalid_port"),
        ("..", 0, "invalid_port"),
        ("a" * 16, 0, "invalid_port"),
        ("eth1", -1, "invalid_vlan"),
        ("eth1", 4095, "invalid_vlan"),
    ],
)
async def test_what_is_no_port_or_vlan_is_refused(port: str, vlan: int, code: str) -> None:
    office = await Office().open()
    node = await office.replica.joined("g1")
    assert (await refusal(office, node.id, port, vlan)).code == code


@pytest.mark.parametrize(
    "guards",
    [
        Guards(mac_limit=0),
        Guards(bum_pps=0),
        Guards(source_bum_pps=1 << 40),
        Guards(silent_hosts=("01:00:5e:00:00:01",)),
        Guards(silent_hosts=("nonsense",)),
    ],
)
async def test_guards_that_can_t_be_are_refused(guards: Guards) -> None:
    office = await Office().open()
    with pytest.raises(Invalid):
        await segments_of(office).change(LAN, SegmentChange(guards=guards), SYSTEM)


async def test_a_host_role_member_order_still_works_beside_gateways() -> None:
    office = await Office().open("g1")
    node = await office.replica.joined("web")
    member = await office.replica.services.members.create(MemberOrder("red", node.id), SYSTEM)
    assert member.value.ips


async def test_documents_are_the_same_change_by_change_and_all_at_once() -> None:
    office = await Office().open("g1", "g2")
    services, dice = office.replica.services, random.Random(7)
    await office.replica.vsubnet("blue", "10.8.0.0/24")
    await segments_of(office).create(SegmentOrder("second", "red"), SYSTEM)
    await segments_of(office).create(SegmentOrder("third", "blue"), SYSTEM)
    nodes = [*office.gateways, *[await office.replica.joined(f"n{n}") for n in range(2)]]
    for node in nodes:
        services.presence.connected(node.id)
    stepwise = office.second.replica.services.netmaps
    seen: dict[str, Item] = {}
    for _ in range(120):
        name, node = dice.choice((LAN, "second", "third")), dice.choice(nodes)
        acts = (
            segments_of(office).attach(name, node.id, "eth1", dice.randrange(3), SYSTEM),
            segments_of(office).detach(name, node.id, SYSTEM),
            segments_of(office).set_bridging(name, SYSTEM, is_bridging=dice.random() < 0.5),
            segments_of(office).change(
                name, SegmentChange(guards=Guards(bum_pps=dice.randrange(1, 9))), SYSTEM
            ),
            services.preflights.ask(PreflightOrder(node.id, "eth2", 0, "blue", 1.0), SYSTEM),
        )
        chosen = dice.choice(acts)
        for act in acts:
            if act is not chosen:
                act.close()
        with contextlib.suppress(CairnError):
            await chosen
        listing = await office.memory.list(keys.MAP)
        new = {item.key: item for item in listing.items}
        changes = [
            *(Delete(key) for key in seen.keys() - new.keys()),
            *(item for key, item in new.items() if seen.get(key) != item),
        ]
        stepwise.take([Events(listing.revision, tuple(changes))])
        seen = new
        at_once = Replica(office.memory, "fresh").services.netmaps
        at_once.take([Reset(listing.revision, listing.items)])
        for each in nodes:
            assert stepwise.node_document(each.id) == at_once.node_document(each.id)
    documents = [stepwise.node_document(each.id) for each in nodes]
    assert any(each.gateways for each in documents)
    assert any(each.preflights for each in documents)
