"""The link to the appliances, against a real TLS server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
from cairn_agent.control import joining
from cairn_agent.control.link import Barred, Link, SentAway, renewal_in_s
from cairn_agent.control.replica import Silent
from cairn_agent.errors import Busy, NoAnswer, TurnedAway, Unreachable
from cairn_agent.identity import Identity, certificate_request, new_keys
from cairn_agent.netmap.held import NetmapCopy
from cairn_agent.protocol import acks, enrolment
from cairn_agent.protocol import netmap as wire
from cairn_agent.protocol.token import decode_token
from cryptography import x509

from tests.awake import AwakeClock
from tests.unit.agent.fakes.appliance import Authority, FakeAppliance
from tests.unit.agent.fakes.netmaps import member
from tests.unit.agent.fakes.running import beside, until


class FakeNode:
    """What the daemon is to the link."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self.endpoints = ["192.0.2.1:8002"]
        self.changes = 0
        self.copy: NetmapCopy | None = None
        self.times_heard = 0

    def identity(self) -> Identity:
        return self._identity

    def registration(self) -> enrolment.RegisterRequest:
        return enrolment.RegisterRequest(
            self._identity.generation, enrolment.Facts(), self.endpoints, "vm", "0.1.0"
        )

    def registered(self, answer: enrolment.RegisterAnswer) -> None:
        self.keep(generation=answer.generation)

    def renewed(self, answer: enrolment.RenewAnswer) -> None:
        self.keep(certificate=answer.certificate)

    def trust_changed(self) -> None:
        assert self.copy is not None
        held = self.copy.trust
        assert held is not None
        self.keep(
            ca="".join(held.document.authorities),
            issuer=held.document.issuer,
            renew_within_s=held.document.renew_within_s,
            trust=held.digest,
        )

    def netmap_changed(self) -> None:
        self.changes += 1

    def heard(self) -> None:
        self.times_heard += 1

    def keep(self, **changes: object) -> None:
        self._identity = msgspec.structs.replace(self._identity, **changes)


class Running:
    """A node that has joined, with its link running."""

    def __init__(self, appliance: FakeAppliance, node: FakeNode) -> None:
        self.appliance = appliance
        self.node = node
        identity = node.identity()
        self.copy = NetmapCopy(
            cluster_id=identity.cluster_id, node_id=identity.node_id, map_key=identity.map_key
        )
        node.copy = self.copy
        self.link = Link(node, self.copy)

    def full_set(self, revision: int, heartbeat_s: float = 15.0) -> list[bytes]:
        cluster, node = self.appliance.cluster, self.node.identity().node_id
        return [
            cluster.reset(),
            cluster.node_of(node, [7], revision, heartbeat_s=heartbeat_s),
            cluster.vsubnet([member(2)], revision),
            cluster.in_sync(revision),
        ]

    @contextlib.asynccontextmanager
    async def linked(self) -> AsyncIterator[asyncio.Task[None]]:
        async with beside(self.link.run()) as task:
            yield task

    async def until(self, condition: Callable[[], object], within_s: float = 8.0) -> None:
        await until(condition, within_s)


@pytest_asyncio.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    appliance = FakeAppliance(tmp_path)
    await appliance.start()
    token = decode_token(appliance.token())
    identity = await joining.enrol(
        token, new_keys(), name="vm", facts=enrolment.Facts(), version="0.1.0"
    )
    yield Running(appliance, FakeNode(identity))
    await appliance.stop()


async def test_it_registers_then_follows_and_hears(running: Running) -> None:
    running.appliance.lines = running.full_set(5)
    async with running.linked():
        await running.until(lambda: running.node.times_heard)
    assert running.node.changes == 1
    assert running.copy.position() == (1, 5)
    assert running.appliance.stream_queries == ["incarnation=0&after=0"]


async def test_the_generation_that_was_offered_is_presented_next(running: Running) -> None:
    async with running.linked():
        await running.appliance.until(lambda fake: fake.stream_count)
        running.link.register_soon()
        await running.appliance.until(lambda fake: len(fake.asked("register")) >= 2)
    offered = [body["generation"] for body in running.appliance.asked("register")]
    assert offered == [1, 2]


async def test_changed_endpoints_are_registered_beside_the_stream(running: Running) -> None:
    async with running.linked():
        await running.appliance.until(lambda fake: fake.stream_count)
        running.node.endpoints = ["198.51.100.9:8002"]
        running.link.register_soon()
        await running.appliance.until(lambda fake: len(fake.asked("register")) >= 2)
        assert running.appliance.asked("register")[-1]["endpoints"] == ["198.51.100.9:8002"]
        assert len(running.appliance.stream_queries) == 1


_TOO_MANY = {"status": 429, "code": "too_many_requests", "title": "Too many", "remedy": "wait"}


async def test_who_registers_too_often_waits_as_long_as_is_asked_and_keeps_the_link(
    running: Running,
) -> None:
    asked_at = []

    def answer(_: dict[str, object]) -> tuple[int, dict[str, object]]:
        asked_at.append(time.monotonic())
        if len(asked_at) > 1:
            del running.appliance.answers["register"]
        return 429, _TOO_MANY

    running.appliance.retry_after_s = 1
    async with running.linked():
        await running.appliance.until(lambda fake: fake.stream_count)
        running.appliance.answers["register"] = answer
        running.link.register_soon()
        await running.until(lambda: asked_at)
        running.node.endpoints = ["198.51.100.9:8002"]
        running.link.register_soon()
        await running.appliance.until(lambda fake: len(fake.asked("register")) >= 4, within_s=20)
        ended = time.monotonic()
        assert running.appliance.asked("register")[-1]["endpoints"] == ["198.51.100.9:8002"]
        assert running.link.state.is_up
    assert len(running.appliance.stream_queries) == 1
    assert asked_at[1] - asked_at[0] >= 1.0
    assert ended - asked_at[1] >= 1.0


async def test_it_is_told_where_an_appliance_knows_what_there_is_to_register(
    running: Running,
) -> None:
    link = running.link
    told_before: list[bool] = []  # as each registration is answered

    def noted(body: dict[str, object]) -> tuple[int, dict[str, object]]:
        told_before.append(link.told.is_set())
        return running.appliance.usual_answer("register", body)

    def changed_meanwhile(body: dict[str, object]) -> tuple[int, dict[str, object]]:
        running.appliance.answers["register"] = noted
        link.register_soon()
        return noted(body)

    running.appliance.answers["register"] = changed_meanwhile
    async with running.linked():
        await running.until(link.told.is_set)
        assert told_before == [False, False], "what changed meanwhile is told, too"

        running.appliance.answers["register"] = lambda _: (429, _TOO_MANY)
        link.register_soon()
        await running.appliance.until(lambda fake: len(fake.asked("register")) >= 3)
        assert not link.told.is_set(), "put off"
        del running.appliance.answers["register"]
        await running.until(link.told.is_set)

        await running.appliance.stop()
        await running.until(lambda: not link.told.is_set())
        await running.appliance.start()


async def test_who_renews_too_often_keeps_the_link(running: Running) -> None:
    request = joining.certificate_request(running.node.identity().keys)
    running.node.keep(certificate=running.appliance.authority.client(request, timedelta(hours=2)))
    running.appliance.answers["renew"] = lambda _: (429, _TOO_MANY)
    async with running.linked():
        await running.appliance.until(lambda fake: fake.asked("renew"))
        running.link.register_soon()
        await running.appliance.until(lambda fake: len(fake.asked("register")) >= 2)
        assert running.link.state.is_up
    assert len(running.appliance.stream_queries) == 1


async def test_a_stream_without_heartbeat_is_given_up(running: Running) -> None:

    def fast(body: dict[str, object]) -> tuple[int, dict[str, object]]:
        status, fields = running.appliance.usual_answer("register", body)
        return status, fields | {"heartbeat_s": 0.2}

    running.appliance.answers["register"] = fast
    running.appliance.lines = running.full_set(5, 0.2)
    async with running.linked():
        await running.appliance.until(lambda fake: len(fake.stream_queries) >= 2, within_s=30)
    assert running.appliance.stream_queries[1] == "incarnation=1&after=5"
    assert "no answer" in running.link.state.error or running.link.state.is_up


async def test_the_netmap_says_how_often_the_appliance_speaks_from_now_on(
    running: Running,
) -> None:
    running.appliance.lines = running.full_set(5, 0.2)  # the registration says 15 s
    async with running.linked():
        await running.appliance.until(lambda fake: len(fake.stream_queries) >= 2, within_s=30)


async def test_after_a_silence_another_replica_has_its_turn_at_once(running: Running) -> None:
    silence = Silent("the appliance at 192.0.2.1:8002 has said nothing for 3.5 s", "")
    running.link.state = replace(running.link.state, is_up=True)
    running.node.keep(appliances=["192.0.2.1:8002", "192.0.2.2:8002"])
    assert running.link._after("192.0.2.1:8002", silence) <= 0.5


async def test_the_replica_that_was_lost_is_not_the_next_one_though_others_have_come(
    running: Running,
) -> None:
    places = ["192.0.2.1:8002", "192.0.2.2:8002", "192.0.2.3:8002"]
    for turn in range(6):
        running.link._turn = turn
        running.node.keep(appliances=places[:1])
        assert running.link._next_replica() == places[0]
        running.node.keep(appliances=places)
        assert running.link._next_replica() != places[0]


async def test_one_that_was_lost_is_not_tried_while_others_answer_that_they_are_busy(
    running: Running,
) -> None:
    """To connect to one that nobody reaches takes 5 s; the others have a leader before that."""
    places = ["192.0.2.1:8002", "192.0.2.2:8002", "192.0.2.3:8002"]
    link = running.link
    running.node.keep(appliances=places)
    link.state = replace(link.state, is_up=True)
    link._after(places[0], Silent("it has said nothing for 3.5 s", ""))
    tried = []
    for _ in range(6):
        tried.append(link._next_replica())
        link._after(tried[-1], Busy("no quorum", "", 2.0))
    assert sorted(set(tried)) == places[1:]

    for place in places[1:]:
        link._after(place, NoAnswer("no answer", ""))
    tried = [link._next_replica() for _ in range(6)]
    assert sorted(set(tried)) == places, "all are lost: each has its turn"

    link._lost_at = {place: at - 16.0 for place, at in link._lost_at.items()}
    assert link._hopeful(places) == places


async def test_one_that_answers_again_is_no_longer_avoided(running: Running) -> None:
    """It answers 503, which is more than the one that has just fallen silent does."""
    places = ["192.0.2.1:8002", "192.0.2.2:8002", "192.0.2.3:8002"]
    link = running.link
    running.node.keep(appliances=places)
    for place in places:
        link._after(place, NoAnswer("no answer", ""))
    link.state = replace(link.state, is_up=True)
    link._after(places[0], Silent("it has said nothing for 3.5 s", ""))
    for place in places[1:]:
        link._after(place, Busy("no quorum", "", 2.0))
    assert {link._next_replica() for _ in range(6)} == set(places[1:])


async def test_one_that_refuses_a_connection_is_not_avoided(running: Running) -> None:
    """It may run again by now, and to try costs nothing."""
    places = ["192.0.2.1:8002", "192.0.2.2:8002", "192.0.2.3:8002"]
    link = running.link
    running.node.keep(appliances=places)
    for place in places[1:]:
        link._after(place, Unreachable("connection refused", ""))
    link.state = replace(link.state, is_up=True)
    link._tried = places[0]
    link._after(places[0], SentAway("it asks to use another one", "", 0.1))
    assert link._next_replica() in places[1:]


async def test_those_that_choose_a_leader_are_asked_again_soon(running: Running) -> None:
    """They say 2 s, and have one before that; the link has to be up again 5 s after it was lost."""
    places = ["192.0.2.1:8002", "192.0.2.2:8002", "192.0.2.3:8002"]
    link = running.link
    running.node.keep(appliances=places)
    link.state = replace(link.state, is_up=True)
    link._after(places[0], Unreachable("it ended the connection", ""))
    waits = [link._after(places[n % 2 + 1], Busy("no quorum", "", 2.0)) for n in range(6)]
    assert max(waits) <= 1.0
    # One that refuses a connection is tried in its turn, and says nothing of the others.
    for turn in range(6):
        for place in places[1:]:
            waits.append(link._after(place, Busy("no quorum", "", 2.0)))
        waits.append(link._after(places[0], Unreachable("it refuses the connection", "")))
        assert max(waits) <= 1.0, turn

    link._was_up_at -= 10.0
    waits = [link._after(places[n % 2 + 1], Busy("no quorum", "", 2.0)) for n in range(3)]
    assert max(waits) >= 2.0


async def test_who_is_turned_away_comes_again_within_seconds_however_often(
    running: Running,
) -> None:
    """The appliance lives, and would have nothing to do if all who wait stayed away for long."""
    link = running.link
    (place,) = running.node.identity().appliances
    waits = [link._after(place, TurnedAway("too many newcomers", "")) for _ in range(100)]
    assert max(waits) <= 8.0
    assert max(waits[50:]) > 2.0, "they come later where many are turned away"
    assert place not in link._lost_at
    assert not link.nobody_there.is_set()
    assert link._after(place, Unreachable("connection refused", "")) <= 3.0, "that is the first"


async def test_an_appliance_that_falls_silent_is_left_with_patience(running: Running) -> None:
    """What the stream may be silent for is what the patience says, also while it is open."""
    running.appliance.lines = running.full_set(4, heartbeat_s=0.2)
    async with running.linked():
        await running.until(lambda: running.link.state.is_up)
        await running.until(lambda: "said nothing for 0.5 s" in running.link.state.error)
        await running.until(lambda: "said nothing for 1.0 s" in running.link.state.error)


async def test_a_removed_node_is_barred_by_the_stream(running: Running) -> None:
    running.appliance.lines = [b'{"type":"removed","reason":"sold"}']
    async with running.linked() as task:
        with pytest.raises(Barred, match="sold"):
            await task


@pytest.mark.parametrize("code", ["node_removed", "duplicate_node"])
async def test_a_node_that_may_not_come_is_barred(running: Running, code: str) -> None:
    problem = {"title": "No", "status": 403, "code": code, "detail": "not you"}
    running.appliance.answers["register"] = lambda _: (403, problem)
    async with running.linked() as task:
        with pytest.raises(Barred, match="not you"):
            await task


async def test_any_other_refusal_is_tried_again_and_told(running: Running) -> None:
    problem = {"title": "No", "status": 403, "code": "x", "detail": "not now", "remedy": "wait"}
    running.appliance.answers["register"] = lambda _: (403, problem)
    async with running.linked():
        await running.until(lambda: running.link.state.error == "not now")
        assert running.link.state.remedy == "wait"
        del running.appliance.answers["register"]
        running.link.register_soon()
        await running.until(lambda: running.link.state.is_up)


async def test_go_away_moves_to_the_next_replica(running: Running, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = FakeAppliance(tmp_path / "other", running.appliance.authority)
    await other.start()
    try:
        running.node.keep(appliances=[running.appliance.address, other.address])
        running.link._turn = -1
        running.appliance.answers["register"] = lambda body: _with_replicas(
            running.appliance, body, [running.appliance.address, other.address]
        )
        running.appliance.lines = [b'{"type":"go_away","after_ms":10}']
        async with running.linked():
            await other.until(lambda fake: fake.stream_count, within_s=30)
    finally:
        await other.stop()


async def test_go_away_is_heeded_at_its_own_time_where_there_is_another_replica(
    running: Running,
) -> None:
    error = SentAway("192.0.2.1:8002 asks to use another appliance", "", 0.25)
    running.link.state = replace(running.link.state, is_up=True)
    running.node.keep(appliances=["192.0.2.1:8002", "192.0.2.2:8002"])
    assert running.link._after("192.0.2.1:8002", error) == 0.25
    running.node.keep(appliances=["192.0.2.1:8002"])
    assert running.link._after("192.0.2.1:8002", error) >= 0.25


def _with_replicas(
    fake: FakeAppliance, body: dict[str, object], replicas: list[str]
) -> tuple[int, dict[str, object]]:
    status, fields = fake.usual_answer("register", body)
    return status, fields | {"appliances": replicas}


async def test_a_dead_replica_costs_no_back_off(running: Running) -> None:
    running.node.keep(appliances=["127.0.0.1:1", running.appliance.address])
    running.link._turn = -1
    with AwakeClock() as clock:
        async with running.linked():
            await running.until(lambda: running.link.state.is_up)
            assert clock.passed_s < 1.5


async def test_a_server_of_another_authority_gets_nothing(running: Running, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    impostor = FakeAppliance(tmp_path / "other", Authority("impostor"))
    await impostor.start()
    try:
        running.node.keep(appliances=[impostor.address])
        async with running.linked():
            await running.until(lambda: "not signed by the cluster" in running.link.state.error)
        assert impostor.requests == []
        assert impostor.stream_queries == []
    finally:
        await impostor.stop()


async def test_a_certificate_past_half_life_is_renewed_once(running: Running) -> None:
    request = joining.certificate_request(running.node.identity().keys)
    old = running.appliance.authority.client(request, life=timedelta(hours=2))
    running.node.keep(certificate=old)
    assert renewal_in_s(old) < 0

    running.appliance.answers["renew"] = lambda _: (200, {"certificate": old, "ca": ""})
    async with running.linked():
        await running.appliance.until(lambda fake: fake.asked("renew"))
        running.link.register_soon()
        await running.appliance.until(lambda fake: len(fake.asked("register")) >= 2)
        await asyncio.sleep(0.1)
    assert len(running.appliance.asked("renew")) == 1, "an answer that is old too makes no storm"


async def test_an_unreadable_line_is_reported_and_everything_asked_for_anew(
    running: Running,
) -> None:
    running.appliance.lines = [*running.full_set(5), b'{"type":"vsubnet","vni":"seven"}']
    async with running.linked():
        await running.appliance.until(lambda fake: len(fake.stream_queries) >= 2, within_s=30)
    assert running.copy.position() == (1, 5)


async def test_an_acknowledgement_lost_with_its_session_is_sent_in_the_next(
    running: Running,
) -> None:
    running.appliance.lines = running.full_set(5)
    running.appliance.takes_acks = False
    busy = {"title": "busy", "status": 503, "code": "unavailable"}
    running.appliance.answers["ack"] = lambda _: (503, busy)
    async with running.linked():
        await running.until(lambda: running.node.times_heard)
        running.link.acknowledge(enrolment.AckRequest(5, 1))
        await running.appliance.until(lambda fake: fake.asked("ack"))
        del running.appliance.answers["ack"]
        await running.appliance.until(lambda fake: len(fake.asked("ack")) >= 2, within_s=30)


async def test_ending_the_link_in_the_moment_of_a_failure_ends_it(running: Running) -> None:
    """Before Python 3.13 a TaskGroup loses a cancellation that meets a failure."""
    for _ in range(5):
        async with running.linked() as task:
            await running.appliance.until(lambda fake: fake.stream_count, within_s=30)
            for writer in list(running.appliance._writers):
                writer.transport.abort()
            await asyncio.sleep(0)
            task.cancel()
            async with asyncio.timeout(3):
                await asyncio.gather(task, return_exceptions=True)


async def test_a_long_line_arrives_whole_in_any_pieces(running: Running) -> None:
    cluster, node = running.appliance.cluster, running.node.identity().node_id
    many = [member(2, name="x" * 300_000), member(3)]
    running.appliance.lines = [
        cluster.reset(),
        cluster.node_of(node, [7], 5),
        cluster.vsubnet(many, 5),
        cluster.in_sync(5),
    ]
    async with running.linked():
        await running.until(lambda: running.copy.position() == (1, 5))
    assert running.copy.current is not None
    assert len(json.dumps(running.copy.current.digests())) > 0
    assert len(running.copy.current.vsubnets[7].members) == 2


async def test_lost_peers_end_the_wait_for_an_appliance_now_and_then_only(
    running: Running,
) -> None:
    """Each data plane asks for endpoints every second, of every agent that lost a peer."""
    busy = {"title": "No", "status": 503, "code": "unavailable", "detail": "no"}
    running.appliance.answers["register"] = lambda _: (503, busy)
    async with running.linked():
        await running.appliance.until(lambda fake: fake.asked("register"))
        for _ in range(100):
            running.link.hasten()
            await asyncio.sleep(0.01)
    assert len(running.appliance.asked("register")) < 8


@pytest.mark.parametrize(
    "answer", [{"certificate": "", "ca": ""}, {"certificate": "x", "ca": "y"}], ids=["none", "junk"]
)
async def test_a_renewal_that_cannot_be_used_is_not_kept(
    running: Running, answer: dict[str, str]
) -> None:
    """Kept, it would end every later start of the agent."""
    running.appliance.answers["renew"] = lambda _: (200, answer)
    before = running.node.identity().certificate
    due = running.appliance.authority.client(
        certificate_request(running.node.identity().keys), timedelta(seconds=30)
    )
    running.node.keep(certificate=due)
    async with running.linked() as task:
        await running.appliance.until(lambda fake: fake.asked("renew"))
        await asyncio.sleep(0.1)
        assert not task.done()
        assert running.link.state.is_up
    assert running.node.identity().certificate == due != before


@pytest.mark.parametrize("appliances", [[], ["not an address"]])
async def test_a_node_that_knows_no_usable_appliance_waits(
    running: Running, appliances: list[str]
) -> None:
    known = running.node.identity().appliances
    running.node.keep(appliances=appliances)
    async with running.linked() as task:
        await running.until(lambda: "no appliance is known" in running.link.state.error)
        assert not task.done()
        running.node.keep(appliances=[*appliances, *known])
        running.link.register_soon()
        await running.until(lambda: running.link.state.is_up)


async def test_a_node_that_was_away_past_its_certificate_renews_it_and_is_back(
    running: Running,
) -> None:
    expired = {"title": "No", "status": 403, "code": "certificate_expired", "detail": "expired"}
    running.appliance.answers["register"] = lambda _: (403, expired)
    async with running.linked():
        await running.appliance.until(lambda fake: fake.asked("renew"))
        del running.appliance.answers["register"]
        with AwakeClock() as clock:
            await running.until(lambda: running.link.state.is_up)
            assert clock.passed_s < 1.0
    assert running.node.identity().certificate


async def test_a_connection_whose_address_is_gone_is_not_waited_for(running: Running) -> None:
    """The answer to a registration on it would never come."""
    running.appliance.lines = running.full_set(5)
    async with running.linked():
        await running.until(lambda: running.node.times_heard)
        connections = running.appliance.connections
        running.link.connect_anew()
        await running.appliance.until(lambda fake: len(fake.asked("register")) >= 2, within_s=5)
        await running.appliance.until(lambda fake: len(fake.stream_queries) >= 2, within_s=5)
    assert running.appliance.connections > connections
    assert running.appliance.stream_queries[1] == "incarnation=1&after=5"


def trust_line(running: Running, authority: Authority, revision: int, within_s: float) -> bytes:
    cluster = running.appliance.cluster
    identifier = x509.SubjectKeyIdentifier.from_public_key(authority.certificate.public_key())
    document = wire.TrustDocument(
        [authority.pem, running.appliance.authority.pem],
        identifier.digest.hex(),
        cluster.map_key,
        "",
        within_s,
    )
    signature = cluster.sign("trust", cluster.id, revision, wire.trust_digest(document))
    return wire.encode(wire.TrustUpdate([], document, revision, signature))


async def test_whom_it_trusts_is_acknowledged_and_said_when_it_comes_again(
    running: Running,
) -> None:
    reset, *rest = running.full_set(5)
    line = trust_line(running, running.appliance.authority, 4, 0.0)
    running.appliance.lines = [reset, line, *rest]
    async with running.linked():
        await running.appliance.until(lambda fake: fake.asked("ack"))
        assert running.copy.trust is not None
        digest = running.copy.trust.digest
        assert running.appliance.asked("ack")[-1]["trust"] == digest
        running.link.connect_anew()
        await running.appliance.until(lambda fake: len(fake.stream_queries) >= 2)
    assert running.appliance.stream_queries[1] == f"incarnation=1&after=5&trust={digest}"


async def test_a_certificate_of_another_issuer_is_renewed_and_shown_on_a_new_connection(
    running: Running,
) -> None:
    new = Authority()
    reset, *rest = running.full_set(5)
    running.appliance.lines = [reset, trust_line(running, new, 4, 0.2), *rest]
    asked: list[str] = []

    def renew(body: dict[str, str]) -> tuple[int, dict[str, str]]:
        asked.append(body["certificate_request"])
        certificate = new.client(body["certificate_request"])
        return 200, {"certificate": certificate, "ca": new.pem + running.appliance.authority.pem}

    running.appliance.trust(new.pem)
    running.appliance.answers["renew"] = renew
    before = running.node.identity().certificate
    async with running.linked():
        await running.appliance.until(lambda fake: len(fake.stream_queries) >= 2)
        assert running.node.identity().certificate != before
        acknowledged = running.appliance.asked
        await running.until(
            lambda: any(
                each["issuer"] == running.node.identity().issuer for each in acknowledged("ack")
            )
        )
        await asyncio.sleep(0.3)
    assert len(asked) == 1
    assert len(running.appliance.stream_queries) == 2


async def test_an_issuer_that_does_not_issue_yet_makes_no_storm(running: Running) -> None:
    reset, *rest = running.full_set(5)
    running.appliance.lines = [reset, trust_line(running, Authority(), 4, 0.0), *rest]
    async with running.linked():
        await running.appliance.until(lambda fake: len(fake.stream_queries) >= 2)
        await asyncio.sleep(0.5)
    assert len(running.appliance.asked("renew")) == 1


async def test_a_restored_cluster_is_told_what_is_held_before_anything_is_taken(
    running: Running,
) -> None:
    held = running.full_set(5)
    for line in held:
        running.copy.apply(wire.decode_received(line))
    is_restoring = True

    def register(_: dict[str, object]) -> tuple[int, dict[str, object]]:
        if is_restoring:
            return 503, {"title": "not now", "status": 503, "code": "restoring"}
        return 200, registered(running, reassert=False)

    running.appliance.answers["register"] = register
    running.appliance.answers["reassert"] = lambda _: (200, {"wanted": [7, 9]})
    async with running.linked():
        await running.appliance.until(lambda fake: fake.asked("reassert/vsubnet"))
        assert running.appliance.stream_queries == []
        assert running.copy.position() == (1, 5)
        is_restoring = False
        running.link.register_soon()
        await running.appliance.until(lambda fake: fake.stream_count)
    (told,) = running.appliance.asked("reassert")[:1]
    assert (told["incarnation"], told["revision"], told["vsubnets"]) == (1, 5, {"7": 5})
    assert told["node"] == json.loads(held[1])
    (shown,) = running.appliance.asked("reassert/vsubnet")[:1]  # VNI 9 is none of its own
    assert (shown["incarnation"], shown["document"]) == (1, json.loads(held[2]))


async def test_who_comes_late_to_a_restored_cluster_tells_it_before_it_follows(
    running: Running,
) -> None:
    for line in running.full_set(5):
        running.copy.apply(wire.decode_received(line))
    running.appliance.answers["register"] = lambda _: (200, registered(running, reassert=True))
    running.appliance.answers["reassert"] = lambda _: (
        422,
        {"title": "no", "status": 422, "code": "foreign_document"},
    )
    async with running.linked():
        await running.appliance.until(lambda fake: fake.stream_count)
        calls = [path for path, _ in running.appliance.requests]
        assert calls.index("register") < calls.index("reassert")


async def test_it_registers_once_more_where_a_later_try_was_on_record(running: Running) -> None:

    def register(_: object) -> tuple[int, dict[str, object]]:
        is_first = len(running.appliance.asked("register")) == 1
        return 200, registered(running, reassert=False) | {"again": is_first}

    running.appliance.answers["register"] = register
    async with running.linked():
        await running.appliance.until(lambda fake: len(fake.asked("register")) >= 2)
        await asyncio.sleep(0.2)
    assert len(running.appliance.asked("register")) == 2


def registered(running: Running, *, reassert: bool) -> dict[str, object]:
    return {
        "state": "approved",
        "generation": 2,
        "seen_address": "127.0.0.1",
        "appliances": [running.appliance.address],
        "heartbeat_s": 15.0,
        "reassert": reassert,
    }


async def test_a_report_goes_up_the_stream_without_a_connection_of_its_own(
    running: Running,
) -> None:
    running.appliance.lines = running.full_set(5)
    async with running.linked():
        await running.until(lambda: running.link.takes_reports)
        connections = running.appliance.connections
        for number in range(3):
            assert await running.link.report(b'{"number":%d}\n' % number)
        await running.until(lambda: len(running.appliance.reports) >= 3)
        assert running.appliance.connections == connections
        # What comes down is read as before.
        running.appliance.send(running.appliance.cluster.in_sync(6))
        await running.until(lambda: running.copy.position() == (1, 6))
    assert running.link.streams == 1


async def test_acknowledgements_go_up_the_stream_not_too_often_and_the_newest_last(
    running: Running,
) -> None:
    running.appliance.lines = running.full_set(5)
    async with running.linked():
        await running.until(lambda: running.node.times_heard)
        connections = running.appliance.connections
        begun = time.monotonic()
        for revision in range(5, 105):
            running.link.acknowledge(enrolment.AckRequest(revision, 1))
            await asyncio.sleep(0.01)
        await running.appliance.until(lambda fake: fake.asked("ack")[-1]["revision"] == 104)
        took_s = time.monotonic() - begun
        assert running.appliance.acks_up == len(running.appliance.asked("ack"))
        assert running.appliance.acks_up <= 2 + took_s / acks.APART_S
        assert running.appliance.connections == connections
        assert await running.link.report(b"{}\n")


async def test_an_acknowledgement_lost_with_its_stream_is_sent_again(running: Running) -> None:
    """Up the next one, or in a request if its turn comes before that is open."""
    running.appliance.lines = running.full_set(5)
    async with running.linked():
        await running.until(lambda: running.node.times_heard)
        running.link.acknowledge(enrolment.AckRequest(5, 1))
        await running.appliance.until(lambda fake: fake.acks_up >= 1)
        running.appliance.end_streams()
        await running.appliance.until(lambda fake: len(fake.asked("ack")) >= 2, within_s=30)
        assert running.appliance.asked("ack")[-1]["revision"] == 5


@pytest.mark.parametrize("takes_reports", [True, False])
async def test_an_older_appliance_gets_acknowledgements_by_requests(
    running: Running, takes_reports: bool
) -> None:
    running.appliance.takes_acks, running.appliance.takes_reports = False, takes_reports
    running.appliance.lines = running.full_set(5)
    async with running.linked():
        await running.until(lambda: running.node.times_heard)
        running.link.acknowledge(enrolment.AckRequest(5, 1))
        await running.appliance.until(lambda fake: fake.asked("ack"))
        assert running.link.takes_reports == takes_reports
    assert running.appliance.acks_up == 0


async def test_an_older_appliance_is_told_nothing(running: Running) -> None:
    running.appliance.takes_reports = running.appliance.takes_acks = False
    running.appliance.lines = running.full_set(5)
    async with running.linked():
        await running.until(lambda: running.node.times_heard)
        assert not running.link.takes_reports
        assert not await running.link.report(b"{}\n")
    assert running.appliance.reports == []
