"""An appliance that is too slow for what changes, and misses some of it (trust.md A7).

In `make chaos`.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cairn_appliance.cluster.members import EtcdMembers
from cairn_appliance.store import keys, records
from cairn_appliance.store.keys import MAP
from cairn_appliance.store.port import Put, Reset

from tests.integration.appliance.running import RunningAppliance
from tests.integration.appliance.test_agent_api import follower, following
from tests.lab import until as wait_until
from tests.proofs import record

pytestmark = [pytest.mark.etcd, pytest.mark.slow, pytest.mark.timeout(240)]

_CHANGES, _OFFLOAD_OCTETS = 2000, 4000


@pytest.fixture
def appliance(tmp_path: Path) -> Iterator[RunningAppliance]:
    appliance = RunningAppliance(tmp_path)
    appliance.start()
    yield appliance
    appliance.end(signal.SIGTERM)


async def test_history_is_given_up_past_a_slow_appliance(appliance: RunningAppliance) -> None:
    first = await appliance.member("first", "192.0.2.1:8002")
    second = await appliance.member("second", "192.0.2.2:8002")
    copy = follower(first)
    assert appliance.process is not None
    async with following(first, copy) as until, appliance.operator() as services:
        await until(lambda: "192.0.2.2:8002" in endpoints_of(copy), within_s=20)
        key = keys.registration(second.node.id)
        item = await services.store.get(key)
        assert item is not None
        known = records.registrations.decode(item)
        os.kill(appliance.process.pid, signal.SIGSTOP)
        try:
            # More than the buffers between etcd and the appliance hold.
            for number in range(_CHANGES):
                filler = {"filler": f"{number}".ljust(_OFFLOAD_OCTETS)}
                changed = replace(known, offloads=filler, endpoints=(f"198.51.100.1:{number + 1}",))
                put = Put(key, records.registrations.encode(changed))
                await services.store.commit([], [put])
            etcd = EtcdMembers(services.store.endpoints)  # type: ignore[attr-defined]
            await etcd.compact((await etcd.members())[0])
            await etcd.close()
        finally:
            os.kill(appliance.process.pid, signal.SIGCONT)
        begun = time.monotonic()
        wait_until("it has listed anew", lambda: lists(appliance) >= 2, within_s=60)
    # The stream broke off meanwhile: the node comes back, as an agent does.
    last = f"198.51.100.1:{_CHANGES}"
    async with following(first, copy) as until, appliance.operator() as services:
        await until(lambda: last in endpoints_of(copy), within_s=60)
        took = time.monotonic() - begun
        listing = await services.store.list(MAP)
        services.netmaps.take([Reset(listing.revision, listing.items)])
        truth = services.netmaps.digests(first.node.id)
    current = copy.copy.current
    assert current is not None
    listed = lists(appliance)
    assert record(
        "A7",
        what=f"history given up past an appliance that slept through {_CHANGES} changes; it listed "
        f"anew ({listed - 1} times), its node holds the same digests: {current.digests() == truth}",
        bar="listed anew, the same digests",
        value=round(took, 2),
        unit="s",
        holds=listed >= 2 and current.digests() == truth,
    )


def lists(appliance: RunningAppliance) -> int:
    return appliance.log.read_text().count(f"listed prefix={MAP} ")


def endpoints_of(copy) -> set[str]:  # type: ignore[no-untyped-def]
    current = copy.copy.current
    if current is None:
        return set()
    return {
        endpoint
        for vsubnet in current.vsubnets.values()
        for member in vsubnet.members.values()
        for endpoint in member.member.endpoints
    }
