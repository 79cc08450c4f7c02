"""The embedded etcd with the files that bootstrap makes: real processes, mutual TLS."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cairn_appliance.cluster import bootstrap, etcd_process
from cairn_appliance.cluster.errors import EnvironmentLacks, LocalStateUnusable
from cairn_appliance.cluster.etcd_binary import find_etcd
from cairn_appliance.cluster.etcd_process import EtcdProcess, client_tls
from cairn_appliance.settings import Settings
from cairn_appliance.store import keys, records
from cairn_appliance.store.connection import Tls
from cairn_appliance.store.port import Compare, Put, Unavailable
from cryptography import x509

from tests.contract.etcd_server import client
from tests.ports import free_port

pytestmark = pytest.mark.etcd
NOW = datetime.now(UTC)


@pytest.fixture
def created(tmp_path: Path) -> bootstrap.Created:
    return _create(tmp_path / "data")


@pytest.fixture
async def running(created: bootstrap.Created) -> AsyncIterator[EtcdProcess]:
    process = EtcdProcess(created.local, find_etcd())
    await process.start()
    try:
        yield process
    finally:
        await process.stop()


async def test_what_bootstrap_made_comes_back_from_the_store(
    created: bootstrap.Created, running: EtcdProcess
) -> None:
    local = bootstrap.load(created.local.data_dir)
    async with client(local.etcd_endpoint, tls=client_tls(local)) as store:
        await store.commit(*created.first_transaction())
        secrets = await bootstrap.load_secrets(store, local)
        info = await store.get(keys.CLUSTER_INFO)
        kept = [item.value for item in (await store.list(keys.ROOT)).items]
    assert info is not None
    assert records.clusters.decode(info) == created.cluster
    assert secrets.authority.pin == created.secrets.authority.pin
    assert secrets.map_key.public == created.secrets.map_key.public
    assert not any(b"PRIVATE KEY" in value for value in kept)
    assert not any(created.secrets.map_key.to_octets() in value for value in kept)


async def test_another_kek_opens_nothing_and_says_so(
    created: bootstrap.Created, running: EtcdProcess
) -> None:
    (created.local.data_dir / "kek").write_bytes(os.urandom(32))
    local = bootstrap.load(created.local.data_dir)
    async with client(local.etcd_endpoint, tls=client_tls(local)) as store:
        await store.commit(*created.first_transaction())
        with pytest.raises(LocalStateUnusable, match="kek"):
            await bootstrap.load_secrets(store, local)


async def test_etcd_answers_nobody_without_a_certificate_of_its_own_authority(
    created: bootstrap.Created, running: EtcdProcess, tmp_path: Path
) -> None:
    local = created.local
    stranger = _create(tmp_path / "stranger").local
    good = client_tls(local)
    foreign = client_tls(stranger)

    async def is_refused(tls: Tls | None) -> None:
        async with client(local.etcd_endpoint, tls=tls) as store:
            with pytest.raises(Unavailable):
                await store.get("/a")

    strangers = (None, Tls(good.ca, foreign.certificate, foreign.key), foreign)
    await asyncio.gather(*map(is_refused, strangers))
    async with client(local.etcd_endpoint, tls=good) as store:
        assert await store.get("/a") is None


async def test_etcd_listens_on_loopback_only(
    created: bootstrap.Created, running: EtcdProcess
) -> None:
    result = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, check=True)
    mine = [line.split()[3] for line in result.stdout.splitlines() if f"pid={running.pid}," in line]
    settings = created.local.settings
    ports = (settings.etcd_client_port, settings.etcd_peer_port, settings.etcd_metrics_port)
    assert sorted(mine) == sorted(f"127.0.0.1:{port}" for port in ports)


async def test_a_killed_etcd_is_started_again_with_its_data(
    created: bootstrap.Created, running: EtcdProcess
) -> None:
    local = created.local
    supervising = asyncio.create_task(running.supervise())
    async with client(local.etcd_endpoint, tls=client_tls(local)) as store:
        await store.commit([Compare("/a", 0)], [Put("/a", b"kept")])
        assert running.pid is not None
        os.kill(running.pid, signal.SIGKILL)
        async with asyncio.timeout(20):
            while running.restarts == 0:
                await asyncio.sleep(0.05)
        item = await store.get("/a")
    assert item is not None
    assert item.value == b"kept"
    pid = running.pid
    supervising.cancel()
    with pytest.raises(asyncio.CancelledError):
        await supervising
    assert pid is not None
    assert not Path(f"/proc/{pid}").exists()


async def test_etcd_ends_with_a_killed_parent(created: bootstrap.Created) -> None:
    script = textwrap.dedent("""
        import asyncio, sys
        from pathlib import Path
        from cairn_appliance.cluster import bootstrap
        from cairn_appliance.cluster.etcd_binary import find_etcd
        from cairn_appliance.cluster.etcd_process import EtcdProcess

        async def main():
            process = EtcdProcess(bootstrap.load(Path(sys.argv[1])), find_etcd())
            await process.start()
            print(process.pid, flush=True)
            await process.supervise()

        asyncio.run(main())
    """)
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, str(created.local.data_dir), stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    pid = int(await asyncio.wait_for(parent.stdout.readline(), 30))
    parent.kill()
    await parent.wait()
    async with asyncio.timeout(10):
        while Path(f"/proc/{pid}").exists():
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("name", ["etcd_client_port", "etcd_peer_port", "etcd_metrics_port"])
async def test_a_port_in_use_is_named_with_the_remedy(
    created: bootstrap.Created, name: str
) -> None:
    port = getattr(created.local.settings, name)
    process = EtcdProcess(created.local, find_etcd())
    with (
        socket.create_server(("127.0.0.1", port)),
        pytest.raises(EnvironmentLacks, match=str(port)) as caught,
    ):
        await process.start()
    assert name in caught.value.remedy
    assert caught.value.exit_code == 6
    assert not any(created.local.etcd_dir.iterdir())


async def test_damaged_data_is_told_with_the_remedy(created: bootstrap.Created) -> None:
    process = EtcdProcess(created.local, find_etcd())
    await process.start()
    await process.stop()
    database = created.local.etcd_dir / "member" / "snap" / "db"
    database.write_bytes(os.urandom(8192))
    with pytest.raises(LocalStateUnusable) as caught:
        await process.start(timeout_s=15)
    assert caught.value.remedy
    assert process.pid is None


@pytest.mark.root
async def test_a_full_disk_is_told_with_the_remedy(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(small)], check=True)
    try:
        created = _create(small / "data")
        process = EtcdProcess(created.local, find_etcd())
        with pytest.raises(LocalStateUnusable, match="disk is full") as caught:
            await process.start(timeout_s=15)
        assert "free space" in caught.value.remedy
        assert process.pid is None
    finally:
        subprocess.run(["umount", str(small)], check=True)


async def test_certificates_past_half_their_life_are_renewed_and_work(
    created: bootstrap.Created,
) -> None:
    local = created.local
    before = {path: path.read_bytes() for path in (local.data_dir / "pki").iterdir()}
    assert not bootstrap.renew_etcd_certificates(local, NOW)
    later = NOW.replace(year=NOW.year + 1)
    process = EtcdProcess(local, find_etcd())
    await process.start()
    try:
        async with client(local.etcd_endpoint, tls=client_tls(local)) as store:
            assert await store.get("/a") is None
        # As if a year had passed: every certificate is new, and etcd takes it without a restart.
        assert bootstrap.renew_etcd_certificates(local, later)
        changed = {path.name for path, old in before.items() if path.read_bytes() != old}
        assert {"etcd-server.pem", "etcd-peer.pem", "etcd-client.pem"} <= changed
    finally:
        await process.stop()


async def test_renewed_certificates_are_shown_at_the_next_handshake(tmp_path: Path) -> None:
    """Made 200 days ago, of 365: etcd and the store go on without a restart."""
    local = _create(tmp_path / "data", NOW - timedelta(days=200)).local
    process = EtcdProcess(local, find_etcd())
    await process.start()
    try:
        async with client(local.etcd_endpoint, tls=client_tls(local)) as store:
            assert await store.get("/a") is None
            before = await asyncio.to_thread(_shown, local)
            assert before.not_valid_after_utc < NOW + timedelta(days=170)
            assert bootstrap.renew_etcd_certificates(local, NOW)
            after = await asyncio.to_thread(_shown, local)
            assert after.not_valid_after_utc > NOW + timedelta(days=360)
            assert await store.get("/a") is None
        async with client(local.etcd_endpoint, tls=client_tls(local)) as store:
            assert await store.get("/a") is None
    finally:
        await process.stop()


async def test_its_log_begins_anew_while_it_runs(
    created: bootstrap.Created, running: EtcdProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it complains of each second for weeks must not fill the disk of the store."""
    monkeypatch.setattr(etcd_process, "_LOG_MAX_OCTETS", 64 << 10)
    monkeypatch.setattr(etcd_process, "_LOG_LOOKED_AT_EVERY_S", 0.05)
    path, pid = created.local.etcd_log, running.pid
    supervising = asyncio.create_task(running.supervise())
    with path.open("ab") as file:  # as etcd itself writes
        file.write(b"a complaint\n" * 10_000)
        file.write(b"the last one\n")
    async with asyncio.timeout(20):
        while path.stat().st_size > 64 << 10:
            await asyncio.sleep(0.05)
    kept = path.with_name("etcd.log.1").read_bytes()
    assert len(kept) == 64 << 10
    assert kept.endswith(b"the last one\n")
    assert running.pid == pid
    assert pid is not None
    os.kill(pid, signal.SIGTERM)  # it says so at the end of the same file
    async with asyncio.timeout(20):
        while running.restarts == 0:
            await asyncio.sleep(0.05)
    supervising.cancel()
    with suppress(asyncio.CancelledError):
        await supervising
    assert path.read_bytes().startswith(b"{"), "nothing but etcd's own lines, from the beginning"


def _shown(local: bootstrap.Local) -> x509.Certificate:
    """Return the certificate that etcd shows to who connects now, with the client's of now."""
    tls = client_tls(local)
    context = ssl.create_default_context(cafile=tls.ca)
    context.load_cert_chain(tls.certificate, tls.key)
    place = ("127.0.0.1", local.settings.etcd_client_port)
    with (
        socket.create_connection(place, timeout=5) as raw,
        context.wrap_socket(raw, server_hostname="127.0.0.1") as shown,
    ):
        octets = shown.getpeercert(binary_form=True)
    assert octets is not None
    return x509.load_der_x509_certificate(octets)


def _create(data_dir: Path, now: datetime = NOW) -> bootstrap.Created:
    ports = {f"etcd_{name}_port": free_port() for name in ("client", "peer", "metrics")}
    settings = Settings(addresses=["192.0.2.1"], **ports)
    with bootstrap.drafting(data_dir) as draft:
        created = bootstrap.create(draft.path, settings, now)
        draft.publish()
    return replace(created, local=bootstrap.load(data_dir))
