"""Values in a real etcd that nobody can use: what they belong to is left out, all else goes on."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from cairn_agent.protocol import netmap as wire
from cairn_appliance.cluster import bootstrap
from cairn_appliance.cluster.etcd_process import client_tls
from cairn_appliance.domain.identity import SYSTEM
from cairn_appliance.domain.segment import Preflight
from cairn_appliance.services.segments import SegmentOrder
from cairn_appliance.services.services import Services
from cairn_appliance.services.vsubnets import VSubnetChange, VSubnetOrder
from cairn_appliance.store import keys, records
from cairn_appliance.store.etcd import EtcdStore
from cairn_appliance.store.port import Put, Store

from tests.integration.appliance.running import Member, RunningAppliance
from tests.integration.appliance.test_gateway_api import joined

pytestmark = pytest.mark.etcd

GARBAGE = b"\x00not JSON"
# By kind of key: what is changed in the value that lies there, to something that can't be.
CANT_BE: dict[str, dict[str, object]] = {
    keys.VSUBNETS: {"prefixes": ["x"]},
    keys.PSKS: {"vsubnet": "another"},
    keys.MEMBERS: {"ips": ["10.9.0.x"]},
    keys.NODES: {"data_public_key": "short"},
    keys.REGISTRATIONS: {"sessions_since": -1},
    keys.SEGMENTS: {"gateways": [{"node": "n", "port": "../x", "vlan": 5000}]},
    keys.PROBE_KEYS: {"vsubnet": ""},
    keys.PREFLIGHTS: {"vlan": -3},
}
NUMBERS = [0, 1 << 24, -7, 1 << 70]


@pytest.fixture(scope="module")
def appliance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningAppliance]:
    appliance = RunningAppliance(tmp_path_factory.mktemp("appliance"))
    appliance.start()
    yield appliance
    if appliance.process and appliance.process.poll() is None:
        appliance.end(signal.SIGTERM)


@asynccontextmanager
async def served(member: Member) -> AsyncIterator[asyncio.Queue[int]]:
    """Yield the MTUs of `red` that a member is told of, by one stream that isn't begun anew."""
    told: asyncio.Queue[int] = asyncio.Queue(100)

    async def read() -> None:
        async with member.client() as replica:
            async for line in replica.netmap_lines(0, 0, quiet_s=10.0):
                message = wire.decode_line(line)
                if isinstance(message, wire.VSubnetUpdate) and message.header.name == "red":
                    told.put_nowait(message.header.mtu)

    task = asyncio.create_task(read())
    try:
        yield told
        assert not task.done(), "its stream goes on"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def etcd(appliance: RunningAppliance) -> AsyncIterator[EtcdStore]:
    """Yield the appliance's store, for who edits it by hand."""
    local = bootstrap.load(appliance.data_dir)
    store = EtcdStore([local.etcd_endpoint], client_tls(local))
    try:
        yield store
    finally:
        await store.close()


async def places_of(store: Store, vsubnet: str, node: str) -> dict[str, str]:
    """Return a key of each kind that belongs to a vSubnet, or to its gateway."""
    (segment,) = (await store.list(keys.SEGMENTS)).items
    return {
        keys.VSUBNETS: keys.vsubnet(vsubnet),
        keys.PSKS: keys.psks(vsubnet),
        keys.MEMBERS: keys.member(vsubnet, node),
        keys.NODES: keys.node(node),
        keys.REGISTRATIONS: keys.registration(node),
        keys.SEGMENTS: segment.key,
        keys.PROBE_KEYS: keys.probe_key(vsubnet),
        keys.PREFLIGHTS: keys.preflight(node, "t1"),
    }


async def test_what_can_t_be_used_is_left_out_and_everybody_else_is_served(
    appliance: RunningAppliance,
) -> None:
    web, gateway = await appliance.member("web"), await joined(appliance, "g1")
    async with appliance.operator() as services, etcd(appliance) as store, served(web) as told:
        await services.vsubnets.create(VSubnetOrder("blue", ("10.9.0.0/24",)), SYSTEM)
        await services.segments.create(SegmentOrder("lan", "blue"), SYSTEM)
        await services.segments.attach("lan", gateway.node.id, "eth1", 0, SYSTEM)
        blue = (await services.vsubnets.get("blue")).value.id
        asked = Preflight("t1", gateway.node.id, "eth2", 0, blue, time.time())
        put = Put(keys.preflight(asked.node, asked.task), records.preflights.encode(asked))
        await store.commit([], [put])
        places = await places_of(store, blue, gateway.node.id)
        mtu = 1300
        for prefix, key in places.items():
            item = await store.get(key)
            assert item is not None
            whole = json.loads(item.value)
            bad = [GARBAGE, json.dumps(whole | CANT_BE[prefix]).encode()]
            if prefix == keys.VSUBNETS:
                bad += [json.dumps(whole | {"vni": number}).encode() for number in NUMBERS]
            for value in bad:
                await store.commit([], [Put(key, value)])
                mtu += 1
                await changed(services, told, mtu)
                assert appliance.process is not None
                assert appliance.process.poll() is None, (key, value)
            await store.commit([], [Put(key, item.value)])
        for prefix, key in places.items():
            item = await store.get(key)
            assert item is not None
            value = json.dumps(json.loads(item.value) | CANT_BE[prefix]).encode()
            await store.commit([], [Put(key, value)])
    appliance.end(signal.SIGTERM)
    appliance.start()
    await web.register()
    async with appliance.operator() as services, served(web) as told:
        await changed(services, told, mtu + 1)
    assert "Traceback" not in appliance.log.read_text()


async def changed(services: Services, told: asyncio.Queue[int], mtu: int) -> None:
    """Change `red`, and wait until its member is told."""
    found = await services.vsubnets.get("red")
    await services.vsubnets.change("red", VSubnetChange(mtu=mtu), SYSTEM, expected=found.revision)
    async with asyncio.timeout(10):
        while await told.get() != mtu:
            pass
