"""The audit on a real etcd: two appliances that write at once, one that ends, a full store."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cairn_appliance.cluster.audit_files import AuditFiles
from cairn_appliance.domain import audit
from cairn_appliance.domain.audit import Entry, Kind, Mark, Who
from cairn_appliance.pki.audit_key import AuditKey, reading_seal
from cairn_appliance.services.audit import Audit
from cairn_appliance.services.events import Journal
from cairn_appliance.store import keys
from cairn_appliance.store.port import Compare, Delete, Full, Put, Store

from tests.contract.etcd_server import EtcdServer, client
from tests.unit.appliance.replica import CLUSTER, SEALER

pytestmark = [pytest.mark.etcd, pytest.mark.timeout(120)]

QUOTA = 16 << 20


def audit_of(store: Store, name: str, directory: Path) -> Audit:
    (directory / name).mkdir(exist_ok=True)
    files = AuditFiles(directory / name)
    return Audit(store, CLUSTER.id, name, AuditKey(SEALER), Journal(), files=files)


def asked(number: int, kind: Kind = Kind.ASKED) -> Entry:
    who = Who("operator", "anna", "admin", "192.0.2.9")
    path = "/api/v1/vsubnets"
    return Entry(kind, number, f"{number:016x}", who, f"POST {path}", path, details={"name": "x"})


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EtcdServer]:
    (tmp_path / "etcd").mkdir()
    made = EtcdServer(tmp_path / "etcd", name="m1", options=(f"--quota-backend-bytes={QUOTA}",))
    made.start()
    yield made
    made.kill()


async def test_two_appliances_write_at_once_and_each_finds_what_is_done_to_the_other(
    server: EtcdServer, tmp_path: Path
) -> None:
    async with client(server.address) as one, client(server.address) as other:
        first, second = audit_of(one, "m1", tmp_path), audit_of(other, "m2", tmp_path)

        async def work(service: Audit, number: int) -> None:
            await service.ask(asked(number))
            service.end(asked(number, Kind.ENDED))

        for begin in range(0, 600, 100):
            each = range(begin, begin + 100)
            await asyncio.gather(
                *(work(first if number % 2 else second, number) for number in each)
            )
            await first.checkpoint()
            await second.checkpoint()
        assert not await first.checkpoint() or not await second.checkpoint()
        for service in (first, second):
            found = await service.verify()
            assert [(c.appliance, c.problem) for c in found.chains] == [("m1", ""), ("m2", "")]
            assert sum(c.records - c.checkpoints for c in found.chains) == 1200
            assert len(list(await service.shown())) == 600

        # Put back to an older state, whole: the other appliance has seen more, and its disk knows.
        listing = await one.list(keys.audit_of("m2"))
        kept = listing.items[:101]
        entries = [audit.decode_record(item.value).entry for item in kept]
        empty = audit.empty_head(CLUSTER.id, "m2")
        lines, head = audit.chained(entries, empty, AuditKey(SEALER).seal(CLUSTER.id), 1)
        assert lines == [item.value for item in kept], "as it was then, and signed"
        gone = [Delete(item.key) for item in listing.items[101:-1]]
        for begin in range(0, len(gone), 100):
            await one.commit([], gone[begin : begin + 100])
        await one.commit([], [Put(keys.audit_head("m2"), audit.encode(head))])
        again = audit_of(one, "m1", tmp_path)  # as after a restart
        for service in (first, again):
            problems = {c.appliance: c.problem for c in (await service.verify()).chains}
            assert problems["m1"] == ""
            assert "are gone" in problems["m2"]


async def test_an_appliance_goes_on_after_a_restart_and_beside_its_own_copy(
    server: EtcdServer, tmp_path: Path
) -> None:
    async with client(server.address) as store, client(server.address) as twin:
        first = audit_of(store, "m1", tmp_path)
        await first.ask(asked(1))
        again, copy = audit_of(store, "m1", tmp_path), audit_of(twin, "m1", tmp_path)
        # Each request has an ID of its own: by that a writer knows its own record again.
        numbers = range(2, 42)
        both = [again.ask(asked(n)) for n in numbers] + [copy.ask(asked(100 + n)) for n in numbers]
        await asyncio.gather(*both)
        found = await again.verify()
        assert found.is_ok, found
        assert found.chains[0].records == 81


async def test_it_is_moved_to_the_archive_whole(server: EtcdServer, tmp_path: Path) -> None:
    async with client(server.address) as store:
        service = audit_of(store, "m1", tmp_path)
        service.kept = 100
        for number in range(700):
            service.end(asked(number))
        await service.flush()
        assert await service.prune({"m1"}) == 600
        assert (await service.verify()).is_ok
        (file,) = (tmp_path / "m1" / "audit").glob("*.jsonl")
        seal = reading_seal(CLUSTER.id, service.public_key)
        _, reports = audit.examine_file(file.read_bytes().splitlines(), seal)
        assert (reports[0].records, reports[0].problem) == (600, "")
        assert AuditFiles(tmp_path / "m1").marks()["m1"].index == 700
        AuditFiles(tmp_path / "m1").keep_marks({"m1": Mark(701, "a" * 64)})
        assert not (await audit_of(store, "m1", tmp_path).verify()).is_ok


async def test_a_full_store_lets_recorded_deletions_through_and_nothing_else(
    server: EtcdServer, tmp_path: Path
) -> None:
    async with client(server.address) as store:
        service = audit_of(store, "m1", tmp_path)
        await service.ask(asked(1))
        await store.commit([], [Put(keys.token("t1"), b"t")])
        with pytest.raises(Full):
            for _ in range(200):
                await store.commit([], [Put(keys.LAST_NAME, b"x" * 800_000)])
        with pytest.raises(Full):
            await service.ask(asked(2))
        await service.ask(asked(3), may_wait=True)
        token = await store.get(keys.token("t1"))
        assert token is not None
        await store.commit([Compare(token.key, token.revision)], [Delete(token.key)])
        spool = tmp_path / "m1" / "audit" / "spool.jsonl"
        assert audit.decode_record(spool.read_bytes().splitlines()[0]).entry == asked(3)
        with pytest.raises(Full):
            await audit_of(store, "m1", tmp_path).catch_up()
        assert spool.exists()


async def test_what_it_adds_to_a_change(server: EtcdServer, tmp_path: Path) -> None:
    """Measured, not judged here: one write more before each change, shared by those at once."""
    async with client(server.address) as store:
        service = audit_of(store, "m1", tmp_path)
        count = int(os.environ.get("CAIRN_AUDIT_COST", "100"))

        async def took_ms(number: int, *, is_recorded: bool) -> float:
            began = time.perf_counter()
            if is_recorded:
                await service.ask(asked(number))
            await store.commit([], [Put(keys.token(f"t{number}"), b"t" * 300)])
            return (time.perf_counter() - began) * 1000

        plain = [await took_ms(n, is_recorded=False) for n in range(count)]
        before = (await store.list(keys.CLUSTER_INFO)).revision
        recorded = [await took_ms(n, is_recorded=True) for n in range(count)]
        after = (await store.list(keys.CLUSTER_INFO)).revision
        assert after - before == 2 * count, "one transaction for the record, one for the change"
        plain_ms, recorded_ms = statistics.median(plain), statistics.median(recorded)
        print(f"median of {count}: {plain_ms:.2f} ms, recorded {recorded_ms:.2f} ms")
