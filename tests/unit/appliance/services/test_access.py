"""Users, passwords, sessions, and who has guessed too often."""

from __future__ import annotations

import asyncio

import pytest
from cairn_appliance.domain.access import (
    AccountLocked,
    Role,
    SessionEnded,
    TooManyLogins,
    UserExists,
    WrongLogin,
)
from cairn_appliance.domain.errors import CairnError, Invalid
from cairn_appliance.pki.sealing import Sealer, new_kek
from cairn_appliance.services.access import Access, Caller
from cairn_appliance.services.events import Events
from cairn_appliance.services.passwords import new_password
from cairn_appliance.services.users import create_user
from cairn_appliance.store import keys
from cairn_appliance.store.memory import MemoryStore
from cairn_appliance.store.port import Delete, Put, Unavailable

from tests.unit.appliance.operations import PASSWORD, Clock, Operations, operations

ADDRESS = "192.0.2.50"
HERE = Caller(ADDRESS, "test")


@pytest.fixture
async def ops() -> Operations:
    """Return an appliance with the user `admin`."""
    made = operations()
    await made.add_user("admin", Role.ADMIN)
    return made


@pytest.fixture
def access(ops: Operations) -> Access:
    """Return the service on the same store and clock."""
    return Access(ops.store, ops.sealer, now=ops.clock)


async def test_the_right_password_opens_a_session(access: Access) -> None:
    opened = await access.login("admin", PASSWORD, HERE)

    principal = await access.authenticate(opened.token)

    assert (principal.name, principal.role) == ("admin", Role.ADMIN)


async def test_a_wrong_password_and_an_unknown_user_are_told_apart_by_nothing(
    access: Access,
) -> None:
    told = []
    for name in ("admin", "nobody", "No Such Name!", ""):
        with pytest.raises(WrongLogin) as caught:
            await access.login(name, "wrong", HERE)
        told.append((caught.value.code, caught.value.cause, caught.value.remedy))

    assert len(set(told)) == 1


async def test_five_wrong_passwords_lock_the_account_for_fifteen_minutes(
    ops: Operations, access: Access
) -> None:
    for _ in range(5):
        with pytest.raises(WrongLogin):
            await access.login("admin", "wrong", HERE)
        ops.clock.advance(30)

    with pytest.raises(AccountLocked) as caught:
        await access.login("admin", PASSWORD, HERE)
    assert caught.value.remedy == "try again in 13 minutes"  # 15 less 5 times 30 s, rounded up

    ops.clock.advance(15 * 60)
    assert await access.login("admin", PASSWORD, HERE)


async def test_a_lock_is_an_event(ops: Operations, access: Access) -> None:
    for _ in range(5):
        with pytest.raises(WrongLogin):
            await access.login("admin", "wrong", HERE)

    locked = [e for e in await Events(ops.store).latest() if e.kind == "account_locked"]

    assert [(event.by.name, event.by.address) for event in locked] == [("admin", ADDRESS)]


async def test_the_right_password_forgets_the_wrong_ones(access: Access) -> None:
    for _ in range(3):
        for _ in range(4):
            with pytest.raises(WrongLogin):
                await access.login("admin", "wrong", HERE)
        await access.login("admin", PASSWORD, HERE)


async def test_guesses_made_at_once_are_all_counted(access: Access) -> None:
    guesses = [access.login("admin", "wrong", Caller(f"192.0.2.{n}")) for n in range(12)]
    outcomes = await asyncio.gather(*guesses, return_exceptions=True)

    checked = [outcome for outcome in outcomes if isinstance(outcome, WrongLogin)]
    locked = [outcome for outcome in outcomes if isinstance(outcome, AccountLocked)]
    assert (len(checked), len(locked)) == (5, 7)


async def test_an_unknown_user_is_locked_as_a_known_one(ops: Operations, access: Access) -> None:
    for _ in range(5):
        with pytest.raises(WrongLogin):
            await access.login("nobody", "wrong", HERE)

    with pytest.raises(AccountLocked):
        await access.login("nobody", "wrong", HERE)
    assert not (await ops.store.list(keys.LOGIN_FAILURES)).items


@pytest.mark.parametrize(
    ("first", "second", "is_one"),
    [
        pytest.param(ADDRESS, ADDRESS, True, id="an address"),
        pytest.param("2001:db8:1:2::1", "2001:db8:1:2::ffff", True, id="a /64"),
        pytest.param("2001:db8:1:2::1", "2001:db8:1:3::1", False, id="two of a /48"),
        pytest.param(ADDRESS, "192.0.2.51", False, id="two IPv4 addresses"),
    ],
)
async def test_an_address_has_twenty_logins_a_minute(
    ops: Operations, access: Access, first: str, second: str, is_one: bool
) -> None:
    for number in range(20):
        with pytest.raises(WrongLogin):
            await access.login(f"nobody{number}", "wrong", Caller(first))

    expected: type[CairnError] = TooManyLogins if is_one else WrongLogin
    with pytest.raises(expected):
        await access.login("somebody", "wrong", Caller(second))
    ops.clock.advance(60)
    assert await access.login("admin", PASSWORD, Caller(first))


async def test_a_session_ends_after_half_an_hour_without_use(
    ops: Operations, access: Access
) -> None:
    token = (await access.login("admin", PASSWORD, HERE)).token
    for _ in range(4):
        ops.clock.advance(29 * 60)
        await access.authenticate(token)

    ops.clock.advance(30 * 60)
    with pytest.raises(SessionEnded):
        await access.authenticate(token)
    assert not (await ops.store.list(keys.SESSIONS)).items


async def test_a_session_ends_after_twelve_hours_however_much_it_is_used(
    ops: Operations, access: Access
) -> None:
    token = (await access.login("admin", PASSWORD, HERE)).token
    for _ in range(12 * 3 - 1):
        ops.clock.advance(20 * 60)
        await access.authenticate(token)

    ops.clock.advance(20 * 60)
    with pytest.raises(SessionEnded):
        await access.authenticate(token)


async def test_a_session_is_written_at_most_once_a_minute(ops: Operations, access: Access) -> None:
    token = (await access.login("admin", PASSWORD, HERE)).token
    before = (await ops.store.list(keys.SESSIONS)).items
    for _ in range(59):
        await access.authenticate(token)
        ops.clock.advance(1)

    assert (await ops.store.list(keys.SESSIONS)).items == before


async def test_a_session_seen_before_goes_on_while_the_store_gives_no_answer(
    ops: Operations, access: Access
) -> None:
    seen = (await access.login("admin", PASSWORD, HERE)).token
    unseen = (await access.login("admin", PASSWORD, HERE)).token
    await access.authenticate(seen)
    ops.store.fail()

    assert (await access.authenticate(seen)).name == "admin"
    with pytest.raises(Unavailable):
        await access.authenticate(unseen)
    ops.clock.advance(31 * 60)
    with pytest.raises(Unavailable):
        await access.authenticate(seen)


async def test_logging_out_ends_the_session(access: Access) -> None:
    token = (await access.login("admin", PASSWORD, HERE)).token

    await access.logout(token)

    with pytest.raises(SessionEnded):
        await access.authenticate(token)
    await access.logout(token)


async def test_a_user_that_is_gone_has_no_session(ops: Operations, access: Access) -> None:
    token = (await access.login("admin", PASSWORD, HERE)).token

    await ops.store.commit([], [Delete(keys.user("admin"))])

    with pytest.raises(SessionEnded):
        await access.authenticate(token)


@pytest.mark.parametrize("token", ["", "cs1_", "cs1_" + "A" * 43, "../users/admin", "ü" * 100])
async def test_no_other_string_opens_anything(access: Access, token: str) -> None:
    with pytest.raises(SessionEnded):
        await access.authenticate(token)


async def test_the_store_holds_no_password_and_no_token(ops: Operations, access: Access) -> None:
    token = (await access.login("admin", PASSWORD, HERE)).token

    content = b"".join(item.key.encode() + item.value for item in (await ops.store.list("/")).items)

    assert b"argon2id" in content
    assert PASSWORD.encode() not in content
    assert token.encode() not in content
    assert token.removeprefix("cs1_").encode() not in content


async def test_sweeping_forgets_what_has_ended_and_nothing_else(
    ops: Operations, access: Access
) -> None:
    await access.login("admin", PASSWORD, HERE)
    with pytest.raises(WrongLogin):
        await access.login("admin", "wrong", HERE)
    ops.clock.advance(31 * 60)
    with pytest.raises(WrongLogin):
        await access.login("admin", "wrong", HERE)
    fresh = (await access.login("admin", PASSWORD, HERE)).token

    assert await access.sweep() == 1

    assert await access.authenticate(fresh)


async def test_one_session_that_cannot_be_read_does_not_stop_the_sweeping_of_others(
    ops: Operations, access: Access
) -> None:
    await access.login("admin", PASSWORD, HERE)
    broken = keys.session("0" * 64)
    await ops.store.commit([], [Put(broken, b"{")])
    ops.clock.advance(24 * 3600)

    assert await access.sweep() == 1
    assert [item.key for item in (await ops.store.list(keys.SESSIONS)).items] == [broken]


async def test_a_user_is_created_once() -> None:
    store = MemoryStore()
    await create_user(store, "admin", "a long enough password", Role.ADMIN, now=Clock())

    with pytest.raises(UserExists):
        await create_user(store, "admin", "another long password", Role.ADMIN, now=Clock())
    access = Access(store, Sealer(new_kek()), now=Clock())
    opened = await access.login("admin", "a long enough password", HERE)
    assert opened.principal.role is Role.ADMIN


@pytest.mark.parametrize(
    ("name", "password"), [("Admin!", "a long enough password"), ("", "x" * 20), ("bob", "short")]
)
async def test_a_user_needs_a_name_and_a_long_password(name: str, password: str) -> None:
    with pytest.raises(Invalid):
        await create_user(MemoryStore(), name, password, Role.VIEWER)


def test_new_passwords_differ_and_are_long() -> None:
    passwords = {new_password() for _ in range(100)}

    assert len(passwords) == 100
    assert {len(password) for password in passwords} == {23}
