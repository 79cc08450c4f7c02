"""Two replicas on a real etcd tell events; the one that sends is killed while they flow."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cairn_appliance.domain.identity import SYSTEM
from cairn_appliance.domain.output import Receivers, Syslog, Transport, Webhook
from cairn_appliance.pki.sealing import new_kek
from cairn_appliance.services.events import Journal
from cairn_appliance.store import keys
from cairn_appliance.store.etcd import EtcdStore

from tests.contract.etcd_server import EtcdServer
from tests.outputs_replica import outputs
from tests.receivers import SyslogStream, WebhookServer

pytestmark = [pytest.mark.etcd, pytest.mark.timeout(120)]

ROOT = Path(__file__).resolve().parents[2]
SECRET = "a secret that both know"


async def until(condition: Callable[[], bool], within_s: float = 30.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.02)


async def happen(store: EtcdStore, number: int) -> str:
    entry = Journal().entry("it_happened", f"number {number}", SYSTEM)
    await store.commit([], [entry])
    return keys.last_part(entry.key)


async def sender(store: EtcdStore) -> str:
    async with asyncio.timeout(30):
        while (item := await store.get(keys.SENDER)) is None:
            await asyncio.sleep(0.05)
    return item.value.decode()


async def test_nothing_is_lost_when_the_replica_that_sends_is_killed(tmp_path: Path) -> None:
    kek = new_kek()
    hook, syslog = WebhookServer(), SyslogStream()
    await hook.start()
    await syslog.start()
    etcd = EtcdServer(tmp_path)
    etcd.start()
    store = EtcdStore([etcd.address], None)
    receivers = Receivers(
        (Syslog("s1", "127.0.0.1", syslog.port, Transport.TCP),),
        (Webhook("hook", f"http://127.0.0.1:{hook.port}/", ""),),
    )
    await outputs(store, kek, "test").set(receivers, {"hook": SECRET}, SYSTEM)
    replicas = {
        name: subprocess.Popen(
            [sys.executable, "-m", "tests.outputs_replica", name, etcd.address, kek.hex()],
            cwd=ROOT,
        )
        for name in ("m1", "m2")
    }
    try:
        ids: list[str] = []
        killed = await sender(store)
        for number in range(60):
            ids.append(await happen(store, number))
            if number == 20:
                hook.status = 503  # so that some wait when their sender dies
            if number == 30:
                replicas[killed].send_signal(signal.SIGKILL)
            if number == 40:
                hook.status = 200
            await asyncio.sleep(0.02)
        await until(lambda: set(ids) <= set(hook.ids) and set(ids) <= set(syslog.ids))
        assert await sender(store) != killed
    finally:
        for replica in replicas.values():
            replica.kill()
            replica.wait()
        await store.close()
        etcd.kill()
        hook.stop()
        await syslog.stop()
    first = dict.fromkeys(each for each in hook.ids if each in ids)
    assert list(first) == ids  # in order, what came again left aside
    by_id = {each["id"]: each for each in hook.bodies}
    assert all(by_id[each["id"]] == each for each in hook.bodies)


async def test_what_happened_while_the_receiver_was_away_comes_later(tmp_path: Path) -> None:
    """The receiver is away, the replica is killed meanwhile, and a new one begins."""
    kek = new_kek()
    hook = WebhookServer()
    await hook.start()
    hook.stop()
    etcd = EtcdServer(tmp_path)
    etcd.start()
    store = EtcdStore([etcd.address], None)
    url = f"http://127.0.0.1:{hook.port}/"
    wanted = Receivers(webhooks=(Webhook("hook", url, ""),))
    await outputs(store, kek, "test").set(wanted, {"hook": SECRET}, SYSTEM)
    running = asyncio.create_task(outputs(store, kek, "m1").run())
    ids = [await happen(store, number) for number in range(20)]
    await asyncio.sleep(1)
    running.cancel()
    await asyncio.wait({running})
    ids += [await happen(store, number) for number in range(20)]
    await hook.start()
    running = asyncio.create_task(outputs(store, kek, "m2").run())
    try:
        await until(lambda: set(ids) <= set(hook.ids))
    finally:
        running.cancel()
        await asyncio.wait({running})
        await store.close()
        etcd.kill()
        hook.stop()
    assert [each for each in hook.ids if each in ids] == ids
