"""Two replicas on a real etcd let people in: what opens once opens once, and no admin is lost."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path

import argon2
import pytest
from cairn_appliance.domain import totp
from cairn_appliance.domain.access import LastAdmin, Role, SessionEnded, User, WrongCode
from cairn_appliance.domain.cluster import FORMAT
from cairn_appliance.domain.identity import SYSTEM
from cairn_appliance.pki.sealing import Sealer, new_kek
from cairn_appliance.services.access import Access, Caller
from cairn_appliance.services.users import UserChange
from cairn_appliance.store import keys, records
from cairn_appliance.store.etcd import EtcdStore
from cairn_appliance.store.port import Put

from tests.contract.etcd_server import EtcdServer

pytestmark = pytest.mark.etcd

PASSWORD = "correct horse battery"
HERE = Caller("192.0.2.50")
ROUNDS = 20


class Clock:
    """Stands until it is moved."""

    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def doors(tmp_path: Path) -> AsyncIterator[tuple[Access, Access, Clock]]:
    """Yield two replicas' doors with the users `admin` and `other`, both admins."""
    etcd = EtcdServer(tmp_path)
    etcd.start()
    stores = [EtcdStore([etcd.address], None) for _ in range(2)]
    kept = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD)
    users = [User(name, Role.ADMIN, kept, 1.0) for name in ("admin", "other")]
    puts = [Put(keys.user(user.name), records.users.encode(user)) for user in users]
    await stores[0].commit([], [*puts, Put(keys.CLUSTER_FORMAT, b"%d" % FORMAT)])
    sealer, clock = Sealer(new_kek()), Clock()
    one, two = (Access(store, sealer, now=clock) for store in stores)
    yield one, two, clock
    for store in stores:
        await store.close()
    etcd.kill()


async def test_a_code_opens_once_whichever_replica_it_is_shown_to(
    doors: tuple[Access, Access, Clock],
) -> None:
    one, two, clock = doors
    secret = base64.b32decode((await one.second_factor.offer("admin")).secret)
    first = totp.code_at(secret, int(clock() // 30))
    codes = await two.second_factor.confirm("admin", first, SYSTEM)
    for number in range(ROUNDS):
        clock.now += 61
        asked = totp.code_at(secret, int(clock() // 30)) if number % 2 else codes[number // 2]
        logins = [door.login("admin", PASSWORD, HERE, asked) for door in (one, two)]
        outcomes = await asyncio.gather(*logins, return_exceptions=True)

        assert sorted(type(each).__name__ for each in outcomes) == ["OpenedSession", "WrongCode"]
        assert any(isinstance(each, WrongCode) for each in outcomes)


async def test_of_two_admins_who_demote_each_other_one_stays(
    doors: tuple[Access, Access, Clock],
) -> None:
    one, two, _ = doors
    for _ in range(ROUNDS):
        demoted = UserChange(role=Role.VIEWER)
        outcomes = await asyncio.gather(
            one.users.change("admin", demoted, SYSTEM),
            two.users.change("other", demoted, SYSTEM),
            return_exceptions=True,
        )
        assert [isinstance(each, LastAdmin) for each in outcomes].count(True) == 1
        for name in ("admin", "other"):
            await one.users.change(name, UserChange(role=Role.ADMIN), SYSTEM)


async def test_what_one_replica_ends_the_other_refuses_at_once(
    doors: tuple[Access, Access, Clock],
) -> None:
    one, two, _ = doors
    opened = await one.login("other", PASSWORD, HERE)
    assert (await two.authenticate(opened.token)).role is Role.ADMIN

    await one.users.change("other", UserChange(role=Role.VIEWER), SYSTEM)
    assert (await two.authenticate(opened.token)).role is Role.VIEWER
    await one.users.change("other", UserChange(disabled=True), SYSTEM)
    with pytest.raises(SessionEnded):
        await two.authenticate(opened.token)
