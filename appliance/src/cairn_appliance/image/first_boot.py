"""The steps from a seed to a machine that is set up: whole, or not begun, or tried again.

    system       root, at each boot, before the network: reads a seed that was not applied yet,
                 keeps what is the machine's, hands the rest on in memory, renders what is kept
    first-boot   the appliance's user, with the network: makes or joins the cluster
    applied      root: wipes the seed, and says that none is looked at any more
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import msgspec

from cairn_appliance.domain.errors import CairnError, Unavailable
from cairn_appliance.domain.joining import decode as decode_join_string
from cairn_appliance.image import medium, places, seed, system
from cairn_appliance.image.seed import Cluster, Seed, System
from cairn_appliance.initialising import cluster_address_of, initialise
from cairn_appliance.joining import join
from cairn_appliance.settings import Settings
from cairn_appliance.settings import check as check_settings

log = logging.getLogger(__name__)

_ADDRESS_WITHIN_S = 60.0
# Nothing is sent there: the kernel only says which address of ours it would be sent from.
_ELSEWHERE = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))


def prepare_system() -> None:
    """Keep what a new seed says, then render what is kept; raise CairnError after rendering."""
    make_run_directory()
    problem: CairnError | None = None
    try:
        take_seed()
    except CairnError as error:
        problem = error
    render(kept_system())
    tell(problem)
    if problem is not None:
        raise problem


def take_seed() -> None:
    """Read a seed where there is one that was not applied; raise SeedError."""
    if places.APPLIED.exists():
        return
    device = medium.find()
    if device is None:
        log.info("no medium with the label cidata is there")
        return
    keep(seed.parse(medium.read(device)))


def keep(found: Seed) -> None:
    """Write the machine's part to disk, and the cluster's, which has secrets, to memory only."""
    places.STATE_DIR.mkdir(mode=0o755, parents=True, exist_ok=True)
    write(places.KEPT, msgspec.json.encode(found.system), 0o644)
    if found.cluster is not None and not is_set_up():
        write(places.CLUSTER, msgspec.json.encode(found.cluster), 0o600)
        shutil.chown(places.CLUSTER, places.USER, places.USER)


def kept_system() -> System:
    """Return what is kept of the machine's settings, or how it is without any."""
    try:
        return msgspec.json.decode(places.KEPT.read_bytes(), type=System)
    except FileNotFoundError:
        return System()
    except (OSError, msgspec.MsgspecError) as error:
        log.warning("what was kept can't be used, going on by DHCP reason=%s", error)
        return System()


def render(settings: System) -> None:
    """Give the kernel and systemd's services what they are to use."""
    socket.sethostname(settings.hostname)
    _render(system.NETWORK_UNIT, system.network_unit(settings.network))
    _render(system.TIME_UNIT, system.time_unit(settings.network))


async def first_boot() -> str:
    """Make or join the cluster as the seed says; return what to tell. Raises CairnError."""
    asked = msgspec.json.decode(places.CLUSTER.read_bytes(), type=Cluster)
    settings = seed.settings_for(asked, asked.addresses or own_addresses())
    own = cluster_address_of(settings.addresses, asked.cluster_address)
    settings = msgspec.structs.replace(settings, cluster_address=own)
    check_settings(settings)
    return await _set_up(asked, settings)


async def _set_up(asked: Cluster, settings: Settings) -> str:
    if asked.action == "join":
        string = decode_join_string(asked.join_string)
        joined = await join(places.DATA_DIR, settings, string)
        return f"joined cluster={joined.cluster_id} name={joined.name}"
    made = await initialise(
        places.DATA_DIR, settings, admin_password_hash=asked.admin_password_hash
    )
    # The recovery key is not told: nobody looks, and logs are kept. `cairn backup key` makes one.
    return f"made cluster={made.cluster_id} fingerprint={made.ca_pin}"


def own_addresses() -> list[str]:
    """Wait for the network and return the addresses that others see; raise Unavailable."""
    end = time.monotonic() + _ADDRESS_WITHIN_S
    while True:
        found = [address for address in map(_address, _ELSEWHERE) if address]
        if found:
            return found
        if time.monotonic() > end:
            raise Unavailable(
                "this machine has got no address",
                "connect its network to one with DHCP, or give network.addresses in the seed",
            )
        time.sleep(0.5)


def applied() -> None:
    """Wipe the seed, mark it as applied, and start the appliance."""
    device = medium.find()
    if device is not None and not medium.wipe(device):
        log.info("the medium can't be written: take it away, it holds the seed's secrets")
    write(places.APPLIED, b"", 0o644)
    places.CLUSTER.unlink(missing_ok=True)
    tell(None)
    subprocess.run(
        ["systemctl", "start", "--no-block", "cairn-appliance.service"], check=True, timeout=30
    )


def is_set_up() -> bool:
    """Say whether this machine is an appliance of a cluster already."""
    return (places.DATA_DIR / "settings.toml").exists()


def make_run_directory() -> None:
    """Make the directory by which the steps tell each other, and the screen."""
    places.RUN_DIR.mkdir(mode=0o750, exist_ok=True)
    shutil.chown(places.RUN_DIR, places.USER, places.USER)


def tell(problem: CairnError | None) -> None:
    """Leave a problem for the screen, or take the last one back."""
    if problem is None:
        places.PROBLEM.unlink(missing_ok=True)
    else:
        write(places.PROBLEM, f"{problem.cause}\n{problem.remedy}\n".encode(), 0o640)


def write(path: Path, octets: bytes, mode: int) -> None:
    """Write a file whole or not at all; never readable for more than `mode` says."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(file, "wb") as stream:
        stream.write(octets)
        stream.flush()
        os.fsync(stream.fileno())
    new.replace(path)


def _render(name: str, text: str) -> None:
    path = Path("/run") / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if text:
        write(path, text.encode(), 0o644)
    else:
        path.unlink(missing_ok=True)


def _address(place: tuple[socket.AddressFamily, str]) -> str | None:
    family, elsewhere = place
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((elsewhere, 9))
            address = str(probe.getsockname()[0])
    except OSError:
        return None
    return None if address.startswith(("fe80:", "127.", "::1")) else address
