"""The cluster's CA and map key replaced step by step, by replicas that may end at any time."""

from __future__ import annotations

import pytest
from cairn_agent.protocol import netmap as wire
from cairn_agent.protocol.token import decode_token
from cairn_appliance.cluster.bootstrap import SECRET_CA, SECRET_MAP_KEY
from cairn_appliance.domain.cluster import Replica as RunningReplica
from cairn_appliance.domain.errors import CertificateRequired, Clash, TokenRefused
from cairn_appliance.domain.identity import SYSTEM
from cairn_appliance.domain.trust import (
    ANNOUNCED_FOR_AWAY_S,
    ISSUED_FOR_AWAY_S,
    RETIRED_KEPT_S,
    Phase,
    Trust,
)
from cairn_appliance.netmap.feed import Feed
from cairn_appliance.pki.authority import key_id_of, pin_of, split_pem, utc_now
from cairn_appliance.pki.keyring import Keyring
from cairn_appliance.services.rotation import Progress, View
from cairn_appliance.store import keys, records
from cairn_appliance.store.port import Delete, Put, Reset

from tests.simulated_node import Follower, SimulatedNode
from tests.unit.appliance.replica import AUTHORITY, CLUSTER, MAP_KEY, SEALER, Replica


class World:
    """Two replicas on one store, and nodes that follow the first."""

    def __init__(self) -> None:
        self.one = Replica(name="r1")
        self.other = Replica(self.one.memory, "r2", self.one.clock)
        self.nodes: list[SimulatedNode] = []
        self.feeds: dict[str, Feed] = {}
        self.copies: dict[str, Follower] = {}

    async def grow(self, *names: str) -> None:
        if not self.nodes:
            await self.one.memory.commit([], [Put(keys.CLUSTER_FORMAT, b"2")])
            await self.one.vsubnet("red")
        for name in names:
            node = await self.one.joined(name, "red")
            self.nodes.append(node)
            self.copies[node.id] = node.copy(CLUSTER.id, MAP_KEY.public)
        await self.follow()
        for node in self.nodes[-len(names) :]:
            self.connect(node)

    async def follow(self) -> None:
        """Let both replicas see what is in the store."""
        listing = await self.one.memory.list(keys.MAP)
        for replica in (self.one, self.other):
            replica.services.netmaps.take([Reset(listing.revision, listing.items)])

    def connect(self, node: SimulatedNode) -> None:
        copy = self.copies[node.id].copy
        incarnation, revision = copy.position()
        kept = copy.trust.digest if copy.trust else ""
        netmaps = self.one.services.netmaps
        self.feeds[node.id] = Feed(netmaps, node.id, incarnation, revision, kept)
        self.one.services.presence.connected(node.id)

    def disconnect(self, node: SimulatedNode) -> None:
        self.copies[node.id].copy.stream_ended()
        del self.feeds[node.id]
        self.one.services.presence.disconnected(node.id)

    def pull(self, node: SimulatedNode) -> list[str]:
        return self.copies[node.id].take_all(list(self.feeds[node.id].pull()))

    def acknowledge(self, node: SimulatedNode, issuer: str = "") -> None:
        trust = self.copies[node.id].copy.trust
        digest = trust.digest if trust else ""
        held = self.copies[node.id].digests
        self.one.services.presence.loaded(node.id, 1, held, "", trust=digest, issuer=issuer)

    async def everybody_follows(self, issuer: str = "") -> None:
        await self.follow()
        for node in self.nodes:
            if node.id in self.feeds:
                self.pull(node)
                self.acknowledge(node, issuer)

    async def trust(self) -> Trust:
        item = await self.one.memory.get(keys.TRUST)
        assert item is not None
        return records.trust.decode(item)

    async def view(self) -> View:
        return await self.one.services.rotation.view()


@pytest.fixture
async def world() -> World:
    world = World()
    await world.grow("a", "b", "c")
    for node in world.nodes:
        world.pull(node)
    return world


def behind(progress: Progress) -> list[tuple[str, bool]]:
    return [(each.name, each.is_away) for each in progress.behind]


async def test_before_anything_was_replaced_nobody_is_told_anything(world: World) -> None:
    view = await world.view()
    assert (view.ca.phase, view.map_key.phase) == (Phase.STEADY, Phase.STEADY)
    assert (view.ca.nodes, view.ca.done, view.ca.behind) == (3, 3, ())
    assert pin_of(view.trust.authorities.issuer.public) == AUTHORITY.pin
    await world.one.services.rotation.step()
    assert await world.one.memory.get(keys.TRUST) is None
    assert all("trust" not in copy.kinds for copy in world.copies.values())


async def test_a_map_key_is_used_once_all_have_acknowledged_it_by_whichever_replica(
    world: World,
) -> None:
    await world.one.services.rotation.begin_map_key(SYSTEM)
    await world.follow()
    for node in world.nodes[:2]:
        assert world.pull(node) == ["trust", "insync"]
        world.acknowledge(node)
    view = await world.view()
    assert (view.map_key.phase, view.map_key.done) == (Phase.ANNOUNCED, 2)
    assert behind(view.map_key) == [("c", False)]
    assert "not acknowledged" in view.map_key.behind[0].cause
    await world.one.services.rotation.step()
    assert (await world.trust()).map_keys.phase is Phase.ANNOUNCED

    world.pull(world.nodes[2])
    world.acknowledge(world.nodes[2])
    world.other.services.presence._mine = world.one.services.presence._mine
    await world.other.services.rotation.step()  # the first may be dead by now
    await world.one.services.rotation.step()
    await world.everybody_follows()
    assert (await world.trust()).map_keys.phase is Phase.STEADY
    view = await world.view()
    assert (view.map_key.done, view.map_key.behind) == (3, ())
    for copy in world.copies.values():
        assert copy.copy.map_keys.current == view.trust.map_keys.current.public != MAP_KEY.public
        assert copy.copy.map_keys.former == (MAP_KEY.public,)
    kinds = await world.one.kinds()
    assert kinds.count("map_key_announced") == kinds.count("map_key_used") == 1


async def test_a_new_map_key_signs_everything_anew_and_changes_nothing_in_it(world: World) -> None:
    digests = [copy.digests for copy in world.copies.values()]
    rotation = world.one.services.rotation
    await rotation.begin_map_key(SYSTEM)
    await world.everybody_follows()
    await rotation.use_map_key(SYSTEM)
    await world.follow()
    for node in world.nodes:
        assert world.pull(node) == ["trust", "node", "delta", "insync"]
    assert [copy.digests for copy in world.copies.values()] == digests
    again = world.nodes[0].copy(CLUSTER.id, (await world.trust()).map_keys.current.public)
    again.take_all(list(Feed(world.one.services.netmaps, world.nodes[0].id, 0, 0).pull()))
    assert again.digests == digests[0]


async def test_a_node_that_was_away_for_two_map_keys_follows_the_chain(world: World) -> None:
    away = world.nodes[0]
    world.disconnect(away)
    rotation = world.one.services.rotation
    for _ in range(2):
        await rotation.begin_map_key(SYSTEM)
        await world.everybody_follows()
        await rotation.use_map_key(SYSTEM)
        await world.everybody_follows()
    assert behind((await world.view()).map_key) == [("a", True)]
    world.connect(away)
    assert world.pull(away)[0] == "trust"
    world.acknowledge(away)
    assert (await world.view()).map_key.behind == ()
    assert world.copies[away.id].digests == world.one.services.netmaps.digests(away.id)


async def test_a_node_put_back_to_an_old_disk_follows_the_chain(world: World) -> None:
    node, rotation = world.nodes[0], world.one.services.rotation
    await rotation.begin_map_key(SYSTEM)
    await world.everybody_follows()
    await rotation.use_map_key(SYSTEM)
    await world.everybody_follows()
    old = node.copy(CLUSTER.id, MAP_KEY.public)
    feed = Feed(world.one.services.netmaps, node.id, 0, 0)
    assert old.take_all(list(feed.pull())) == ["reset", "trust", "node", "full", "insync"]


async def test_a_ca_goes_from_announced_to_issuing_to_retired_as_nodes_keep_up(
    world: World,
) -> None:
    services = world.one.services
    first = AUTHORITY.key_id
    await services.rotation.begin_ca(SYSTEM)
    await world.everybody_follows(first)
    trust = world.copies[world.nodes[0].id].copy.trust
    assert trust is not None
    assert pin_of(trust.document.authorities[0]) == AUTHORITY.pin
    assert (len(trust.document.authorities), trust.document.issuer) == (2, first)
    assert services.keyring.authority.pin == AUTHORITY.pin, "it does nothing yet"

    await services.rotation.step()
    await world.follow()
    second = services.keyring.authority.key_id
    assert second != first == key_id_of((await world.trust()).authorities.other.public)  # type: ignore[union-attr]
    await world.everybody_follows(first)
    view = await world.view()
    assert (view.ca.phase, view.ca.done) == (Phase.ISSUING, 0)
    assert all("former CA" in each.cause for each in view.ca.behind)
    trust = world.copies[world.nodes[0].id].copy.trust
    assert trust is not None
    assert (trust.document.issuer, trust.document.renew_within_s) == (second, 2.0)
    await services.rotation.step()
    assert (await world.trust()).authorities.phase is Phase.ISSUING

    await world.everybody_follows(second)
    assert (await world.view()).ca.done == 3
    await services.rotation.step()
    await world.everybody_follows(second)
    view = await world.view()
    assert (view.ca.phase, view.ca.done, view.ca.behind) == (Phase.STEADY, 3, ())
    assert [pin_of(each.certificate) for each in view.trust.authorities.retired] == [AUTHORITY.pin]
    trust = world.copies[world.nodes[0].id].copy.trust
    assert trust is not None
    assert [key_id_of(pem) for pem in trust.document.authorities] == [second]
    assert services.keyring.is_retired(first)
    assert not services.keyring.is_believed(first)
    told = [kind for kind in await world.one.kinds() if kind.startswith("ca_")]
    assert told == ["ca_announced", "ca_issues", "ca_retired"]


async def test_who_is_away_is_waited_for_but_not_for_ever(world: World) -> None:
    rotation, clock = world.one.services.rotation, world.one.clock
    world.disconnect(world.nodes[0])
    await rotation.begin_ca(SYSTEM)
    await world.everybody_follows(AUTHORITY.key_id)
    view = await world.view()
    assert behind(view.ca) == [("a", True)]
    assert view.ca.goes_on_at == clock.now + ANNOUNCED_FOR_AWAY_S
    await rotation.step()
    assert (await world.trust()).authorities.phase is Phase.ANNOUNCED
    clock.now += ANNOUNCED_FOR_AWAY_S
    await rotation.step()
    await world.everybody_follows(key_id_of((await world.trust()).authorities.issuer.public))
    clock.now += ISSUED_FOR_AWAY_S - 1
    await rotation.step()
    assert (await world.trust()).authorities.phase is Phase.ISSUING
    clock.now += 1
    await rotation.step()
    assert (await world.trust()).authorities.phase is Phase.STEADY


async def test_a_connected_node_that_is_too_old_is_waited_for_until_an_operator_says_so(
    world: World,
) -> None:
    rotation, clock = world.one.services.rotation, world.one.clock
    await rotation.begin_map_key(SYSTEM)
    await world.everybody_follows()
    world.one.services.presence.loaded(world.nodes[0].id, 1, {}, "")  # says nothing of trust
    clock.now += 10 * ANNOUNCED_FOR_AWAY_S
    await rotation.step()
    (late,) = (await world.view()).map_key.behind
    assert (late.name, late.is_away) == ("a", False)
    assert "too old" in late.cause
    assert "cairn map-key use" in late.remedy
    await rotation.use_map_key(SYSTEM)
    assert (await world.trust()).map_keys.phase is Phase.STEADY


async def test_each_step_has_its_time(world: World) -> None:
    rotation = world.one.services.rotation
    for step in (rotation.issue_ca, rotation.retire_ca, rotation.use_map_key):
        with pytest.raises(Clash) as refused:
            await step(SYSTEM)
        assert refused.value.code == "no_rotation"
    await rotation.begin_ca(SYSTEM)
    await rotation.begin_map_key(SYSTEM)
    for step in (rotation.begin_ca, rotation.begin_map_key):
        with pytest.raises(Clash) as refused:
            await step(SYSTEM)
        assert refused.value.code == "rotation_under_way"
    with pytest.raises(Clash):
        await rotation.retire_ca(SYSTEM)


async def test_an_appliance_that_could_not_follow_forbids_it_and_one_that_is_late_is_waited_for(
    world: World,
) -> None:
    services = world.one.services

    async def runs(issuer: str) -> None:
        replica = RunningReplica("m2", "0.1.0", 0.0, issuer=issuer)
        put = Put(keys.replica("m2"), records.replicas.encode(replica))
        await world.one.memory.commit([], [put])

    await runs("")
    for begin in (services.rotation.begin_ca, services.rotation.begin_map_key):
        with pytest.raises(Clash, match="m2"):
            await begin(SYSTEM)
    await runs(AUTHORITY.key_id)
    await world.one.memory.commit([], [Put(keys.CLUSTER_FORMAT, b"1")])
    for begin in (services.rotation.begin_ca, services.rotation.begin_map_key):
        with pytest.raises(Clash, match="until the upgrade is finished"):
            await begin(SYSTEM)
    await world.one.memory.commit([], [Put(keys.CLUSTER_FORMAT, b"2")])
    await services.rotation.begin_ca(SYSTEM)
    await services.rotation.issue_ca(SYSTEM)
    await world.follow()
    second = services.keyring.authority.key_id
    await world.everybody_follows(second)
    (late,) = (await world.view()).ca.behind
    assert (late.name, late.node, late.is_away) == ("m2", "", False)
    await runs(second)
    assert (await world.view()).ca.behind == ()


async def test_tokens_of_before_are_good_until_the_former_ca_is_retired_then_refused_clearly(
    world: World,
) -> None:
    services, rotation = world.one.services, world.one.services.rotation
    old = [await world.one.token("red") for _ in range(4)]
    await rotation.begin_ca(SYSTEM)
    await world.follow()
    await world.one.enrol(SimulatedNode("n1"), old[0])
    await rotation.issue_ca(SYSTEM)
    await world.follow()
    given = await world.one.enrol(SimulatedNode("n2"), old[1])
    assert [pin_of(pem) for pem in split_pem(given.ca)] == [
        services.keyring.authority.pin,
        AUTHORITY.pin,
    ]
    new = await world.one.token("red")
    assert decode_token(new).pin == services.keyring.authority.pin != decode_token(old[0]).pin
    left = {decode_token(text).id for text in old[2:]}
    assert {each.id for each in (await world.view()).old_tokens} == left
    await rotation.retire_ca(SYSTEM)
    await world.follow()
    with pytest.raises(TokenRefused, match="before the cluster's CA was changed"):
        await world.one.enrol(SimulatedNode("n3"), old[2])
    await world.one.enrol(SimulatedNode("n4"), new)
    assert {each.id for each in (await world.view()).old_tokens} == left
    retired = [e for e in await services.events.list(limit=1000) if e.kind == "ca_retired"]
    assert "2 enrolment tokens ended with it" in retired[0].text


async def test_a_certificate_of_a_retired_ca_is_renewed_for_the_key_on_record_alone(
    world: World,
) -> None:
    enrolment, node = world.one.services.enrolment, world.nodes[0]
    request = node.certificate_request()
    stored = (await world.one.services.nodes.get(node.id)).value.node.control_key
    assert await enrolment.renew(node.id, request, stored, is_retired=True)
    thief = SimulatedNode(id=node.id)
    for shown in (stored, "", "ab" * 32):
        with pytest.raises(CertificateRequired, match="not the one on record"):
            await enrolment.renew(node.id, thief.certificate_request(), shown, is_retired=True)
    with pytest.raises(CertificateRequired):
        await enrolment.renew(node.id, request, "ab" * 32, is_retired=True)


async def test_a_replica_that_starts_has_the_keys_of_now_and_an_older_one_too(
    world: World,
) -> None:
    rotation = world.one.services.rotation
    await rotation.begin_ca(SYSTEM)
    await rotation.issue_ca(SYSTEM)
    await rotation.begin_map_key(SYSTEM)
    await rotation.use_map_key(SYSTEM)
    ring = Keyring.of_trust(SEALER, await world.trust())
    items = [await world.one.memory.get(key) for key in (SECRET_CA, SECRET_MAP_KEY)]
    older = Keyring.of_secrets(SEALER, *[item.value for item in items if item])
    assert ring.authority.pin == older.authority.pin != AUTHORITY.pin
    assert ring.map_key.public == older.map_key.public != MAP_KEY.public


async def test_what_lies_in_the_store_is_sealed_and_bound_to_its_place(world: World) -> None:
    rotation = world.one.services.rotation
    await rotation.begin_ca(SYSTEM)
    await rotation.begin_map_key(SYSTEM)
    item = await world.one.memory.get(keys.TRUST)
    assert item is not None
    assert b"PRIVATE KEY" not in item.value
    ring = Keyring.of_trust(SEALER, records.trust.decode(item))
    assert ring.map_key.to_octets() not in item.value


async def test_a_trust_that_can_not_be_read_leaves_everything_as_it_was(world: World) -> None:
    await world.one.services.rotation.begin_map_key(SYSTEM)
    item = await world.one.memory.get(keys.TRUST)
    assert item is not None
    before = world.one.services.keyring.map_key.public
    broken = item.value.replace(b'"sealed":"', b'"sealed":"AAAA')
    await world.one.memory.commit([], [Put(keys.TRUST, broken)])
    await world.follow()
    # The current keys are open already; the next one is opened when it is used.
    assert world.one.services.keyring.map_key.public == before
    for node in world.nodes:
        world.pull(node)


def test_authorities_of_long_ago_are_forgotten() -> None:
    trust = Keyring(SEALER, AUTHORITY, MAP_KEY).as_trust().authorities
    issuer, now = AUTHORITY, 1000.0
    for _ in range(4):
        following = issuer.successor(utc_now())
        cross = issuer.cross(following, utc_now()).decode()
        sealed = Keyring(SEALER, following, MAP_KEY).as_trust().authorities.issuer
        trust = trust.announced(sealed, cross, now).issuing(10, now).without_former(now)
        issuer, now = following, now + RETIRED_KEPT_S / 2
    assert len(trust.retired) == len(trust.crosses) == 2
    assert len(trust.pruned(now + 9 * RETIRED_KEPT_S).retired) == 1


async def test_the_line_is_the_same_at_every_replica(world: World) -> None:
    await world.one.services.rotation.begin_map_key(SYSTEM)
    await world.follow()
    one, other = (each.services.netmaps.trust_line for each in (world.one, world.other))
    assert one is not None
    assert one == other
    assert isinstance(wire.decode_line(one[1]), wire.TrustUpdate)


async def test_steps_after_which_a_backup_of_before_is_not_believed_ask_for_one(
    world: World,
) -> None:
    one = world.one.services.rotation

    async def wished() -> str:
        item = await world.one.memory.get(keys.BACKUP_WISH)
        await world.one.memory.commit([], [Delete(keys.BACKUP_WISH)])
        return records.backup_wishes.decode(item).reason if item else ""

    told = []
    for step in (
        one.begin_map_key,
        one.use_map_key,
        one.begin_ca,
        one.issue_ca,
        one.retire_ca,
    ):
        await step(SYSTEM)
        told.append(await wished())
        await world.follow()
    await world.one.services.vsubnets.rotate_secret("red", SYSTEM)
    told.append(await wished())
    assert told == [
        "",
        "the map key was replaced",
        "",
        "a new CA issues",
        "the CA was replaced",
        "the secret of vSubnet red was replaced",
    ]
