"""Events in order and bounded; tokens; presence of several replicas."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing

import pytest
from cairn_agent.protocol.token import decode_token
from cairn_appliance.domain.errors import Invalid, NotFound
from cairn_appliance.domain.event import Event
from cairn_appliance.domain.identity import SYSTEM, Actor, ActorKind
from cairn_appliance.services import presence as presence_module
from cairn_appliance.services.events import Events
from cairn_appliance.services.tokens import TokenOrder
from cairn_appliance.store import keys
from cairn_appliance.store.port import Compare, Delete, Full, Put

from tests.unit.appliance.replica import AUTHORITY, Replica

ADMIN = Actor(ActorKind.OPERATOR, "admin")


async def test_events_come_in_the_order_of_the_changes_even_when_the_clock_goes_back() -> None:
    replica = Replica()
    for name in ("a", "b", "c"):
        await replica.vsubnet(name)
        replica.clock.now -= 1000
    events = await replica.services.events.list()
    assert [event.text for event in events] == [
        f"vSubnet {name} was created" for name in ("a", "b", "c")
    ]
    later = await replica.services.events.list(after=events[0].sequence, limit=1)
    assert later == (events[1],)
    assert await replica.services.events.latest(1) == (events[2],)


async def test_the_number_of_events_is_bounded_and_the_newest_stay() -> None:
    replica = Replica()
    events = Events(replica.store, kept=5)
    for number in range(12):
        await replica.vsubnet(f"v{number}")
        replica.clock.now += 1
    assert await events.prune() == 7
    assert [event.text for event in await events.list()] == [
        f"vSubnet v{number} was created" for number in range(7, 12)
    ]
    assert await events.prune() == 0


async def test_a_follower_gets_what_was_missed_and_what_comes_each_once() -> None:
    replica = Replica()
    await replica.vsubnet("a")
    first = (await replica.services.events.list())[0]
    await replica.vsubnet("b")
    seen: list[Event] = []
    async with aclosing(replica.services.events.follow(first.sequence)) as events:
        seen.append(await anext(events))
        await replica.vsubnet("c")
        seen.append(await anext(events))
    assert [event.text for event in seen] == ["vSubnet b was created", "vSubnet c was created"]


async def test_a_follower_from_now_on_gets_nothing_old() -> None:
    replica = Replica()
    await replica.vsubnet("old")
    async with aclosing(replica.services.events.follow()) as events:
        waiting = asyncio.ensure_future(anext(events))
        for _ in range(5):
            await asyncio.sleep(0)
        await replica.vsubnet("new")
        assert (await waiting).text == "vSubnet new was created"


async def test_a_token_says_where_to_go_and_whom_to_trust() -> None:
    replica = Replica()
    text = await replica.token()
    parsed = decode_token(text)
    assert (parsed.appliances, parsed.pin) == (["192.0.2.1:8002"], AUTHORITY.pin)


@pytest.mark.parametrize(
    "order",
    [
        TokenOrder(max_uses=0),
        TokenOrder(max_uses=10**9),
        TokenOrder(life_s=0.0),
        TokenOrder(life_s=float("inf")),
        TokenOrder(life_s=float("nan")),
        TokenOrder(site="a b"),
    ],
)
async def test_tokens_that_make_no_sense_are_refused(order: TokenOrder) -> None:
    with pytest.raises(Invalid):
        await Replica().services.tokens.create(order, SYSTEM)


async def test_a_token_for_a_vsubnet_that_is_not_there_is_refused() -> None:
    with pytest.raises(NotFound):
        await Replica().token("nowhere")


async def test_tokens_that_ended_long_ago_are_forgotten() -> None:
    replica = Replica()
    await replica.token(life_s=60.0)
    replica.clock.now += 29 * 86_400
    await replica.services.tokens.tidy()
    assert len(await replica.services.tokens.list()) == 1
    replica.clock.now += 2 * 86_400
    await replica.services.tokens.tidy()
    assert await replica.services.tokens.list() == ()


async def test_presence_is_seen_by_the_other_replica_and_ends_with_the_lease(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(presence_module, "INTERVAL_S", 0.01)
    first = Replica()
    second = Replica(first.memory, "r2")
    sharing = [asyncio.create_task(each.services.presence.share()) for each in (first, second)]
    first.services.presence.connected("n")
    first.services.presence.loaded("n", 17, {"7": "abc"}, "")
    async with asyncio.timeout(5):
        while not second.services.presence.is_connected("n"):
            await asyncio.sleep(0.005)
    seen = second.services.presence.of("n")
    assert seen is not None
    assert (seen.replica, seen.loaded_revision, seen.digests) == ("r1", 17, {"7": "abc"})
    sharing[0].cancel()
    await asyncio.gather(sharing[0], return_exceptions=True)
    async with asyncio.timeout(5):
        while second.services.presence.of("n"):
            await asyncio.sleep(0.005)
    sharing[1].cancel()
    await asyncio.gather(sharing[1], return_exceptions=True)


async def test_heartbeats_and_acknowledgements_of_the_same_write_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(presence_module, "INTERVAL_S", 0.01)
    replica = Replica()
    board = replica.services.presence
    sharing = asyncio.create_task(board.share())
    board.connected("n")
    async with asyncio.timeout(5):
        while not (await replica.memory.list(keys.PRESENCE)).items:
            await asyncio.sleep(0.005)
    before = (await replica.memory.list("")).revision
    for _ in range(100):
        board.seen("n")
        await asyncio.sleep(0.001)
    assert (await replica.memory.list("")).revision == before
    sharing.cancel()
    await asyncio.gather(sharing, return_exceptions=True)


async def test_a_node_with_two_streams_is_connected_until_the_last_one_ends() -> None:
    board = Replica().services.presence
    board.connected("n")
    board.connected("n")
    board.disconnected("n")
    assert board.is_connected("n")
    board.disconnected("n")
    assert not board.is_connected("n")


async def test_a_refused_netmap_keeps_what_is_loaded() -> None:
    board = Replica().services.presence
    board.connected("n")
    board.loaded("n", 5, {"node": "a"}, "")
    board.loaded("n", 6, {}, "disk full")
    seen = board.of("n")
    assert seen is not None
    assert (seen.loaded_revision, seen.digests, seen.refused) == (5, {"node": "a"}, "disk full")


async def test_presence_that_changes_during_its_write_is_written_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(presence_module, "INTERVAL_S", 0.01)
    first = Replica()
    second = Replica(first.memory, "r2")
    board = first.services.presence
    commit = first.store.commit

    async def slow_commit(*arguments: object) -> int:
        revision = await commit(*arguments)  # type: ignore[arg-type]
        if not board.is_connected("n"):
            board.connected("n")
        return revision

    monkeypatch.setattr(first.store, "commit", slow_commit)
    board.loaded("n", 1, {}, "")
    sharing = [asyncio.create_task(each.services.presence.share()) for each in (first, second)]
    async with asyncio.timeout(10):
        while not second.services.presence.is_connected("n"):
            await asyncio.sleep(0.005)
    for task in sharing:
        task.cancel()
    await asyncio.gather(*sharing, return_exceptions=True)


async def test_a_token_is_deleted_while_the_store_is_full_and_told_when_there_is_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    replica = Replica()
    services = replica.services
    await replica.vsubnet("red")
    token, _ = await services.tokens.create(TokenOrder(vsubnets=("red",)), ADMIN)
    before = len(await services.events.list())
    commit = replica.memory.commit

    async def full(compares: Sequence[Compare], writes: Sequence[Put | Delete]) -> int:
        if any(isinstance(write, Put) for write in writes):
            raise Full("etcdserver: mvcc: database space exceeded")
        return await commit(compares, writes)

    with monkeypatch.context() as patched:
        patched.setattr(replica.memory, "commit", full)
        with pytest.raises(Full):
            await services.tokens.create(TokenOrder(vsubnets=("red",)), ADMIN)
        await services.tokens.delete(token.value.id, ADMIN)
        with pytest.raises(NotFound):
            await services.tokens.get(token.value.id)
        with pytest.raises(Full):
            await services.journal.catch_up(services.store)
    assert len(await services.events.list()) == before
    await services.journal.catch_up(services.store)
    await services.journal.catch_up(services.store)
    (told,) = (await services.events.list())[before:]
    assert (told.kind, told.by) == ("token_deleted", ADMIN)
