"""The machine under an appliance of the image: what its root says, and what it is asked for.

The appliance lays an update into a directory of its own, and beside it a wish, which root's
service takes (cairn_appliance/image/update.py). It can ask for nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from cairn_appliance.cluster.backup_shelf import Kept
from cairn_appliance.cluster.files import SECRET, cannot, sync_directory, write_whole
from cairn_appliance.domain.errors import NotFound, UpdateUnusable
from cairn_appliance.domain.update import Standing, Wish
from cairn_appliance.pki.update_file import MOST_OCTETS, Head, check_whole, read_head

log = logging.getLogger(__name__)

# As cairn_appliance/image/places.py has them: root's side of the same.
INBOX: Final = Path("/var/lib/cairn-update")
STANDING: Final = Path("/var/lib/cairn-image/standing.json")
RELEASE_KEY: Final = Path("/usr/lib/cairn-appliance/release.pem")
_BUNDLE, _WISH = "bundle", "wish"
_LEFT_FREE_OCTETS: Final = 256 << 20  # for etcd, which shares the disk
# etcd's syncs wait for what others have written, so that little is written at once.
_SYNCED_EACH_OCTETS: Final = 4 << 20
_PAUSE_MOST_S: Final = 0.2


@dataclass(frozen=True)
class OwnMachine:
    """What an appliance knows of its machine, and gives it."""

    inbox: Path = INBOX
    standing_file: Path = STANDING
    release_key: Path = RELEASE_KEY
    left_free_octets: int = _LEFT_FREE_OCTETS

    def standing(self) -> Standing | None:
        """Return how it stands with its slots; None: it doesn't run from the image."""
        try:
            return msgspec.json.decode(self.standing_file.read_bytes(), type=Standing)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError) as error:
            log.warning("what the machine says of its slots can't be read reason=%s", error)
            return None

    def bundle(self) -> Head | None:
        """Return what the update that lies here says of itself; None where there is none."""
        try:
            with (self.inbox / _BUNDLE).open("rb") as file:
                return read_head(file, self.release_key.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, UpdateUnusable) as error:
            log.warning("the update that lies here can't be used reason=%s", error)
            return None

    async def keep(
        self, chunks: AsyncIterator[bytes], check: Callable[[], Awaitable[None]] | None = None
    ) -> Head:
        """Put an update in the place of the one that lies here, once it is looked at whole.

        Raises UpdateUnusable, LocalStateUnusable and what `check` raises, which is asked last;
        nothing of it is left then. One at a time: there is one draft, which a later call clears.
        """
        path, draft = self.inbox / _BUNDLE, self.inbox / f".{_BUNDLE}.new"
        try:
            with os.fdopen(_created(draft), "w+b") as file:
                await self._fill(file, chunks)
                file.seek(0)
                head = await asyncio.to_thread(check_whole, file, self.release_key.read_bytes())
            if check is not None:
                await check()
            draft.rename(path)
            await asyncio.to_thread(sync_directory, self.inbox)
        except OSError as error:
            raise cannot("write", path, error) from error
        finally:
            with contextlib.suppress(OSError):
                draft.unlink()
        return head

    def open(self) -> Kept:
        """Return the update that lies here, to be read; raise NotFound."""
        try:
            return Kept((self.inbox / _BUNDLE).open("rb"))
        except OSError as error:
            raise NotFound("no update lies on this appliance", "upload it") from error

    def remove(self) -> None:
        """Remove the update that lies here; its room is the store's."""
        with contextlib.suppress(OSError):
            (self.inbox / _BUNDLE).unlink(missing_ok=True)

    def ask(self, wish: Wish) -> None:
        """Ask root for something; raise LocalStateUnusable."""
        write_whole(self.inbox / _WISH, msgspec.json.encode(wish))

    async def _fill(self, file: BinaryIO, chunks: AsyncIterator[bytes]) -> None:
        octets, synced_at = 0, -_SYNCED_EACH_OCTETS
        busy_s = time.thread_time()
        async for chunk in chunks:
            octets += len(chunk)
            if octets > MOST_OCTETS:
                raise UpdateUnusable(
                    f"an update has at most {MOST_OCTETS >> 20} MiB", code="update_too_large"
                )
            if octets - synced_at >= _SYNCED_EACH_OCTETS:
                synced_at = octets
                self._check_room()
                await asyncio.to_thread(_settle, file)
            await asyncio.to_thread(file.write, chunk)
            # As long for all else that this thread has to do as it was busy: a file that comes
            # faster than a slow processor decrypts it would leave nothing for the store.
            await asyncio.sleep(min(time.thread_time() - busy_s, _PAUSE_MOST_S))
            busy_s = time.thread_time()
        await asyncio.to_thread(_settle, file)

    def _check_room(self) -> None:
        about = os.statvfs(self.inbox)
        if about.f_bavail * about.f_frsize < self.left_free_octets:
            raise UpdateUnusable(
                f"the disk has no room for the update: {self.left_free_octets >> 20} MiB have to "
                "stay free for the store",
                "take old backups off the appliance, or enlarge its disk and start it again",
                code="update_no_space",
            )


def _created(path: Path) -> int:
    path.unlink(missing_ok=True)  # of an upload that was cut off
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, SECRET)


def _settle(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
