"""Three appliances run out of room: of etcd's quota, then one of them of its disk.

The quota is 16 MiB, and the disk of m3 a small file system of its own. In `make chaos`; bars:
trust.md A5.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_cluster import grown
from tests.integration.trio import Trio, longest_stall, lost
from tests.lab import until
from tests.lab.cairn import Appliance
from tests.proofs import record

pytestmark = [
    pytest.mark.root,
    pytest.mark.tun,
    pytest.mark.etcd,
    pytest.mark.slow,
    pytest.mark.timeout(400),
]

_FILL = Path(__file__).parents[1] / "lab" / "fill_store.py"
_QUOTA_MIB = 16
_DISK_MIB = 400
_MOUNTED: list[tuple[str, Path]] = []  # loop device, mount point


@pytest.fixture(scope="module")
def trio() -> Iterator[Trio]:
    """A cluster of three with little room."""
    try:
        with grown("space", {"etcd_quota_mib": _QUOTA_MIB}, _on_small_disk) as trio:
            yield trio
            trio.appliances["m3"].kill()
            _unmount()
    finally:
        _unmount()


def test_a_full_store_is_opened_again_without_anybody(trio: Trio) -> None:
    trio.wait_until_whole()
    m1 = trio.appliances["m1"]
    links = trio.vm.links()
    with trio.probed() as probes, trio.writing() as writer:
        writer.wait_for(10)
        assert "full" in fill(m1).stdout
        full = time.monotonic()
        names = alarms(m1)  # reading works
        goal = len(writer.acknowledged())
        until(
            "changes are let in again",
            lambda: any(write.done > full + 1.0 for write in writer.acknowledged()[goal:]),
            within_s=90,
        )
        opened = min(w.done for w in writer.acknowledged()[goal:] if w.done > full + 1.0)
        writer.wait_for(20)
        written = writer.acknowledged()
        refused = [write for write in writer.writes() if not write.id]
    gone = lost(trio, written)
    logs = "".join(each.log for each in trio.appliances.values())
    assert {write.status for write in refused} == {503}, "none was refused: it was never full"
    assert any("the store is full" in write.told for write in refused), refused
    assert "changes are let in again" in logs
    assert trio.vm.links() == links, "the agent's stream needs no write"
    trio.wait_until_whole()
    until("no alarm is left", lambda: "store_full" not in alarms(m1), within_s=30)
    assert record(
        "A5",
        what=f"the store full ({_QUOTA_MIB} MiB of history; alarms {', '.join(names) or 'none'}); "
        f"{len(refused)} writes refused, {gone} of {len(written)} others lost, {probes}: changes "
        "let in after",
        bar="<= 60 s; 0 lost",
        value=round(opened - full, 2),
        unit="s",
        holds=opened - full <= 60.0 and gone == 0 and probes.none_lost,
    )


def test_a_full_disk_of_one_is_told_and_harms_nobody(trio: Trio) -> None:
    trio.wait_until_whole()
    m1, m3 = trio.appliances["m1"], trio.appliances["m3"]
    filler = m3.data_dir.parent / "filler"
    with trio.probed() as probes, trio.writing() as writer:
        writer.wait_for(10)
        begun = time.monotonic()
        m3.host.run(["dd", "if=/dev/zero", f"of={filler}", "bs=1M"], check=False)
        told = told_after(m1, "disk_full", since=begun)
        for _ in range(4):  # so that its etcd needs new room, and the store isn't full
            fill(m1, 3)
            time.sleep(5)
        ended = "etcd ended" in m3.log  # etcd.log is on the same disk
        writer.wait_for(20)
        m3.host.run(["rm", str(filler)])
        freed = time.monotonic()
        trio.wait_until_whole(within_s=60)
        back = time.monotonic() - freed
        acknowledged = writer.acknowledged()
    until("no alarm is left", lambda: "disk_full" not in alarms(m1), within_s=30)
    gone, stall = lost(trio, acknowledged), longest_stall(acknowledged, since=begun)
    assert record(
        "A5-disk",
        what=f"the disk of one of three full (told after {told:.1f} s; its etcd ended: {ended}); "
        f"{gone} writes lost, {probes}, no write for {stall:.1f} s: whole again "
        "after there is space",
        bar="<= 60 s; told in 30 s; 0 lost, no write for at most 3 s",
        value=round(back, 2),
        unit="s",
        holds=back <= 60.0 and told <= 30.0 and gone == 0 and stall <= 3.0 and probes.none_lost,
    )


def alarms(asked: Appliance) -> list[str]:
    return [str(each["name"]) for each in asked.cairn("cluster", "status")["problems"]]


def told_after(asked: Appliance, name: str, *, since: float) -> float:
    """Return how long after `since` the alarm is shown by an appliance."""
    until(f"{name} is told", lambda: name in alarms(asked), within_s=60)
    return time.monotonic() - since


def fill(appliance: Appliance, *most: int) -> Any:
    command = [sys.executable, str(_FILL), str(appliance.data_dir), *map(str, most)]
    return appliance.host.run(command, within_s=60)


def _unmount() -> None:
    """Before the lab removes its directory."""
    while _MOUNTED:
        device, disk = _MOUNTED.pop()
        subprocess.run(["umount", "-l", str(disk)], check=False)
        subprocess.run(["losetup", "-d", device], check=False)


def _on_small_disk(appliance: Appliance) -> None:
    """Put the data of m3 on a file system of their own, seen by it and by this test."""
    if appliance.host.name != "m3":
        return
    image, disk = appliance.host.directory / "disk.img", appliance.host.directory / "disk"
    disk.mkdir()
    appliance.host.run(["truncate", "-s", f"{_DISK_MIB}M", str(image)])
    appliance.host.run(["mkfs.ext4", "-q", "-m", "0", str(image)])
    device = appliance.host.run(["losetup", "-f", "--show", str(image)]).stdout.strip()
    _MOUNTED.append((device, disk))
    subprocess.run(["mount", device, str(disk)], check=True)
    appliance.host.run(["mount", device, str(disk)])
    appliance.data_dir = disk / "data"
