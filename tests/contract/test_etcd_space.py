"""A real etcd that runs out of its quota, and gets room again by the upkeep."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from cairn_appliance.cluster import metrics
from cairn_appliance.cluster.members import EtcdMembers
from cairn_appliance.domain.cluster import EtcdMember
from cairn_appliance.domain.identity import SYSTEM
from cairn_appliance.domain.store_space import is_crowded, is_wasteful
from cairn_appliance.services.events import Journal
from cairn_appliance.services.upkeep import Upkeep
from cairn_appliance.store import keys
from cairn_appliance.store.port import Compare, Delete, Full, Put

from tests.contract.etcd_server import EtcdServer, client
from tests.ports import free_port

pytestmark = [pytest.mark.etcd, pytest.mark.timeout(120)]

QUOTA = 16 << 20


async def _nobody(member: EtcdMember) -> None:
    raise AssertionError(member)


async def test_a_store_full_of_history_is_emptied_and_open_again(tmp_path: Path) -> None:
    server = EtcdServer(tmp_path, name="m1", options=(f"--quota-backend-bytes={QUOTA}",))
    server.start()
    try:
        async with client(server.address) as store:
            etcd = EtcdMembers(store.endpoints)
            upkeep = Upkeep(store, etcd, "m1", _nobody)
            await store.commit([], [Put(keys.CLUSTER_INFO, b"kept"), Put(keys.token("t1"), b"t")])
            with pytest.raises(Full):
                for _ in range(200):  # its size is counted ten times a second
                    await store.commit([], [Put(keys.LAST_NAME, b"x" * 800_000)])
            (member,) = await etcd.members()
            full = await etcd.state(member)
            assert full is not None
            assert full.is_full
            assert full.db_quota_octets in (QUOTA, 2 << 30), "told since 3.6"
            assert (await store.get(keys.CLUSTER_INFO)) is not None
            journal = Journal()
            (token,) = (await store.list(keys.TOKENS)).items
            gone = journal.entry("token_deleted", "a token was deleted", SYSTEM)
            compare = Compare(token.key, token.revision)
            await journal.delete(store, [compare], [Delete(token.key)], gone)
            assert await store.get(token.key) is None
            assert await store.get(gone.key) is None
            with pytest.raises(Full):
                await journal.catch_up(store)

            await upkeep.look()
            await journal.catch_up(store)
            assert await store.get(gone.key) is not None

            await store.commit([], [Put(keys.LAST_NAME, b"small")])
            room = await etcd.state(member)
            assert room is not None
            assert not room.is_full
            assert room.db_octets < QUOTA // 2
            assert not is_crowded(room)
            assert not is_wasteful(room)
            assert await etcd.alarms() == ()
            await etcd.close()
    finally:
        server.kill()


async def test_etcd_tells_what_is_watched(tmp_path: Path) -> None:
    port = free_port()
    option = f"--listen-metrics-urls=http://127.0.0.1:{port}"
    server = EtcdServer(tmp_path, name="m1", options=(option,))
    server.start()
    try:
        async with asyncio.timeout(10):  # its page and its leader come a moment after its port
            while (sample := await metrics.read(port, 1.0)) is None or sample.leader_changes < 1:
                await asyncio.sleep(0.05)
        assert sample.fsyncs[-1][0] == float("inf")
        assert 0.064 in [most for most, _ in sample.fsyncs]
        assert sample.leader_changes == 1
        async with client(server.address) as store:
            etcd = EtcdMembers(store.endpoints)
            await store.commit([], [Put(keys.CLUSTER_INFO, b"kept")])
            (member,) = await etcd.members()
            digest = await etcd.digest(member, await etcd.revision())
            assert digest is not None
            assert await etcd.digest(member, 10**6) is None, "it has not got so far"
            await etcd.close()
    finally:
        server.kill()
    assert await metrics.read(port, 2.0) is None
