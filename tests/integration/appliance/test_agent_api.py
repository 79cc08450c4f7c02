"""The agent API of a running appliance: real TLS, real HTTP, real etcd."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import msgspec
import pytest
from cairn_agent.control.replica import Replica
from cairn_agent.control.tls import pinned_authority, server_context
from cairn_agent.errors import Busy, Refused, Unreachable
from cairn_agent.protocol import enrolment as wire
from cairn_agent.protocol import netmap as netmap_wire
from cairn_agent.protocol.token import decode_token
from cairn_appliance.cluster import bootstrap
from cairn_appliance.cluster.etcd_process import client_tls
from cairn_appliance.domain.errors import Unavailable
from cairn_appliance.domain.generation import REGISTERED_LATELY_S
from cairn_appliance.domain.identity import SYSTEM, Facts
from cairn_appliance.pki.authority import Authority
from cairn_appliance.store import keys
from cairn_appliance.store.etcd import EtcdStore
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests.integration.appliance.running import (
    Member,
    RunningAppliance,
    context_with,
    enrol_request,
    register_request,
)
from tests.proofs import record
from tests.simulated_node import Follower, SimulatedNode

pytestmark = pytest.mark.etcd


@pytest.fixture(scope="module")
def appliance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningAppliance]:
    appliance = RunningAppliance(tmp_path_factory.mktemp("appliance"))
    appliance.start()
    yield appliance
    if appliance.process and appliance.process.poll() is None:
        appliance.end(signal.SIGTERM)


def follower(member: Member) -> Follower:
    return member.node.copy(member.answer.cluster_id, member.answer.map_key)


@contextlib.asynccontextmanager
async def following(member: Member, copy: Follower) -> AsyncIterator[Callable[..., asyncio.Future]]:  # type: ignore[type-arg]
    """Follow the netmap into the copy; yields a function that waits for a condition."""
    changed = asyncio.Condition()
    ended: list[BaseException] = []

    async def follow() -> None:
        async with member.client() as replica:
            at = copy.copy.position()
            try:
                async for line in replica.netmap_lines(*at, quiet_s=5.0):
                    async with changed:
                        copy.take(line)
                        changed.notify_all()
            except Unreachable as error:
                ended.append(error)
                async with changed:
                    changed.notify_all()

    async def until(condition: Callable[[], bool], within_s: float = 5.0) -> float:
        """Return how long it took."""
        begun = time.monotonic()
        async with asyncio.timeout(within_s), changed:
            await changed.wait_for(condition)
        return time.monotonic() - begun

    task = asyncio.create_task(follow())
    try:
        yield until  # type: ignore[misc]
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_node_joins_registers_and_holds_the_netmap_the_appliance_holds(
    appliance: RunningAppliance,
) -> None:
    member = await appliance.member("first")
    assert member.answer.state == "approved"
    answer = await member.register()
    assert (answer.seen_address, answer.heartbeat_s) == ("127.0.0.1", 0.5)
    copy = follower(member)
    async with following(member, copy) as until:
        await until(lambda: len(copy.digests) == 2)
        await until(lambda: copy.kinds.count("insync") >= 3)  # heartbeats
    assert copy.kinds[:4] == ["reset", "node", "full", "insync"]
    async with member.client() as replica:
        await replica.ack(wire.AckRequest(copy.revision, 1, copy.digests))


async def test_an_acknowledgement_goes_up_the_stream_and_to_the_other_replicas(
    appliance: RunningAppliance,
) -> None:
    member = await appliance.member("first")
    ack = wire.AckRequest(4711, 1, {"node": "ab" * 32})
    async with (
        member.client() as replica,
        contextlib.aclosing(replica.netmap_lines(0, 0, 15.0)) as lines,
    ):
        await anext(lines)
        assert await replica.ack_up(ack)
        async with appliance.operator() as services, asyncio.timeout(15):
            while not [
                item
                for item in (await services.store.list(keys.PRESENCE)).items
                if b'"loaded_revision":4711' in item.value
            ]:
                await asyncio.sleep(0.1)
        await lines.aclose()
        assert not await replica.ack_up(ack), "without a stream the request is left"


async def test_a_token_of_another_cluster_is_noticed_before_the_secret_is_sent(
    appliance: RunningAppliance, tmp_path: Path
) -> None:
    pin = decode_token(await appliance.token()).pin
    assert await pinned_authority(appliance.address, pin) == appliance.ca
    foreign = Authority.create("another cluster", datetime.now(UTC)).pin
    with pytest.raises(Refused) as caught:
        await pinned_authority(appliance.address, foreign)
    assert caught.value.code == "foreign_pin"


_CALLS = [
    ("POST", "register"),
    ("GET", "netmap"),
    ("POST", "ack"),
    ("POST", "renew"),
    ("POST", "leave"),
]


@pytest.mark.parametrize(("method", "path"), _CALLS)
async def test_no_header_can_stand_for_a_client_certificate(
    appliance: RunningAppliance, method: str, path: str
) -> None:
    member = await appliance.member("victim")
    pem = member.answer.certificate
    der = x509.load_pem_x509_certificate(pem.encode()).public_bytes(Encoding.DER)
    forged = {
        "x-client-cert": pem.replace("\n", " ").strip(),
        "x-ssl-client-cert": pem.replace("\n", "%0A"),
        "x-forwarded-client-cert": f"Subject=CN={member.node.id}",
        "x-ssl-client-verify": "SUCCESS",
        "x-forwarded-for": "127.0.0.1",
        "extensions": der.hex(),
        "cairn.connection": der.hex(),
    }
    async with httpx.AsyncClient(verify=server_context(appliance.ca), trust_env=False) as client:
        url = f"https://{appliance.address}/agent/v1/{path}"
        response = await client.request(method, url, headers=forged, content=b"{}")
    assert response.status_code == 403
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["code"] == "certificate_required"


def _foreign(appliance: RunningAppliance, node: SimulatedNode, real: Authority) -> ssl.SSLContext:
    now = datetime.now(UTC)
    other = Authority.create("another cluster", now)
    pem = other.issue_agent(node.certificate_request().encode(), node.id, now)
    return context_with(appliance, pem.decode(), node.key_pem)


def _expired(appliance: RunningAppliance, node: SimulatedNode, real: Authority) -> ssl.SSLContext:
    then = datetime.now(UTC) - timedelta(days=40)
    pem = real.issue_agent(node.certificate_request().encode(), node.id, then)
    return context_with(appliance, pem.decode(), node.key_pem)


def _of_a_server(
    appliance: RunningAppliance, node: SimulatedNode, real: Authority
) -> ssl.SSLContext:
    pair = real.issue_pair(node.id, "server", ("127.0.0.1",), datetime.now(UTC))
    return context_with(appliance, pair.certificate.decode(), pair.private_key)


@pytest.mark.parametrize("kind", [_foreign, _expired, _of_a_server])
async def test_a_certificate_that_does_not_count_ends_the_connection(
    appliance: RunningAppliance, kind: Callable[..., ssl.SSLContext]
) -> None:
    member = await appliance.member("victim")
    local = bootstrap.load(appliance.data_dir)
    store = EtcdStore([local.etcd_endpoint], client_tls(local))
    try:
        real = (await bootstrap.load_secrets(store, local)).authority
    finally:
        await store.close()
    context = kind(appliance, member.node, real)
    async with Replica(appliance.address, context) as replica:
        with pytest.raises((Unreachable, Refused)) as caught:
            await replica.register(register_request(member.node))
    assert not isinstance(caught.value, Busy)
    good = await member.register()
    assert good.state == "approved"


@pytest.mark.parametrize(("ended_days_ago", "may_renew"), [(10, True), (40, False)])
async def test_an_expired_certificate_is_good_for_its_renewal_and_for_nothing_else(
    appliance: RunningAppliance, ended_days_ago: int, may_renew: bool
) -> None:
    member = await appliance.member("long away")
    local = bootstrap.load(appliance.data_dir)
    store = EtcdStore([local.etcd_endpoint], client_tls(local))
    try:
        real = (await bootstrap.load_secrets(store, local)).authority
    finally:
        await store.close()
    request = member.node.certificate_request()
    then = datetime.now(UTC) - timedelta(days=30 + ended_days_ago)
    pem = real.issue_agent(request.encode(), member.node.id, then)
    context = context_with(appliance, pem.decode(), member.node.key_pem)
    async with Replica(appliance.address, context) as replica:
        for call in (
            replica.register(register_request(member.node)),
            replica.ack(wire.AckRequest(1, 1)),
            replica.leave(wire.LeaveRequest("")),
            anext(replica.netmap_lines(0, 0, quiet_s=5.0)),
        ):
            with pytest.raises(Refused) as caught:
                await call
            assert caught.value.code == "certificate_expired"
        if not may_renew:
            with pytest.raises(Refused) as caught:
                await replica.renew(wire.RenewRequest(request))
            assert caught.value.code == "certificate_expired"
            async with appliance.operator() as services:
                events = await services.events.latest(20)
            assert [e.kind for e in events if e.node == member.node.id][-1] == "node_locked_out"
            return
        renewed = await replica.renew(wire.RenewRequest(request))
    good = context_with(appliance, renewed.certificate, member.node.key_pem)
    async with Replica(appliance.address, good) as replica:
        answer = await replica.register(register_request(member.node))
    assert answer.state == "approved"


async def test_a_certificate_for_a_node_that_never_enrolled_is_refused(
    appliance: RunningAppliance,
) -> None:
    local = bootstrap.load(appliance.data_dir)
    store = EtcdStore([local.etcd_endpoint], client_tls(local))
    try:
        real = (await bootstrap.load_secrets(store, local)).authority
    finally:
        await store.close()
    node = SimulatedNode()
    pem = real.issue_agent(node.certificate_request().encode(), node.id, datetime.now(UTC))
    context = context_with(appliance, pem.decode(), node.key_pem)
    async with Replica(appliance.address, context) as replica:
        with pytest.raises(Refused) as caught:
            await replica.register(register_request(node))
    assert caught.value.code == "node_removed"


async def test_expired_used_up_and_deleted_tokens_say_so(appliance: RunningAppliance) -> None:
    short = await appliance.token(life_s=1.0)
    once = await appliance.token()
    await appliance.enrol(SimulatedNode(), once)
    deleted = await appliance.token()
    async with appliance.operator() as services:
        await services.tokens.delete(decode_token(deleted).id, SYSTEM)
    await asyncio.sleep(1.0)
    expected = {short: "token_expired", once: "token_used_up", deleted: "token_refused"}
    for token, code in expected.items():
        with pytest.raises(Refused) as caught:
            await appliance.enrol(SimulatedNode(), token)
        assert (caught.value.code, bool(caught.value.remedy)) == (code, True)


async def test_a_hundred_at_once_with_a_token_for_one_use_are_one_node(
    appliance: RunningAppliance,
) -> None:
    token = await appliance.token()
    bodies = [
        msgspec.json.encode(enrol_request(SimulatedNode(f"racer-{number}"), token))
        for number in range(100)
    ]
    async with contextlib.AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(client_from(appliance, f"127.0.1.{number + 1}"))
            for number in range(20)
        ]
        url = f"https://{appliance.address}/agent/v1/enrol"
        answers = await asyncio.gather(
            *(clients[number % 20].post(url, content=body) for number, body in enumerate(bodies))
        )
    outcomes = [answer.json().get("code", answer.status_code) for answer in answers]
    assert record(
        "B12",
        what="a token for one use shown by 100 at once: how many were let in; the others are told "
        "that it is used up",
        bar="exactly 1",
        value=outcomes.count(200),
        unit="nodes",
        holds=sorted(outcomes, key=str) == [200, *["token_used_up"] * 99],
    ), outcomes
    async with appliance.operator() as services:
        names = [view.value.node.name for view in await services.nodes.list()]
        token_now = (await services.tokens.get(decode_token(token).id)).value
    assert sum(name.startswith("racer-") for name in names) == 1
    assert token_now.uses == 1


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"reason": 7, "generation": "x"}', b"\xff", b"[" * 60_000]
)
async def test_a_body_that_is_none_gets_a_sentence(
    appliance: RunningAppliance, body: bytes
) -> None:
    member = await appliance.member("n")
    async with httpx.AsyncClient(verify=member.context(), trust_env=False) as client:
        for path in ("enrol", "register", "ack", "renew", "copy", "become", "leave"):
            response = await client.post(
                f"https://{appliance.address}/agent/v1/{path}", content=body
            )
            assert response.status_code == 422, (path, response.text)
            assert response.json()["code"] == "invalid_body"


async def test_a_node_that_goes_away_within_a_request_is_no_error(
    appliance: RunningAppliance,
) -> None:
    member = await appliance.member("gone")
    host, port = appliance.address.split(":")
    head = "POST /agent/v1/register HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"
    for _ in range(3):
        _, writer = await asyncio.open_connection(host, int(port), ssl=member.context())
        writer.write(head.encode())
        await writer.drain()
        await asyncio.sleep(0.1)
        writer.transport.abort()
    await asyncio.sleep(0.3)
    await member.register()
    assert "Traceback" not in appliance.log.read_text()


async def test_a_body_that_is_too_long_is_refused_unread(appliance: RunningAppliance) -> None:
    async with httpx.AsyncClient(verify=server_context(appliance.ca), trust_env=False) as client:
        url = f"https://{appliance.address}/agent/v1/enrol"
        response = await client.post(url, content=b" " * 70_000)
        assert response.status_code == 413
        assert response.json()["code"] == "too_large"
        assert (await client.get(f"https://{appliance.address}/readyz")).status_code == 200


async def test_headers_without_end_end_the_connection(appliance: RunningAppliance) -> None:
    host, _, port = appliance.address.partition(":")
    context = server_context(appliance.ca)
    reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
    sent = 0
    with contextlib.suppress(ConnectionError):
        for number in range(1000):
            writer.write(b"X-Filler-%d: %s\r\n" % (number, b"a" * 1000))
            sent += 1000
            await writer.drain()
            await asyncio.sleep(0)
            if reader.at_eof() or writer.is_closing():
                break
    async with asyncio.timeout(5):
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
    writer.transport.abort()


async def test_an_unknown_path_is_a_problem_too(appliance: RunningAppliance) -> None:
    async with httpx.AsyncClient(verify=server_context(appliance.ca), trust_env=False) as client:
        for path in (
            "/",
            "/agent/v1/",
            "/agent/v2/enrol",
            "/docs",
            "/openapi.json",
            "/api/v1/nodes",
        ):
            response = await client.get(f"https://{appliance.address}{path}")
            assert response.status_code == 404
            assert response.headers["content-type"] == "application/problem+json"


async def test_tls_1_2_is_not_spoken(appliance: RunningAppliance) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=appliance.ca)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    host, _, port = appliance.address.partition(":")
    with pytest.raises(OSError):
        await asyncio.open_connection(host, int(port), ssl=context)


async def test_a_node_renews_its_certificate_with_a_new_key(appliance: RunningAppliance) -> None:
    member = await appliance.member("renewing")
    fresh = SimulatedNode(id=member.node.id)
    async with member.client() as replica:
        answer = await replica.renew(wire.RenewRequest(fresh.certificate_request()))
    member.node.key = fresh.key
    renewed = Member(
        appliance,
        member.node,
        msgspec.structs.replace(member.answer, certificate=answer.certificate),
    )
    assert (await renewed.register()).state == "approved"


@pytest.mark.timed
async def test_a_change_reaches_a_stream_within_a_second(appliance: RunningAppliance) -> None:
    watcher, mover = await appliance.member("watcher"), await appliance.member("mover")
    copy = follower(watcher)
    took = []
    async with following(watcher, copy) as until, mover.client() as replica:
        await until(lambda: len(copy.digests) == 2)

        def sees(endpoint: str) -> bool:
            assert copy.copy.current is not None
            (vsubnet,) = copy.copy.current.vsubnets.values()
            held = vsubnet.members.get(mover.node.id)
            return bool(held and held.member and endpoint in held.member.endpoints)

        for number in range(30):
            endpoint = f"203.0.113.{number + 1}:8002"
            answer = await replica.register(register_request(mover.node, endpoint))
            mover.node.generation = answer.generation
            took.append(await until(lambda endpoint=endpoint: sees(endpoint)))
    took.sort()
    print(f"from the answer to the applied delta: p50 {took[15] * 1000:.0f} ms, "
          f"max {took[-1] * 1000:.0f} ms")  # fmt: skip
    assert took[-1] < 1.0


@pytest.mark.timed
async def test_a_removed_node_is_cut_off_at_once_and_everywhere(
    appliance: RunningAppliance,
) -> None:
    watcher, victim = await appliance.member("watcher"), await appliance.member("victim")
    copy = follower(watcher)
    async with following(watcher, copy) as until, victim.client() as replica:
        await until(lambda: bool(copy.digests) and "victim" in copy.names(_only_vni(copy)))
        lines = replica.netmap_lines(0, 0, quiet_s=5.0)
        first = [netmap_wire.decode_line(await anext(lines)) for _ in range(4)]
        assert isinstance(first[-1], netmap_wire.InSync)
        async with appliance.operator() as services:
            begun = time.monotonic()
            removing = asyncio.create_task(
                services.nodes.remove(victim.node.id, SYSTEM, reason="stolen")
            )
            gone_s = await until(
                lambda: (
                    victim.node.id
                    not in [
                        m.node_id
                        for v in copy.copy.current.vsubnets.values()
                        for m in v.readable()  # type: ignore[union-attr]
                    ]
                )
            )
            last: object = None
            with contextlib.suppress(Unreachable):
                async for line in lines:
                    last = netmap_wire.decode_line(line)
            told_s = time.monotonic() - begun
            await removing
    print(
        f"removal: gone at a peer after {gone_s * 1000:.0f} ms, told after {told_s * 1000:.0f} ms"
    )
    assert last == netmap_wire.Removed("stolen")
    assert gone_s < 1.0
    assert told_s < 1.0
    async with victim.client() as replica:
        for call in (
            replica.register(register_request(victim.node)),
            replica.ack(wire.AckRequest(1, 1)),
            replica.renew(wire.RenewRequest(victim.node.certificate_request())),
            anext(replica.netmap_lines(0, 0, quiet_s=5.0)),
        ):
            with pytest.raises(Refused) as caught:
                await call
            assert caught.value.code == "node_removed"


async def test_leaving_removes_the_node_and_may_be_repeated(appliance: RunningAppliance) -> None:
    member = await appliance.member("leaver")
    async with member.client() as replica:
        await replica.leave(wire.LeaveRequest("done"))
        await replica.leave(wire.LeaveRequest("done"))
        with pytest.raises(Refused) as caught:
            await replica.register(register_request(member.node))
    assert caught.value.code == "node_removed"


async def test_while_etcd_is_paused_calls_end_in_time_and_streams_stay(
    appliance: RunningAppliance,
) -> None:
    member = await appliance.member("patient")
    copy = follower(member)
    async with following(member, copy) as until, member.client() as replica:
        await until(lambda: len(copy.digests) == 2)
        os.kill(appliance.etcd_pid(), signal.SIGSTOP)
        try:
            begun = time.monotonic()
            with pytest.raises(Busy):
                await replica.register(register_request(member.node))
            assert time.monotonic() - begun < 12
            heard = len(copy.kinds)
            await until(lambda: len(copy.kinds) >= heard + 2)
        finally:
            os.kill(appliance.etcd_pid(), signal.SIGCONT)
        async with asyncio.timeout(20):
            while True:
                with contextlib.suppress(Busy):
                    await replica.register(register_request(member.node))
                    break


def _only_vni(copy: Follower) -> int:
    assert copy.copy.current is not None
    (vni,) = copy.copy.current.vsubnets
    return vni


async def test_killed_outright_and_started_again_it_has_the_same_state(
    appliance: RunningAppliance,
) -> None:
    member = await appliance.member("survivor")
    copy = follower(member)
    async with following(member, copy) as until:
        await until(lambda: len(copy.digests) == 2)
    async with appliance.operator() as services:
        before = [view.value.node for view in await services.nodes.list()]
        members = await services.members.list()
    digests, seen = copy.digests, len(copy.kinds)
    appliance.end(signal.SIGKILL)
    appliance.start()
    async with following(member, copy) as until:
        await until(lambda: copy.kinds[seen:][-1:] == ["insync"])
    assert copy.kinds[seen:][:2] == ["node", "insync"]
    assert copy.digests == digests
    fresh = follower(member)
    async with following(member, fresh) as until:
        await until(lambda: len(fresh.digests) == 2)
    assert fresh.digests == digests
    async with appliance.operator() as services:
        assert [view.value.node for view in await services.nodes.list()] == before
        assert await services.members.list() == members
    assert (await member.register()).state == "approved"


@pytest.mark.timed
async def test_told_to_stop_it_sends_its_streams_elsewhere_and_ends_with_0(
    appliance: RunningAppliance,
) -> None:
    member = await appliance.member("last")
    last: object = None
    async with member.client() as replica:
        lines = replica.netmap_lines(0, 0, quiet_s=5.0)
        for _ in range(4):
            await anext(lines)
        begun = time.monotonic()
        ending = asyncio.create_task(asyncio.to_thread(appliance.end, signal.SIGTERM))
        with contextlib.suppress(Unreachable):
            async for line in lines:
                last = netmap_wire.decode_line(line)
        told_s = time.monotonic() - begun
        assert await ending == 0
    assert isinstance(last, netmap_wire.GoAway)
    assert told_s < 2.0
    appliance.start()


def client_from(
    appliance: RunningAppliance, address: str, context: ssl.SSLContext | None = None
) -> httpx.AsyncClient:
    """Return a client with a source address of its own."""
    transport = httpx.AsyncHTTPTransport(
        verify=context or server_context(appliance.ca), local_address=address, trust_env=False
    )
    return httpx.AsyncClient(transport=transport, timeout=30)


async def test_after_ten_wrong_tokens_a_minute_a_source_is_told_to_wait(
    appliance: RunningAppliance,
) -> None:
    token = await appliance.token(max_uses=50)
    right = msgspec.json.encode(enrol_request(SimulatedNode("late"), token))
    url = f"https://{appliance.address}/agent/v1/enrol"
    async with client_from(appliance, "127.0.2.1") as client:
        for _ in range(10):
            wrong = enrol_request(SimulatedNode(), token, secret="wrong")
            response = await client.post(url, content=msgspec.json.encode(wrong))
            assert (response.status_code, response.json()["code"]) == (403, "token_refused")
        response = await client.post(url, content=right)
    assert (response.status_code, response.json()["code"]) == (429, "too_many_requests")
    assert 1 <= int(response.headers["retry-after"]) <= 60
    async with appliance.operator() as services:
        assert (await services.tokens.get(decode_token(token).id)).value.uses == 0
        kinds = [event.kind for event in await services.events.latest(20)]
    assert "token_refused" in kinds
    async with client_from(appliance, "127.0.2.2") as client:
        assert (await client.post(url, content=right)).status_code == 200


async def test_from_elsewhere_a_right_token_is_answered_as_a_wrong_one(
    appliance: RunningAppliance,
) -> None:
    token = await appliance.token(sources=("127.0.3.0/24",))
    url = f"https://{appliance.address}/agent/v1/enrol"
    node = SimulatedNode("placed")
    right = msgspec.json.encode(enrol_request(node, token))
    wrong = msgspec.json.encode(enrol_request(node, token, secret="wrong"))
    async with client_from(appliance, "127.0.4.1") as client:
        answers = [await client.post(url, content=content) for content in (right, wrong)]
    assert answers[0].status_code == 403
    assert answers[0].content == answers[1].content
    async with appliance.operator() as services:
        texts = [each.text for each in await services.events.latest(5)]
    assert any("not for nodes from 127.0.4.1" in each for each in texts)
    async with client_from(appliance, "127.0.3.1") as client:
        assert (await client.post(url, content=right)).status_code == 200


async def test_of_copies_that_come_at_once_to_two_replicas_of_one_etcd_one_is_the_node(
    appliance: RunningAppliance,
) -> None:
    member = await appliance.member("taken over")
    later = replica_clock(REGISTERED_LATELY_S + 1)
    async with appliance.operator(later) as first, appliance.operator(later) as second:
        reports = [
            member.node.report(facts=Facts(dmi_uuid=f"copy {number}")) for number in range(20)
        ]
        answers = await asyncio.gather(
            *(
                services.registry.register(member.node.id, report, "198.51.100.9")
                for services, half in ((first, reports[:10]), (second, reports[10:]))
                for report in half
            ),
            return_exceptions=True,
        )
        kinds = [event.kind for event in await first.events.latest(50)]
    assert sum(not isinstance(answer, BaseException) for answer in answers) == 1
    assert all(isinstance(a, Unavailable) for a in answers if isinstance(a, BaseException))
    assert kinds.count("node_moved") == 1


async def test_a_copy_of_a_connected_node_becomes_a_pending_node_over_the_wire(
    appliance: RunningAppliance,
) -> None:
    member = await appliance.member("original")
    copy = SimulatedNode("original-copy")
    held = follower(member)
    async with following(member, held) as until:
        await until(lambda: held.revision > 0)
        async with member.client() as replica:
            with pytest.raises(Refused) as caught:
                await replica.register(
                    msgspec.structs.replace(
                        register_request(member.node), facts=wire.Facts(dmi_uuid="another")
                    )
                )
            assert caught.value.code == "duplicate_node"
            answer = await replica.copy(
                wire.CopyRequest(
                    node_id=copy.id,
                    name=copy.name,
                    certificate_request=copy.certificate_request(),
                    data_public_key=copy.data_public_key,
                    facts=wire.Facts(dmi_uuid="another"),
                    agent_version="0.1.0",
                )
            )
    assert answer.state == "pending"
    own = Member(appliance, copy, answer)
    assert (await own.register()).state == "pending"
    async with appliance.operator() as services:
        await services.duplicates.claim(copy.id, SYSTEM)
    async with own.client() as replica:
        for call in (
            replica.register(register_request(copy)),
            anext(replica.netmap_lines(0, 0, quiet_s=5.0)),
        ):
            with pytest.raises(Refused) as caught:
                await call
            assert caught.value.code == "node_became"
        as_original = SimulatedNode(copy.name, id=member.node.id, facts=copy.facts)
        as_original.key = copy.key
        became = await replica.become(wire.RenewRequest(as_original.certificate_request()))
    assert became.state == "approved"
    as_original.generation = became.generation
    await Member(appliance, as_original, became).register()
    async with member.client() as replica:
        for call in (
            replica.register(register_request(member.node)),
            replica.renew(wire.RenewRequest(member.node.certificate_request())),
            replica.leave(wire.LeaveRequest("")),
            anext(replica.netmap_lines(0, 0, quiet_s=5.0)),
        ):
            with pytest.raises(Refused) as caught:
                await call
            assert caught.value.code == "duplicate_node"


def replica_clock(ahead_s: float) -> Callable[[], float]:
    """A clock that is ahead: what was registered just now was registered a while ago."""
    return lambda: time.time() + ahead_s
