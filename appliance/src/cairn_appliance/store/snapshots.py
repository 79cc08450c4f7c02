"""Snapshots of etcd, streamed by one of its members and verified."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass

import grpc
import grpc.aio

from cairn_appliance.store import rpc_pb2, rpc_pb2_grpc
from cairn_appliance.store.connection import (
    BACKOFF_LAST_S,
    READ_S,
    TOTAL_S,
    Backoff,
    Endpoints,
    Link,
    bounded,
    meaning,
)
from cairn_appliance.store.keys import CLUSTER_INFO
from cairn_appliance.store.port import StoreError, Unavailable

_BEGUN_WITHIN_S = 2 * READ_S + BACKOFF_LAST_S  # one try, and the wait before it
_SILENT_S = 30.0  # the member reads its disk before the first octet
_HASH_OCTETS = 32  # SHA-256 of all before it ends a snapshot
_PAGE_OCTETS = 512  # the database has whole pages


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot under way; what was acknowledged up to `revision` is in it."""

    revision: int
    chunks: AsyncIterator[bytes]


class Snapshots:
    """Takes snapshots; `endpoints` are those of the store."""

    def __init__(self, endpoints: Endpoints) -> None:
        self._endpoints = endpoints

    @contextlib.asynccontextmanager
    async def take(self) -> AsyncIterator[Snapshot]:
        """Yield a snapshot; raise Unavailable, also where it ends before it is whole.

        The member is first asked for something that only the quorum knows: what it has then
        is no older than what anybody was told before.
        """
        link, revision = await self._begun()
        try:
            async with contextlib.aclosing(_chunks(link)) as chunks:
                yield Snapshot(revision, chunks)
        except StoreError:
            self._endpoints.mark_bad(link.address)
            raise
        finally:
            await link.channel.close(None)

    async def _begun(self) -> tuple[Link, int]:
        """Return a member that is well and what it has; raise Unavailable after ten seconds."""
        loop = asyncio.get_running_loop()
        end = loop.time() + TOTAL_S
        backoff = Backoff()
        while True:
            address = self._endpoints.pick()
            link = Link(address, self._endpoints.open(address))
            try:
                return link, await _newest(link)
            except BaseException as error:
                await link.channel.close(None)
                if not isinstance(error, Unavailable):
                    raise
                self._endpoints.mark_bad(address)
                if loop.time() + _BEGUN_WITHIN_S >= end:
                    raise
            await backoff.wait()


async def _newest(link: Link) -> int:
    """Return the revision that the quorum knows; raise StoreError."""
    await link.ready(READ_S)
    asked = rpc_pb2.RangeRequest(key=CLUSTER_INFO.encode())
    answer = await bounded(rpc_pb2_grpc.KVStub(link.channel).Range(asked), READ_S)
    return int(answer.header.revision)


async def _chunks(link: Link) -> AsyncGenerator[bytes, None]:
    call = rpc_pb2_grpc.MaintenanceStub(link.channel).Snapshot(rpc_pb2.SnapshotRequest())
    digest, end, octets = hashlib.sha256(), b"", 0
    try:
        while True:
            blob = await _next(call)
            if not blob:
                break
            octets += len(blob)
            # The last 32 octets are the hash of those before: never known to be until the end.
            hashed, end = (end + blob)[:-_HASH_OCTETS], (end + blob)[-_HASH_OCTETS:]
            digest.update(hashed)
            yield blob
    finally:
        call.cancel()
    if octets % _PAGE_OCTETS != _HASH_OCTETS or digest.digest() != end:
        raise Unavailable("etcd's snapshot came damaged or cut short")


async def _next(call: grpc.aio.UnaryStreamCall[object, object]) -> bytes:
    """Return what comes next, nothing at the end; raise Unavailable."""
    try:
        async with asyncio.timeout(_SILENT_S):
            response = await call.read()
    except TimeoutError as error:
        raise Unavailable(f"etcd's snapshot fell silent for {_SILENT_S:.0f} s") from error
    except grpc.aio.AioRpcError as error:
        raise meaning(error) from error
    return bytes(response.blob) if isinstance(response, rpc_pb2.SnapshotResponse) else b""
