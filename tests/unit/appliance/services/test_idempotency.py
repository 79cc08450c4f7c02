"""A POST that is sent again is answered again, and done once."""

from __future__ import annotations

import pytest
from cairn_appliance.domain.errors import Invalid
from cairn_appliance.services.idempotency import Answer, Claim, Idempotency, KeyReused, StillRunning
from cairn_appliance.store import keys
from cairn_appliance.store.memory import MemoryStore

from tests.unit.appliance.operations import Clock

KEY = "8d1f7c1e-0e62-4b0b-8f0f-1c56c2bb6a3e"
ANSWER = Answer(201, [("etag", '"7"')], '{"token":"cairn1.canary"}')


@pytest.fixture
def clock() -> Clock:
    """Return a clock that stands."""
    return Clock()


@pytest.fixture
def store() -> MemoryStore:
    """Return an empty store."""
    return MemoryStore()


@pytest.fixture
def idempotency(store: MemoryStore, clock: Clock) -> Idempotency:
    """Return the service."""
    return Idempotency(store, now=clock)


async def claimed(idempotency: Idempotency, request: bytes = b"POST /x", who: str = "ann") -> Claim:
    begun = await idempotency.begin(who, KEY, request)
    assert isinstance(begun, Claim)
    return begun


async def test_the_same_request_gets_the_same_answer(idempotency: Idempotency) -> None:
    await idempotency.finish(await claimed(idempotency), ANSWER)

    assert await idempotency.begin("ann", KEY, b"POST /x") == ANSWER


async def test_another_request_with_the_key_is_refused(idempotency: Idempotency) -> None:
    await idempotency.finish(await claimed(idempotency), ANSWER)

    with pytest.raises(KeyReused):
        await idempotency.begin("ann", KEY, b"POST /y")


async def test_the_key_of_another_user_is_another_key(idempotency: Idempotency) -> None:
    await idempotency.finish(await claimed(idempotency), ANSWER)

    assert await claimed(idempotency, who="bob")


async def test_a_second_request_waits_for_the_first(idempotency: Idempotency) -> None:
    await claimed(idempotency)

    with pytest.raises(StillRunning):
        await idempotency.begin("ann", KEY, b"POST /x")


async def test_a_request_that_failed_may_be_tried_again(idempotency: Idempotency) -> None:
    await idempotency.abandon(await claimed(idempotency))

    assert await claimed(idempotency)


async def test_a_request_that_died_with_its_replica_may_be_tried_again(
    idempotency: Idempotency, clock: Clock
) -> None:
    dead = await claimed(idempotency)
    clock.advance(61)

    alive = await claimed(idempotency)
    await idempotency.finish(dead, Answer(500, [], "late"))
    await idempotency.finish(alive, ANSWER)

    assert await idempotency.begin("ann", KEY, b"POST /x") == ANSWER


async def test_an_answer_is_kept_for_a_day(
    idempotency: Idempotency, store: MemoryStore, clock: Clock
) -> None:
    await idempotency.finish(await claimed(idempotency), ANSWER)
    clock.advance(86_300)
    assert await idempotency.sweep() == 0
    clock.advance(200)

    assert await idempotency.sweep() == 1

    assert not (await store.list(keys.IDEMPOTENCY)).items


async def test_the_store_alone_gives_no_answer_away(
    idempotency: Idempotency, store: MemoryStore
) -> None:
    await idempotency.finish(await claimed(idempotency), ANSWER)

    content = b"".join(item.key.encode() + item.value for item in (await store.list("/")).items)

    assert content
    assert b"canary" not in content
    assert KEY.encode() not in content


@pytest.mark.parametrize("key", ["", "short", "x" * 129, "tab\tin the middle of it", "ä" * 20])
async def test_a_key_has_to_be_long_and_printable(idempotency: Idempotency, key: str) -> None:
    with pytest.raises(Invalid):
        await idempotency.begin("ann", key, b"POST /x")
