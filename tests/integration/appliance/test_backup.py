"""A backup of a running appliance, and what its cluster is after a restore, over the wire.

The whole of it, with data planes and probes, is tests/integration/test_restore.py.
"""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import msgspec
import pytest
from cairn_agent.control.reasserting import reassert
from cairn_agent.control.tls import server_context
from cairn_agent.errors import Busy, Refused
from cairn_appliance import __version__
from cairn_appliance.cluster.errors import LocalStateUnusable
from cairn_appliance.domain.errors import Invalid
from cairn_appliance.pki.recovery_key import RecoveryKey
from cairn_appliance.restoring import Asked, restore
from cairn_appliance.store import keys, records
from cairn_appliance.store.port import Put

from tests.integration.appliance.running import Member, RunningAppliance, register_request
from tests.proofs import record
from tests.simulated_node import Follower, SimulatedNode

pytestmark = pytest.mark.etcd

ABSORB_S = 20.0  # it ends as soon as all have come


@dataclass
class Agent:
    """A node that follows as agents do."""

    member: Member
    copy: Follower

    async def follow(self) -> None:
        """Register and take what is streamed, as far as it is now."""
        held = self.copy.copy.current
        async with self.member.client() as replica:
            node = self.member.node
            asked = msgspec.structs.replace(
                register_request(node), incarnation=held.incarnation if held else 0
            )
            try:
                answer = await replica.register(asked)
            except Busy as busy:
                if busy.code == "restoring":
                    await reassert(replica, self.copy.copy, node.data_public_key)
                raise
            node.generation = answer.generation
            if answer.reassert:
                await reassert(replica, self.copy.copy, node.data_public_key)
            async for line in replica.netmap_lines(*self.copy.copy.position(), 10):
                self.copy.take(line)
                if b'"in_sync"' in line:
                    return

    async def follow_soon(self) -> None:
        """Follow as soon as the appliance serves."""
        async with asyncio.timeout(30):
            while True:
                try:
                    return await self.follow()
                except Busy:
                    await asyncio.sleep(0.2)

    def ips(self) -> list[str]:
        """Its addresses, as it holds them."""
        netmap = self.copy.copy.current
        assert netmap is not None
        members = [m for v in netmap.vsubnets.values() for m in v.readable()]
        return [ip for m in members if m.node_id == self.member.node.id for ip in m.ips]


@contextmanager
def operations(appliance: RunningAppliance) -> Iterator[httpx.Client]:
    """The operations API, as the admin."""
    url = f"https://127.0.0.1:{appliance.settings.ops_port}/api/v1/"
    context = server_context(appliance.ca)
    with httpx.Client(base_url=url, verify=context, trust_env=False, timeout=30) as client:
        login = {"name": "admin", "password": appliance.made.admin_password}
        token = client.post("login", json=login).raise_for_status().json()["token"]
        client.headers["Authorization"] = f"Bearer {token}"
        yield client


async def restore_from(appliance: RunningAppliance, file: Path, *, set_aside: bool = True) -> None:
    key = RecoveryKey.parse(appliance.made.recovery_key)
    asked = Asked(file, key, set_aside=set_aside, absorb_s=ABSORB_S)
    await restore(appliance.data_dir, asked)


async def joined(appliance: RunningAppliance, name: str, token: str) -> Agent:
    node = SimulatedNode(name, endpoints=("192.0.2.7:8002",))
    answer = await appliance.enrol(node, token)
    agent = Agent(Member(appliance, node, answer), node.copy(answer.cluster_id, answer.map_key))
    await agent.follow()
    return agent


@pytest.fixture
def appliance(tmp_path: Path) -> Iterator[RunningAppliance]:
    appliance = RunningAppliance(tmp_path)
    appliance.start()
    yield appliance
    if appliance.process is not None and appliance.process.poll() is None:
        appliance.end(signal.SIGKILL)


async def test_a_cluster_is_restored_and_its_nodes_tell_it_the_rest(
    appliance: RunningAppliance, tmp_path: Path
) -> None:
    token = await appliance.token("red", max_uses=9)
    old = await joined(appliance, "old", token)
    with operations(appliance) as client:
        backup = client.post("backups").raise_for_status().json()
        assert [each["name"] for each in client.get("backups").json()] == [backup["name"]]
        assert client.get("cluster").json()["problems"] == []
        fetched = client.get(f"backups/{backup['name']}/file").raise_for_status()
    file = tmp_path / "kept.backup"
    path = Path(backup["path"])
    file.write_bytes(fetched.content)
    assert fetched.content == path.read_bytes()
    assert fetched.headers["content-type"] == "application/octet-stream"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700

    new = await joined(appliance, "new", token)
    await old.follow()
    were = {"old": (old.copy.digests, old.ips()), "new": (new.copy.digests, new.ips())}
    appliance.end(signal.SIGKILL)

    await check_bad_files(appliance, file, tmp_path)
    begun = time.monotonic()
    await restore_from(appliance, file)
    appliance.start()
    await asyncio.gather(old.follow_soon(), new.follow_soon())
    took = time.monotonic() - begun
    same = {"old": (old.copy.digests, old.ips()), "new": (new.copy.digests, new.ips())}
    assert new.copy.copy.current is not None
    assert new.copy.copy.current.incarnation > 1_000_000_000
    with pytest.raises(Refused) as refused:
        await joined(appliance, "late", token)
    assert refused.value.code == "token_expired"
    late = await joined(appliance, "late", await appliance.token("red"))
    addresses = [*old.ips(), *new.ips(), *late.ips()]
    with operations(appliance) as client:
        problems = client.get("cluster").json()["problems"]
    assert not [each for each in problems if "not seen" in each["cause"]]
    assert record(
        "A12-changes",
        what=f"backup, one more node, restore ({took:.1f} s): nodes whose documents are others "
        "now, and addresses that two have",
        bar="0",
        value=sum(same[name] != were[name] for name in were) + len(addresses) - len({*addresses}),
        unit="",
        holds=same == were and len(addresses) == len({*addresses}) == 6,
    )


async def test_a_version_that_is_new_to_the_cluster_makes_a_backup_first(
    appliance: RunningAppliance,
) -> None:
    """Without room it does not begin, and changes nothing, unless an operator says so."""
    await announced_as(appliance, "0.0.9")
    in_the_way = appliance.data_dir / "backups"
    shutil.rmtree(in_the_way, ignore_errors=True)  # a first one is due at once
    in_the_way.write_text("no directory")
    ended = subprocess.run(
        [sys.executable, "-m", "cairn_appliance.main", "run", "--data-dir", appliance.data_dir],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 4, ended.stderr
    assert "does not begin without a backup of before: " in ended.stderr
    assert "--without-backup" in ended.stderr
    in_the_way.unlink()

    appliance.start()
    with operations(appliance) as client:
        (made,) = (each for each in client.get("backups").json() if each["reason"])
        versions = [each["version"] for each in client.get("cluster").json()["appliances"]]
        check = client.get("cluster").json()["upgrade"]
        kinds = [each["kind"] for each in client.get("events").json()["items"]]
    assert versions == [__version__]
    assert made["reason"] == f"before version {__version__} in place of 0.0.9"
    assert check["last_backup_at"] >= made["made_at"]
    assert "backup_failed" in kinds
    assert Path(made["path"]).stat().st_size == made["octets"]

    await announced_as(appliance, "0.0.8")
    shutil.rmtree(in_the_way, ignore_errors=True)
    in_the_way.write_text("no directory")
    appliance.start("--without-backup")


async def announced_as(appliance: RunningAppliance, version: str) -> None:
    """Leave the cluster as an appliance of another version does that was stopped."""
    if appliance.process is None or appliance.process.poll() is not None:
        appliance.start()
    async with appliance.operator() as services:
        (found,) = (await services.store.list(keys.APPLIANCES)).items
        old = dataclasses.replace(records.appliances.decode(found), version=version)
        await services.store.commit([], [Put(found.key, records.appliances.encode(old))])
    assert appliance.end(signal.SIGTERM) == 0


async def check_bad_files(appliance: RunningAppliance, file: Path, directory: Path) -> None:
    """What isn't a whole backup changes nothing, and neither does a directory in use."""
    octets = file.read_bytes()
    bad = directory / "bad.backup"
    before = sorted(each.name for each in directory.iterdir())
    for wrong in (octets[:-1], octets[:-100] + bytes([octets[-100] ^ 1]) + octets[-99:]):
        bad.write_bytes(wrong)
        with pytest.raises(Invalid, match="damaged or cut short"):
            await restore_from(appliance, bad)
    bad.unlink()
    with pytest.raises(LocalStateUnusable, match="is in use already"):
        await restore_from(appliance, file, set_aside=False)
    assert sorted(each.name for each in directory.iterdir()) == before
