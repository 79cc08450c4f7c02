"""Events to receivers outside, over real sockets."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cairn_appliance.domain.event import Event, Severity
from cairn_appliance.domain.identity import SYSTEM
from cairn_appliance.domain.output import (
    REFUSALS_TO_SKIP,
    SKIPPED_AFTER_S,
    SKIPPED_TOLD_S,
    Position,
    Receivers,
    Syslog,
    Transport,
    Webhook,
)
from cairn_appliance.pki.sealing import Sealer, new_kek
from cairn_appliance.services import outputs as outputs_module
from cairn_appliance.services.backlog import Backlog
from cairn_appliance.services.events import Events, Journal
from cairn_appliance.services.outputs import Outputs
from cairn_appliance.services.receivers import NotDelivered, lines
from cairn_appliance.store import keys
from cairn_appliance.store.memory import MemoryStore

from tests.ports import free_port
from tests.receivers import SyslogDatagrams, SyslogStream, WebhookServer, own_certificate

SECRET = "a secret that both know"
SEALER = Sealer(new_kek())
LINES = lines(SEALER, lambda: "c-1")
EVENT = Event("1-a", "test", "hello\nworld", 1_795_000_000.0, SYSTEM)


class Replica:
    """One replica's outputs; many may share a store."""

    def __init__(self, store: MemoryStore, name: str = "m1") -> None:
        self.store = store
        self.now = 1_795_000_000.0
        self.journal = Journal(self.clock)
        self.outputs = Outputs(store, SEALER, self.journal, LINES, name, self.clock, lease_s=2)

    def clock(self) -> float:
        self.now += 0.001
        return self.now

    async def happen(self, number: int, severity: Severity = Severity.INFO) -> str:
        entry = self.journal.entry("it_happened", f"number {number}", SYSTEM, severity=severity)
        await self.store.commit([], [entry])
        return keys.last_part(entry.key)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Outputs]:
        task = asyncio.create_task(self.outputs.run())
        try:
            yield self.outputs
        finally:
            task.cancel()
            await asyncio.wait({task})


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again sooner than in life, so that tests take no minutes."""
    monkeypatch.setattr(outputs_module, "_TURN_S", 0.05)
    monkeypatch.setattr(outputs_module, "_AGAIN_S", 0.02)
    monkeypatch.setattr(outputs_module, "_AGAIN_MAX_S", 0.1)


def hook(server: WebhookServer, **more: object) -> Webhook:
    fields = {"id": "hook", "url": f"http://127.0.0.1:{server.port}/in?a=b", "secret": "", **more}
    return Webhook(**fields)  # type: ignore[arg-type]


async def configured(replica: Replica, *webhooks: Webhook, syslog: tuple[Syslog, ...] = ()) -> None:
    wanted = Receivers(syslog, webhooks)
    await replica.outputs.set(wanted, {each.id: SECRET for each in webhooks}, SYSTEM)


async def until(condition: Callable[[], bool], within_s: float = 10.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_webhook_gets_each_event_signed_and_in_order() -> None:
    server, replica = WebhookServer(), Replica(MemoryStore())
    await server.start()
    before = await replica.happen(0)
    await configured(replica, hook(server))

    async with replica.running():
        ids = [await replica.happen(number) for number in range(20)]
        await until(lambda: len(server.posts) >= 21)

    assert server.ids[1:] == ids  # the first is that the settings were changed
    assert server.bodies[0]["kind"] == "event_outputs_changed"
    assert before not in server.ids
    line, headers, body = server.posts[5]
    at, signed = (part.partition("=")[2] for part in headers["cairn-signature"].split(","))
    wanted = hmac.new(SECRET.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    assert line == "POST /in?a=b HTTP/1.1"
    assert signed == wanted
    assert headers["cairn-event-id"] == server.ids[5]
    server.stop()


async def test_a_webhook_that_fails_gets_all_when_it_works_and_is_a_problem_meanwhile() -> None:
    server, other, replica = WebhookServer(), WebhookServer(), Replica(MemoryStore())
    await server.start()
    await other.start()
    server.status = 500
    await configured(replica, hook(server), hook(other, id="other"))

    async with replica.running() as outputs:
        ids = [await replica.happen(number) for number in range(5)]
        await until(lambda: set(ids) <= set(other.ids) and server.tries > 3)
        assert outputs.problems() == ()  # it may just be restarted
        replica.now += 61
        await until(lambda: len(outputs.problems()) == 1)
        problem = outputs.problems()[0]
        await until(lambda: "receiver_fails" in [each["kind"] for each in other.bodies])
        server.status = 204
        await until(lambda: set(ids) <= set(server.ids) and outputs.problems() == ())
        kinds = [each.kind for each in await Events(replica.store).latest(10)]

    assert problem.name == "receiver_fails"
    assert "it answered 500" in problem.cause
    assert "a=b" not in problem.cause
    assert kinds[-2:] == ["receiver_fails", "receiver_works"]
    server.stop()
    other.stop()


async def test_an_event_that_is_always_refused_holds_up_the_others_for_a_while_only() -> None:
    server, replica = WebhookServer(), Replica(MemoryStore())
    await server.start()
    server.refuses = "number 1"
    await configured(replica, hook(server))

    async with replica.running() as outputs:
        ids = [await replica.happen(number) for number in range(4)]
        await until(lambda: server.tries >= REFUSALS_TO_SKIP + 5)
        assert server.ids[-1] == ids[0]  # ten refusals, and it may pass yet
        replica.now += SKIPPED_AFTER_S
        await until(lambda: set(ids) - set(server.ids) == {ids[1]})
        await until(lambda: bool(outputs.problems()))
        (problem,) = outputs.problems()
        await until(lambda: "event_left_out" in [each["kind"] for each in server.bodies])
        replica.now += SKIPPED_TOLD_S
        assert outputs.problems() == ()

    assert problem.name == "receiver_fails"
    assert "1 left out" in problem.cause
    assert f"it_happened {ids[1]}: it answered 422" in problem.cause
    (delivery,) = (await outputs.deliveries()).values()
    assert delivery.skipped == 1
    server.stop()


async def test_what_says_nothing_of_the_event_leaves_none_out() -> None:
    """A wrong path or a wrong token is put right, and everything comes then."""
    server, replica = WebhookServer(), Replica(MemoryStore())
    await server.start()
    server.status = 404
    await configured(replica, hook(server))

    async with replica.running():
        ids = [await replica.happen(number) for number in range(2)]
        await until(lambda: server.tries >= REFUSALS_TO_SKIP + 2)
        replica.now += 2 * SKIPPED_AFTER_S
        tries = server.tries
        await until(lambda: server.tries >= tries + 3)
        server.status = 200
        await until(lambda: set(ids) <= set(server.ids))
    server.stop()


async def test_a_redirect_is_not_followed_and_is_no_success() -> None:
    server, elsewhere = WebhookServer(), WebhookServer()
    await server.start()
    await elsewhere.start()
    server.status, server.location = 307, f"http://127.0.0.1:{elsewhere.port}/"
    replica = Replica(MemoryStore())
    await configured(replica, hook(server))

    tried = await replica.outputs.test("hook", SYSTEM)

    assert [each.error for each in tried] == ["it answered 307"]
    assert elsewhere.tries == 0
    server.stop()
    elsewhere.stop()


async def test_a_webhook_is_believed_by_its_own_ca_only(tmp_path: Path) -> None:
    context, pem = own_certificate(tmp_path)
    server, replica = WebhookServer(context), Replica(MemoryStore())
    await server.start()
    url = f"https://127.0.0.1:{server.port}/"
    await configured(replica, hook(server, url=url), hook(server, id="own", url=url, ca=pem))

    strange, own = await replica.outputs.test("", SYSTEM)

    assert "certificate is not believed" in strange.error
    assert own.error == ""
    server.stop()


async def test_who_wants_alarms_only_gets_no_other_and_falls_not_behind() -> None:
    server, replica = WebhookServer(), Replica(MemoryStore())
    await server.start()
    await configured(replica, hook(server, min_severity=Severity.ALARM))

    async with replica.running():
        for number in range(10):
            await replica.happen(number, Severity.WARNING)
        alarm = await replica.happen(10, Severity.ALARM)
        await until(lambda: server.ids == [alarm])
    server.stop()


async def test_another_replica_goes_on_where_one_stopped() -> None:
    server, store = WebhookServer(), MemoryStore()
    await server.start()
    first, second = Replica(store), Replica(store, "m2")
    await configured(first, hook(server))
    ids = []
    async with second.running() as outputs:
        async with first.running():
            await until(lambda: first.outputs.sends or second.outputs.sends)
            ids += [await first.happen(number) for number in range(10)]
            await until(lambda: len(set(server.ids)) >= 11)
        ids += [await first.happen(number) for number in range(10)]
        await until(lambda: set(ids) <= set(server.ids))
        assert outputs.sends

    by_id = {each["id"]: each for each in server.bodies}
    assert all(by_id[each["id"]] == each for each in server.bodies)  # what came twice is the same
    server.stop()


async def test_one_that_is_no_more_is_forgotten_and_a_secret_stays() -> None:
    server, replica = WebhookServer(), Replica(MemoryStore())
    await server.start()
    await configured(replica, hook(server), hook(server, id="old"))
    await replica.outputs.set(Receivers(webhooks=(hook(server),)), {}, SYSTEM)

    assert set(await replica.outputs.deliveries()) == {"hook"}
    assert [each.error for each in await replica.outputs.test("", SYSTEM)] == [""]
    _, headers, body = server.posts[-1]
    at, _, signed = headers["cairn-signature"].removeprefix("t=").partition(",v1=")
    assert signed == hmac.new(SECRET.encode(), at.encode() + b"." + body, "sha256").hexdigest()
    server.stop()


@pytest.mark.parametrize("is_tls", [False, True])
async def test_syslog_over_a_stream_survives_its_server(tmp_path: Path, is_tls: bool) -> None:
    context, pem = own_certificate(tmp_path)
    server, replica = SyslogStream(context if is_tls else None), Replica(MemoryStore())
    await server.start()
    transport = Transport.TLS if is_tls else Transport.TCP
    await configured(replica, syslog=(Syslog("s1", "127.0.0.1", server.port, transport, ca=pem),))

    async with replica.running():
        ids = [await replica.happen(number) for number in range(10)]
        await until(lambda: set(ids) <= set(server.ids))
        await server.stop()
        ids += [await replica.happen(number) for number in range(10)]
        await asyncio.sleep(0.1)
        await server.start()
        await until(lambda: set(ids) <= set(server.ids))
    await server.stop()
    assert "\ufeffnumber 3" in server.messages[4]


async def test_syslog_over_tls_is_for_the_name_and_by_the_ca(tmp_path: Path) -> None:
    context, pem = own_certificate(tmp_path, "127.0.0.2")
    server = SyslogStream(context)
    await server.start()
    line = LINES(Syslog("s1", "127.0.0.1", server.port, Transport.TLS, ca=pem))

    with pytest.raises(NotDelivered, match="certificate is not believed"):
        await line.send(EVENT)
    assert server.messages == []
    await server.stop()


async def test_syslog_by_datagrams() -> None:
    server = SyslogDatagrams()
    await server.start()
    line = LINES(Syslog("s1", "127.0.0.1", server.port, Transport.UDP))
    await line.send(EVENT)
    await until(lambda: len(server.messages) == 1)

    assert server.messages[0].startswith("<134>1 2026-11-18T")
    assert server.messages[0].endswith("\ufeffhello\\nworld")
    server.stop()


async def test_datagrams_to_nobody_are_noticed() -> None:
    line = LINES(Syslog("s1", "127.0.0.1", free_port(), Transport.UDP))

    with pytest.raises(NotDelivered, match="nobody listens"):
        await line.send(EVENT)


async def test_the_backlog_reaches_back_into_the_store() -> None:
    store = MemoryStore()
    replica = Replica(store)
    early = [await replica.happen(number) for number in range(30)]
    backlog = Backlog(store, kept=10)
    task = asyncio.create_task(backlog.run())
    await until(lambda: backlog.newest > Position(0))
    late = [await replica.happen(number, Severity.ALARM) for number in range(15)]
    await until(lambda: backlog.counts[Severity.ALARM] == 15)

    position, found = Position(0), []
    while events := await backlog.after(position):
        found += [each.id for each in events]
        position = Position.of(events[-1])
    task.cancel()

    assert found == early + late
    assert backlog.counts[Severity.INFO] == 0
