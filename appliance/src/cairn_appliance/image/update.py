"""What root does of an update: it writes the other slot, or tries it, and starts the machine anew.

The appliance's user asks by a file, and lays the update beside it. Nothing of both is believed
but what the release key has signed: the directory is opened once and its files below it, links
are not followed, and each piece is looked at after it was read into memory.

Whenever the power fails, the next start is the slot of before: it is never written, and `trial`
is set last, after the other slot was read back from the disk.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, cast

import msgspec

from cairn_appliance.domain.errors import CairnError, UpdateRefused, UpdateUnusable
from cairn_appliance.domain.update import Action, Standing, Wish, version_of
from cairn_appliance.image import environment, health, places, slots, standing
from cairn_appliance.image.environment import Environment, Slot
from cairn_appliance.image.slots import SlotWriter
from cairn_appliance.pki.update_file import Head, pieces_of, read_head

log = logging.getLogger(__name__)

_WISH_MOST_OCTETS = 4096
_UNPACKED_AT_ONCE_OCTETS = 1 << 20
_ENDS_WITHIN_S = 30.0
_FAULTY = "look at the disk: the kernel's messages are in this machine's journal; then start again"
# zstd needs a window of what it has unpacked, in KiB: of level 9 that is 4 MiB.
_UNPACK = ("zstd", "-q", "-d", "-c", "--memory=64MB")


def running_version() -> str:
    """Return the version of the image that runs."""
    return platform.freedesktop_os_release().get("IMAGE_VERSION", "")


def start_anew() -> None:
    """Start the machine anew: its services end in order first, which drains the appliance."""
    subprocess.run(["systemctl", "reboot"], check=True, timeout=60)


@dataclass(frozen=True)
class Machine:
    """What of the machine an update touches."""

    inbox: Path = places.INBOX
    standing: Path = places.STANDING
    grubenv: Path = places.GRUBENV
    release_key: Path = places.RELEASE_KEY
    esp: Callable[[], AbstractContextManager[None]] = health.esp
    running_slot: Callable[[], Slot] = health.running_slot
    running_version: Callable[[], str] = running_version
    partition_of: Callable[[Slot], Path] = slots.partition_of
    start_anew: Callable[[], None] = start_anew
    now: Callable[[], float] = field(default=time.time)


def update(machine: Machine | None = None) -> None:
    """Do what the appliance asked for, once; raise CairnError, and the machine says why."""
    machine = machine or Machine()
    inbox = _opened_inbox(machine.inbox)
    try:
        wish = _taken(inbox)
        if wish is None:
            return
        if standing.read(machine.standing).wish == wish.id:
            log.info("it was carried out already wish=%s", wish.id)
            return
        try:
            if wish.action is Action.INSTALL:
                _install(machine, inbox, wish)
            else:
                _go_back(machine, wish)
        except CairnError as error:
            cause, remedy = error.cause, error.remedy
            _tell(machine, lambda it: it.failed(cause, remedy, machine.now()))
            raise
        except (OSError, subprocess.SubprocessError) as error:
            cause = f"the machine could not do it: {error}"
            _tell(machine, lambda it: it.failed(cause, _FAULTY, machine.now()))
            raise
    finally:
        os.close(inbox)
    machine.start_anew()


def _install(machine: Machine, inbox: int, wish: Wish) -> None:
    _begin(machine, wish, "")
    _check_settled(machine)
    with _opened(inbox, places.BUNDLE) as file:
        head = read_head(file, machine.release_key.read_bytes())
        _begin(machine, wish, head.version)
        _check_newer(head, machine.running_version())
        slot = environment.other(machine.running_slot())
        with SlotWriter(machine.partition_of(slot)) as writer:
            _check_fits(head, writer)
            _tell(machine, Standing.overwriting)
            _forget_trial(machine)
            _write(file, head, writer)
    _tell(machine, Standing.written)
    _try(machine, slot)


def _go_back(machine: Machine, wish: Wish) -> None:
    kept = standing.read(machine.standing)
    slot = environment.other(machine.running_slot())
    _begin(machine, wish, kept.whole.get(slot, ""))
    _check_settled(machine)
    if not kept.whole.get(slot):
        raise UpdateRefused(
            "the other slot has no whole system to go back to", "stay, or install a newer version"
        )
    _try(machine, slot)


def _try(machine: Machine, slot: Slot) -> None:
    """Have the slot started once; from here on a failing power leads to the trial, too."""
    _set(machine, lambda known: replace(known, trial=slot, tried=None))
    _tell(machine, lambda it: it.restarting(machine.now()))
    log.info("the machine is started anew to try slot=%s", slot)


def _write(file: BinaryIO, head: Head, writer: SlotWriter) -> None:
    manifest = head.manifest
    log.info("writing version=%s octets=%d", manifest.version, manifest.root_octets)
    writer.spoil()
    with contextlib.closing(_unpacked(pieces_of(file, manifest))) as chunks:
        writer.write(chunks, manifest.root_octets)
    if writer.digest(manifest.root_octets) != manifest.root_sha256:
        raise slots.SlotUnusable("the other slot does not read back as it was written")
    log.info("written and read back version=%s", manifest.version)


def _unpacked(pieces: Iterator[bytes]) -> Generator[bytes, None, None]:
    """Yield what zstd makes of the pieces; raise what `pieces` raises, or UpdateUnusable."""
    with subprocess.Popen(_UNPACK, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        into, out = cast(BinaryIO, program.stdin), cast(BinaryIO, program.stdout)
        feeder = _Feeder(pieces, into)
        feeder.start()
        try:
            while chunk := out.read(_UNPACKED_AT_ONCE_OCTETS):
                yield chunk
            program.wait(_ENDS_WITHIN_S)
        finally:
            program.kill()
            feeder.join(_ENDS_WITHIN_S)
        if feeder.error is not None:
            raise feeder.error
        if program.returncode != 0:
            raise UpdateUnusable("the update can't be unpacked", code="update_damaged")


class _Feeder(threading.Thread):
    """Gives pieces to a program, while what it makes of them is read elsewhere."""

    def __init__(self, pieces: Iterator[bytes], into: BinaryIO) -> None:
        super().__init__(name="give pieces to zstd", daemon=True)
        self._pieces = pieces
        self._into = into
        self.error: CairnError | None = None

    def run(self) -> None:
        """Give all; the end, or an error, closes the program's input."""
        try:
            for piece in self._pieces:
                self._into.write(piece)
        except CairnError as error:
            self.error = error
        except (OSError, ValueError) as error:
            log.info("zstd took no more reason=%s", error)  # its exit code says why
        finally:
            with contextlib.suppress(OSError):
                self._into.close()


def _opened_inbox(path: Path) -> int:
    """Open the directory itself: what it is called may be another one's a moment later."""
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise UpdateRefused(f"{path} can't be opened: {error.strerror}") from error


def _taken(inbox: int) -> Wish | None:
    """Return what is asked for, and take it away: it is done once, whatever becomes of it."""
    try:
        with _opened(inbox, places.WISH) as file:
            octets = file.read(_WISH_MOST_OCTETS)
    except UpdateUnusable as error:
        log.warning("nothing was asked for that could be read reason=%s", error.cause)
        octets = b""
    _take_away(inbox, places.WISH)
    try:
        return msgspec.json.decode(octets, type=Wish) if octets else None
    except msgspec.MsgspecError as error:
        log.warning("what was asked for can't be read reason=%s", error)
        return None


def _take_away(inbox: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=inbox)
    except FileNotFoundError:
        pass
    except OSError:  # a directory: as long as it lies there this is started again
        moved = f".no-{name}-{os.urandom(8).hex()}"
        os.rename(name, moved, src_dir_fd=inbox, dst_dir_fd=inbox)


def _opened(inbox: int, name: str) -> BinaryIO:
    """Open a file of the directory: no link, no pipe, no device. Raise UpdateUnusable."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(name, flags, dir_fd=inbox)
    except OSError as error:
        raise UpdateUnusable(
            f"there is no {name} that can be read: {error.strerror}", "upload it again"
        ) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UpdateUnusable(f"{name} is no file", "upload it again")
    return os.fdopen(descriptor, "rb")


def _begin(machine: Machine, wish: Wish, wanted: str) -> None:
    slot, version = machine.running_slot(), machine.running_version()
    _tell(
        machine,
        lambda it: replace(it, slot=slot, version=version).begun(wish.id, wanted, machine.now()),
    )


def _check_settled(machine: Machine) -> None:
    """The slot that runs must be the one that is started when all else fails."""
    running = machine.running_slot()
    with machine.esp():
        known = environment.read(machine.grubenv)
    if known.default_slot != running:
        raise UpdateRefused(
            "this machine is on trial itself", "wait until it is confirmed, 5 minutes at most"
        )


def _check_newer(head: Head, running: str) -> None:
    if version_of(head.version) <= version_of(running):
        raise UpdateUnusable(
            f"{head.version} is not newer than {running}, which runs",
            "to go back to the version of before: `cairn cluster update rollback`",
            code="update_not_newer",
        )


def _check_fits(head: Head, writer: SlotWriter) -> None:
    if head.manifest.root_octets > writer.octets:
        raise UpdateUnusable(
            f"the update's system has {head.manifest.root_octets >> 20} MiB, the slot "
            f"{writer.octets >> 20} MiB",
            "write the newer image onto a new disk, and let it join; then replace this appliance",
            code="update_too_large",
        )


def _forget_trial(machine: Machine) -> None:
    _set(machine, lambda known: replace(known, trial=None))


def _set(machine: Machine, how: Callable[[Environment], Environment]) -> None:
    with machine.esp():
        known = environment.read(machine.grubenv)
        if how(known) != known:
            environment.write(machine.grubenv, how(known))


def _tell(machine: Machine, how: Callable[[Standing], Standing]) -> None:
    standing.change(how, machine.standing)
