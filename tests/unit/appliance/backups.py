"""A shelf of backups in memory, and snapshots of a store that has none."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

from cairn_appliance.cluster.errors import LocalStateUnusable
from cairn_appliance.domain.backup import Head
from cairn_appliance.domain.errors import NotFound
from cairn_appliance.pki.backup_file import BackupWriter
from cairn_appliance.store.memory import MemoryStore
from cairn_appliance.store.port import Unavailable
from cairn_appliance.store.snapshots import Snapshot

SNAPSHOT = b"all that etcd has, " * 100


class FakeKept:
    """A backup that is read in two pieces."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.octets = len(content)
        self.is_closed = False

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        yield self._content[:100]
        yield self._content[100:]

    def close(self) -> None:
        self.is_closed = True


class FakeShelf:
    """Backups by name; `is_full` makes the next ones fail."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.is_full = False

    def place(self, name: str) -> str:
        return f"/var/lib/cairn-appliance/backups/{name}"

    async def keep(
        self, name: str, recipient: bytes, head: Head, content: AsyncIterator[bytes]
    ) -> int:
        if self.is_full:
            raise LocalStateUnusable("can't write it: no space left", "free space")
        out = io.BytesIO()
        writer = BackupWriter(out, recipient, head)
        async for octets in content:
            writer.write(octets)
        writer.finish()
        self.files[name] = out.getvalue()
        return len(self.files[name])

    def open(self, name: str) -> FakeKept:
        if name not in self.files:
            raise NotFound("it is not there any more")
        return FakeKept(self.files[name])

    def remove(self, name: str) -> None:
        self.files.pop(name, None)


class FakeSnapshots:
    """Snapshots of nothing, at the store's revision."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self.is_broken = False
        self.taken = 0
        self.goes_on = asyncio.Event()
        self.goes_on.set()

    @asynccontextmanager
    async def take(self) -> AsyncIterator[Snapshot]:
        self.taken += 1
        await self.goes_on.wait()
        revision = (await self._store.list("/cairn/1/cluster/")).revision
        yield Snapshot(revision, self._chunks())

    async def _chunks(self) -> AsyncGenerator[bytes, None]:
        yield SNAPSHOT[:100]
        if self.is_broken:
            raise Unavailable("etcd's snapshot came damaged or cut short")
        yield SNAPSHOT[100:]
