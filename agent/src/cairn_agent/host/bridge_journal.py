"""How the host was before the agent bridged it: on disk before each change, so that it can go back.

One file, whole or not there, of one boot: after another boot the kernel's network is what the
operating system's configuration made it, and there is nothing to put back.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from cairn_agent.files import make_directory, quarantine, read_file, write_whole

log = logging.getLogger(__name__)

CONFIRM_S: Final = 60.0  # a moved management address goes back unless confirmed by then
REFUSE_S: Final = 600.0  # after that, its port isn't tried again for so long
_SCHEMA: Final = 1
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class AddressRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """One address as the kernel had it."""

    family: int
    address: str
    prefix_length: int
    scope: int
    flags: int
    peer: str = ""
    label: str = ""
    broadcast: str = ""
    origin: int = 0  # IFA_PROTO
    metric: int = 0  # of its connected route
    preferred_s: int = 0xFFFF_FFFF
    valid_s: int = 0xFFFF_FFFF


class HopRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """One next hop of a route with several."""

    index: int
    weight: int
    flags: int
    gateway: str = ""


class RouteRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """One route as the kernel had it; `index` is of the interface that it was over."""

    family: int
    table: int
    kind: int
    proto: int
    scope: int
    tos: int
    flags: int
    index: int
    destination: str = ""
    length: int = 0
    gateway: str = ""
    source: str = ""  # preferred for what the host sends
    metric: int = 0
    metrics: dict[str, int] = {}
    preference: int = 0
    hops: list[HopRecord] = []


class PortRecord(msgspec.Struct, frozen=True):
    """The LAN port before it was bridged."""

    name: str
    is_ours: bool  # the agent made it (a VLAN's sub-interface): it goes with the bridge
    is_up: bool
    has_lro: bool
    is_ipv6_off: bool
    addresses: list[AddressRecord]
    routes: list[RouteRecord]


class BridgeRecord(msgspec.Struct, frozen=True):
    """One bridge: what it is of, and how its port was."""

    vni: int
    bridge: str
    tap: str
    parent: str  # the NIC
    vlan: int
    port: PortRecord
    is_one_nic: bool  # the port has addresses of the host, which the bridge takes
    is_moved: bool = False  # all of them are on the bridge
    is_confirmed: bool = True
    revert_at: float = 0.0  # CLOCK_BOOTTIME seconds
    run: str = ""  # which run of the agent moved them
    step: str = ""  # what was being done


class _File(msgspec.Struct, frozen=True):
    schema: int = _SCHEMA
    boot: str = ""
    bridges: list[BridgeRecord] = []
    parents: dict[str, bool] = {}  # trunk NICs by name: whether it was up
    refused: dict[str, float] = {}  # ports put back by themselves: CLOCK_BOOTTIME seconds


class Journal:
    """The file; each method that changes something has written it on return.

    `on_step` is called with the name of each step once it is on disk and before it is done.
    """

    def __init__(self, path: Path, on_step: Callable[[str], None] | None = None) -> None:
        self.run = uuid.uuid4().hex
        self.lock = asyncio.Lock()  # one at a time changes bridges
        self._path = path
        self._on_step = on_step
        self._file = _read(path)

    @property
    def bridges(self) -> dict[int, BridgeRecord]:
        """What is bridged, or was being bridged or taken apart, by VNI."""
        return {record.vni: record for record in self._file.bridges}

    @property
    def parents(self) -> dict[str, bool]:
        """The trunk NICs in use, and whether each was up before."""
        return dict(self._file.parents)

    def keep(self, record: BridgeRecord) -> None:
        """Write a bridge's record in place of the one of its vSubnet."""
        others = [other for other in self._file.bridges if other.vni != record.vni]
        self._write(bridges=[*others, record])

    def keep_parent(self, name: str, *, was_up: bool) -> None:
        """Remember a trunk NIC; the first memory counts."""
        if name not in self._file.parents:
            self._write(parents=self._file.parents | {name: was_up})

    def step(self, vni: int, what: str) -> None:
        """Say what is done next."""
        if (record := self.bridges.get(vni)) is not None and record.step != what:
            self.keep(msgspec.structs.replace(record, step=what))
        if self._on_step is not None:
            self._on_step(what)

    def forget(self, vni: int) -> None:
        """Forget a bridge: the host is as it was before it."""
        if vni in self.bridges:
            self._write(bridges=[other for other in self._file.bridges if other.vni != vni])

    def forget_parent(self, name: str) -> None:
        """Forget a trunk NIC."""
        self._write(parents={k: v for k, v in self._file.parents.items() if k != name})

    def confirm(self) -> None:
        """Let moved addresses stay: an appliance has been reached."""
        if any(not record.is_confirmed for record in self._file.bridges):
            done = [msgspec.structs.replace(r, is_confirmed=True) for r in self._file.bridges]
            self._write(bridges=done)

    def refuse(self, port: str) -> None:
        """Don't let this port be tried again for a while."""
        self._write(refused=self._file.refused | {port: boottime()})

    def is_refused(self, port: str) -> bool:
        """Whether the port was put back by itself a short while ago."""
        since = self._file.refused.get(port)
        return since is not None and boottime() < since + REFUSE_S

    def allow(self, port: str) -> None:
        """Let the port be tried again now."""
        if port in self._file.refused:
            self._write(refused={k: v for k, v in self._file.refused.items() if k != port})

    def _write(self, **changes: object) -> None:
        self._file = msgspec.structs.replace(self._file, **changes)
        make_directory(self._path.parent)
        write_whole(self._path, msgspec.json.encode(self._file))


def boottime() -> float:
    """Return CLOCK_BOOTTIME, which goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _read(path: Path) -> _File:
    boot = _BOOT_ID.read_text().strip()
    try:
        file = msgspec.json.decode(read_file(path) or b"{}", type=_File)
    except msgspec.MsgspecError as error:
        # What is bridged is still found by its names; how a port was in detail isn't.
        aside = quarantine(path)
        log.warning("the journal of bridges is damaged, put aside file=%s error=%s", aside, error)
        file = _File()
    return file if file.boot == boot else _File(boot=boot)
