"""Who gets in with a token, how often, and as what."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import replace

import pytest
from cairn_appliance.domain.cluster import FORMAT
from cairn_appliance.domain.errors import Clash, Invalid, NodeRemoved, TokenRefused
from cairn_appliance.domain.identity import SYSTEM, Facts
from cairn_appliance.domain.node import NodeState
from cairn_appliance.services import enrolment as enrolment_module
from cairn_appliance.services.stored import read
from cairn_appliance.services.vsubnets import Epochs
from cairn_appliance.store import keys, records
from cairn_appliance.store.port import Full, Put
from cryptography import x509

from tests.simulated_node import SimulatedNode
from tests.unit.appliance.replica import AUTHORITY, SEALER, Replica


async def test_a_node_with_a_good_token_is_approved_and_a_member_with_its_addresses() -> None:
    replica = Replica()
    red = await replica.vsubnet()
    node = SimulatedNode("web-1")
    credentials = await replica.enrol(node, await replica.token(red, site="fra", labels={"a": "b"}))
    assert credentials.state is NodeState.APPROVED
    view = (await replica.services.nodes.get("web-1")).value
    assert (view.node.id, view.node.site, view.node.labels) == (node.id, "fra", {"a": "b"})
    assert [member.ips for member in view.members] == [("10.7.0.2", "fd00:7::2")]
    assert view.node.wanted == ()


async def test_the_certificate_is_the_clusters_and_names_the_node_alone() -> None:
    replica = Replica()
    node = SimulatedNode()
    credentials = await replica.enrol(node, await replica.token())
    certificate = x509.load_pem_x509_certificate(credentials.certificate.encode())
    authority = x509.load_pem_x509_certificate(AUTHORITY.certificate)
    certificate.verify_directly_issued_by(authority)
    assert certificate.subject.rfc4514_string() == f"CN={node.id}"
    assert certificate.public_key() == node.key.public_key()


async def test_a_lost_answer_can_be_asked_for_again_and_uses_nothing_up() -> None:
    replica = Replica()
    token = await replica.token(await replica.vsubnet())
    node = SimulatedNode()
    first = await replica.enrol(node, token)
    second = await replica.enrol(node, token)
    assert (first.state, first.generation) == (second.state, second.generation)
    assert (await replica.services.tokens.list())[0].value.uses == 1
    assert len(await replica.services.members.list()) == 1


async def test_an_answer_lost_before_the_memberships_is_made_good_by_asking_again() -> None:
    replica = Replica()
    red = await replica.vsubnet()
    token = await replica.token(red)
    node = SimulatedNode()
    enrolling = asyncio.create_task(replica.enrol(node, token))
    while not await replica.memory.get(keys.node(node.id)):
        await asyncio.sleep(0)
    enrolling.cancel()
    await asyncio.gather(enrolling, return_exceptions=True)
    assert await replica.services.members.list() == ()
    await replica.enrol(node, token)
    assert len(await replica.services.members.list()) == 1


async def test_another_node_cannot_take_an_id_that_has_enrolled() -> None:
    replica = Replica()
    token = await replica.token(max_uses=5)
    node = SimulatedNode()
    await replica.enrol(node, token)
    with pytest.raises(Clash) as caught:
        await replica.enrol(SimulatedNode(id=node.id), token)
    assert caught.value.code == "node_exists"
    assert (await replica.services.tokens.list())[0].value.uses == 1


async def _upgraded() -> Replica:
    replica = Replica()
    await replica.memory.commit([], [Put(keys.CLUSTER_FORMAT, str(FORMAT).encode())])
    return replica


@pytest.mark.parametrize(
    ("address", "is_let_in"),
    [
        ("192.0.2.255", True),
        ("::ffff:192.0.2.1", True),
        ("2001:db8:7::1%eth0", True),
        ("192.0.3.0", False),
        ("2001:db9::1", False),
        ("", False),
        ("nonsense", False),
    ],
)
async def test_a_token_for_some_networks_is_a_wrong_one_anywhere_else(
    address: str, is_let_in: bool
) -> None:
    replica = await _upgraded()
    token = await replica.token(sources=("192.0.2.0/24", "2001:db8::/32"))
    newcomer = SimulatedNode("n").newcomer(token)
    if is_let_in:
        await replica.services.enrolment.enrol(newcomer, address)
        return
    with pytest.raises(TokenRefused) as elsewhere:
        await replica.services.enrolment.enrol(newcomer, address)
    with pytest.raises(TokenRefused) as wrong:
        await replica.services.enrolment.enrol(replace(newcomer, token_secret="other"), "192.0.2.1")
    same = [(each.value.code, each.value.cause, each.value.remedy) for each in (elsewhere, wrong)]
    assert same[0] == same[1]
    assert not await replica.services.nodes.list()
    told = [e for e in await replica.services.events.list() if e.kind == "token_refused"]
    assert "not for nodes from" in told[0].text
    assert told[0].details["code"] == "token_from_elsewhere"
    assert told[0].by.address == address
    assert "wrong" in told[1].text


async def test_from_elsewhere_a_token_does_not_even_say_that_it_is_over() -> None:
    replica = await _upgraded()
    token = await replica.token(sources=("192.0.2.0/24",), life_s=60.0)
    replica.clock.now += 61.0
    newcomer = SimulatedNode("n").newcomer(token)
    for address, code in (("198.51.100.9", "token_refused"), ("192.0.2.9", "token_expired")):
        with pytest.raises(TokenRefused) as refused:
            await replica.services.enrolment.enrol(newcomer, address)
        assert refused.value.code == code


@pytest.mark.parametrize(
    ("facts", "is_let_in"),
    [
        (Facts(cloud_instance_id="i-0abc", dmi_uuid="d", machine_id="m"), True),
        (Facts(dmi_uuid="4C4C4544-0042", machine_id="m"), True),
        (Facts(machine_id="3d1219c7"), True),
        (Facts(cloud_instance_id="i-0abd", dmi_uuid="4c4c4544-0042"), False),
        (Facts(dmi_uuid="d", machine_id="3d1219c7"), False),  # a copy of the disk
        (Facts(boot_id="3d1219c7", root_disk_id="3d1219c7", first_mac="3d1219c7"), False),
    ],
)
async def test_a_token_for_some_machines_is_for_those_that_say_they_are_it(
    facts: Facts, is_let_in: bool
) -> None:
    """By the one fact that names the machine best."""
    replica = await _upgraded()
    token = await replica.token(instances=("I-0ABC", "4c4c4544-0042", " 3d1219c7 "))
    node = SimulatedNode("n", facts=facts)
    if is_let_in:
        await replica.enrol(node, token)
        return
    with pytest.raises(TokenRefused) as refused:
        await replica.enrol(node, token)
    assert refused.value.code == "token_for_other_instance"
    assert "i-0abc" not in refused.value.cause + refused.value.remedy
    assert not await replica.services.nodes.list()
    [kept] = await replica.services.tokens.list()
    assert kept.value.uses == 0
    told = [e for e in await replica.services.events.list() if e.kind == "token_refused"]
    assert [each.details["code"] for each in told] == ["token_for_other_instance"]
    assert (facts.instance_id or "says no instance ID") in told[0].text


async def test_a_token_for_some_machines_gives_a_lost_answer_again() -> None:
    replica = await _upgraded()
    token = await replica.token(instances=("i-0abc",))
    node = SimulatedNode("n", facts=Facts(cloud_instance_id="i-0abc"))
    for _ in range(2):
        await replica.enrol(node, token)
    [kept] = await replica.services.tokens.list()
    assert kept.value.uses == 1


@pytest.mark.parametrize("instance", ["", " ", "i 0abc", "i-0ab\u0107", "i" * 129, "i-0\x00abc"])
async def test_what_is_no_instance_id_is_refused(instance: str) -> None:
    with pytest.raises(Invalid) as caught:
        await Replica().token(instances=(instance, "i-0abc"))
    assert caught.value.code == "invalid_instance"


@pytest.mark.parametrize("source", ["192.0.2.1/24", "example.net", "", "10.0.0.0/33"])
async def test_what_is_no_network_is_refused(source: str) -> None:
    with pytest.raises(Invalid) as caught:
        await Replica().token(sources=(source,))
    assert caught.value.code == "invalid_source"


@pytest.mark.parametrize("bound", [{"sources": ("192.0.2.0/24",)}, {"instances": ("i-0abc",)}])
async def test_a_token_for_some_nodes_only_waits_until_an_upgrade_is_finished(
    bound: dict[str, tuple[str, ...]],
) -> None:
    """An appliance of the version before would let all nodes in."""
    replica = Replica()
    await replica.memory.commit([], [Put(keys.CLUSTER_FORMAT, b"2")])
    with pytest.raises(Clash) as caught:
        await replica.token(**bound)
    assert caught.value.code == "upgrade_unfinished"
    await replica.token()


async def test_a_removed_node_does_not_come_back_with_its_id() -> None:
    replica = Replica()
    token = await replica.token(max_uses=5)
    node = SimulatedNode()
    await replica.enrol(node, token)
    await replica.services.nodes.remove(node.id, SYSTEM)
    with pytest.raises(NodeRemoved):
        await replica.enrol(node, token)


@pytest.mark.parametrize("at_once", [2, 100])
async def test_a_token_for_one_use_lets_exactly_one_in_whoever_comes_at_once(at_once: int) -> None:
    first = Replica()
    second = Replica(first.memory, "r2")
    token = await first.token()
    tries = (
        replica.enrol(SimulatedNode(f"n{number}"), token)
        for number in range(at_once // 2)
        for replica in (first, second)
    )
    outcomes = await asyncio.gather(*tries, return_exceptions=True)
    refused = [each for each in outcomes if isinstance(each, TokenRefused)]
    assert {each.code for each in refused} == {"token_used_up"}
    assert len(outcomes) - len(refused) == 1
    assert len(await first.services.nodes.list()) == 1
    assert (await first.services.tokens.list())[0].value.uses == 1
    assert (await first.kinds()).count("token_refused") == at_once - 1


async def test_a_token_is_refused_from_the_second_it_expires() -> None:
    replica = Replica()
    token = await replica.token(life_s=60.0, max_uses=2)
    replica.clock.now += 59.9
    await replica.enrol(SimulatedNode(), token)
    replica.clock.now += 0.1
    with pytest.raises(TokenRefused) as caught:
        await replica.enrol(SimulatedNode(), token)
    assert caught.value.code == "token_expired"


@pytest.mark.parametrize("change", [{"token_secret": "x"}, {"token_id": "x"}, {"token_id": "../y"}])
async def test_a_wrong_secret_and_an_unknown_token_look_the_same_and_are_events(
    change: dict[str, str],
) -> None:
    replica = Replica()
    newcomer = SimulatedNode().newcomer(await replica.token())
    with pytest.raises(TokenRefused) as caught:
        await replica.services.enrolment.enrol(replace(newcomer, **change), "198.51.100.9")
    assert caught.value.code == "token_refused"
    event = (await replica.services.events.latest(1))[0]
    assert (event.kind, event.by.address) == ("token_refused", "198.51.100.9")
    assert await replica.services.nodes.list() == ()


async def test_a_deleted_token_lets_nobody_in() -> None:
    replica = Replica()
    token = await replica.token()
    await replica.services.tokens.delete((await replica.services.tokens.list())[0].value.id, SYSTEM)
    with pytest.raises(TokenRefused):
        await replica.enrol(SimulatedNode(), token)


async def test_a_token_that_wants_approval_makes_a_pending_node_until_it_is_approved() -> None:
    replica = Replica()
    red = await replica.vsubnet()
    node = SimulatedNode("n")
    credentials = await replica.enrol(node, await replica.token(red, needs_approval=True))
    assert credentials.state is NodeState.PENDING
    assert await replica.services.members.list() == ()
    view = await replica.services.nodes.approve("n", SYSTEM)
    assert view.value.node.state is NodeState.APPROVED
    assert len(view.value.members) == 1


async def test_a_rejected_node_is_refused_from_then_on() -> None:
    replica = Replica()
    node = SimulatedNode("n")
    token = await replica.token(needs_approval=True)
    await replica.enrol(node, token)
    await replica.services.nodes.reject("n", SYSTEM, "unknown machine")
    with pytest.raises(NodeRemoved) as caught:
        await replica.register(node)
    assert "unknown machine" in caught.value.cause


@pytest.mark.parametrize(
    "change",
    [
        {"node": "not-a-uuid"},
        {"data_public_key": "AAAA"},
        {"data_public_key": "A" * 43 + "="},
        {"data_public_key": "ä"},
        {"certificate_request": "nonsense"},
    ],
)
async def test_nonsense_is_refused_before_the_token_is_touched(change: dict[str, str]) -> None:
    replica = Replica()
    newcomer = SimulatedNode().newcomer(await replica.token())
    with pytest.raises(Invalid):
        await replica.services.enrolment.enrol(replace(newcomer, **change), "198.51.100.9")
    assert (await replica.services.tokens.list())[0].value.uses == 0


async def test_a_request_for_another_nodes_certificate_is_refused() -> None:
    replica = Replica()
    newcomer = SimulatedNode().newcomer(await replica.token())
    other = SimulatedNode().certificate_request()
    with pytest.raises(Invalid):
        await replica.services.enrolment.enrol(replace(newcomer, certificate_request=other), "x")


async def test_a_vsubnet_that_is_full_does_not_keep_a_node_out_and_is_told_once() -> None:
    replica = Replica()
    tiny = await replica.vsubnet("tiny", "10.9.0.0/30")
    token = await replica.token(tiny, max_uses=2)
    await replica.enrol(SimulatedNode("first"), token)
    late = SimulatedNode("late")
    assert (await replica.enrol(late, token)).state is NodeState.APPROVED
    await replica.services.nodes.tidy()
    assert (await replica.kinds()).count("member_waiting") == 1
    await replica.services.members.delete("tiny", "first", SYSTEM)
    replica.clock.now += 86_400
    await replica.services.nodes.tidy()
    members = await replica.services.members.list("tiny")
    assert [(member.value.node, member.value.ips) for member in members] == [
        (late.id, ("10.9.0.2",))
    ]


async def test_a_membership_that_an_operator_took_away_does_not_come_back_by_itself() -> None:
    replica = Replica()
    red = await replica.vsubnet()
    token = await replica.token(red)
    node = SimulatedNode("n")
    await replica.enrol(node, token)
    await replica.services.members.delete("red", "n", SYSTEM)
    await replica.enrol(node, token)
    await replica.services.nodes.tidy()
    assert await replica.services.members.list() == ()


async def test_renewal_gives_a_certificate_for_a_new_key_but_not_to_a_removed_node() -> None:
    replica = Replica()
    node = await replica.joined("n")
    fresh = SimulatedNode(id=node.id)
    pem = await replica.services.enrolment.renew(node.id, fresh.certificate_request())
    renewed = x509.load_pem_x509_certificate(pem.encode())
    assert renewed.public_key() == fresh.key.public_key()
    await replica.services.nodes.remove("n", SYSTEM)
    with pytest.raises(NodeRemoved):
        await replica.services.enrolment.renew(node.id, fresh.certificate_request())


async def test_secrets_of_tokens_and_vsubnets_are_not_in_the_store() -> None:
    replica = Replica()
    red = await replica.vsubnet()
    newcomer = SimulatedNode().newcomer(await replica.token(red))
    await replica.services.enrolment.enrol(newcomer, "198.51.100.9")
    stored = await read(replica.memory, records.psks, keys.psks(red))
    assert stored is not None
    everything = b"".join(item.value for item in (await replica.memory.list("")).items)
    assert newcomer.token_secret.encode() not in everything
    psk = stored.value.epochs[0]
    opened = Epochs(SEALER).open(red, psk.epoch, psk.sealed)
    assert len(base64.b64decode(opened)) == 32
    assert opened.encode() not in everything


async def test_strangers_cannot_push_all_else_out_of_the_events(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(enrolment_module, "REFUSALS_TOLD_A_MINUTE", 5)
    replica = Replica()
    token = await replica.token()
    wrong = replace(SimulatedNode().newcomer(token), token_secret="wrong")
    for _ in range(20):
        with pytest.raises(TokenRefused):
            await replica.services.enrolment.enrol(wrong, "198.51.100.9")
    assert (await replica.kinds()).count("token_refused") == 5
    replica.clock.now += 60
    with pytest.raises(TokenRefused):
        await replica.services.enrolment.enrol(wrong, "198.51.100.9")
    assert (await replica.kinds()).count("token_refused") == 6


async def test_a_refusal_counts_where_its_event_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    replica = Replica()
    wrong = replace(SimulatedNode().newcomer(await replica.token()), token_secret="wrong")

    async def full(*_: object) -> int:
        raise Full("no space")

    monkeypatch.setattr(replica.store, "commit", full)
    with pytest.raises(TokenRefused):
        await replica.services.enrolment.enrol(wrong, "198.51.100.9")
