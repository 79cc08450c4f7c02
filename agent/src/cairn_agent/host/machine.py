"""What this machine says of itself; each fact only where it exists."""

from __future__ import annotations

import socket
import time
from pathlib import Path

from cairn_agent.host.network import Network
from cairn_agent.protocol.enrolment import Facts

_DMI_UUIDS = (
    Path("/sys/class/dmi/id/product_uuid"),  # for root alone
    Path("/run/cairn-facts/product-uuid"),  # as root read it for an agent that may not (its unit)
)
_MACHINE_ID = Path("/etc/machine-id")
_CLOUD_IDS = (
    Path("/run/cloud-init/.instance-id"),  # not the one on disk, which goes along with a copy
    Path("/sys/devices/virtual/dmi/id/board_asset_tag"),  # EC2 puts "i-..." here
)
_NO_CLOUD = "iid-datasource-none"  # cloud-init's, on every machine where it finds no cloud


def machine_facts(network: Network) -> Facts:
    """Return the facts that tell one machine from another (control-plane: Identity).

    The VM generation ID is none of them: Linux draws new random numbers by it and shows it to
    nobody; a snapshot that was restored is known by the node's own generation.
    """
    return Facts(
        dmi_uuid=_dmi_uuid(),
        machine_id=_text(_MACHINE_ID),
        cloud_instance_id=_cloud_instance_id(),
        boot_id=_text(Path("/proc/sys/kernel/random/boot_id")),
        root_disk_id=_root_disk_id(),
        first_mac=network.first_mac(),
    )


def instance_id() -> str:
    """Return what names this machine best, as tokens for some machines only know it; the
    appliances have the same rule (cairn_appliance.domain.identity)."""
    return _cloud_instance_id() or _dmi_uuid() or _text(_MACHINE_ID)


def same_machine(one: Facts, two: Facts) -> bool:
    """True unless a fact that names the machine differs; the appliances have the same rule
    (cairn_appliance.domain.identity), where its reasons are."""
    hardware = _known(one, two, "cloud_instance_id", "dmi_uuid")
    known = hardware + _known(one, two, "machine_id", "root_disk_id")
    if not hardware:
        known += _known(one, two, "first_mac")
    return all(mine == theirs for mine, theirs in known)


def _known(one: Facts, two: Facts, *names: str) -> list[tuple[str, str]]:
    pairs = [(getattr(one, name), getattr(two, name)) for name in names]
    return [(mine, theirs) for mine, theirs in pairs if mine and theirs]


def host_name() -> str:
    """Return the machine's name, for people."""
    return socket.gethostname().partition(".")[0] or "node"


def boottime() -> float:
    """Return CLOCK_BOOTTIME in seconds: goes on in suspend, and nobody can set it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _dmi_uuid() -> str:
    return next(filter(None, map(_text, _DMI_UUIDS)), "").lower()


def _cloud_instance_id() -> str:
    *files, asset_tag = _CLOUD_IDS
    for path in files:
        if (found := _text(path)) and found != _NO_CLOUD:
            return found
    tag = _text(asset_tag)
    return tag if tag.startswith("i-") else ""


def _root_disk_id() -> str:
    """Return the UUID of the root file system where udev names one."""
    try:
        device = Path("/").stat().st_dev
        for link in sorted(Path("/dev/disk/by-uuid").iterdir()):
            if link.stat().st_rdev == device:
                return link.name
    except OSError:
        return ""
    return ""


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()[:128]
    except OSError:
        return ""
