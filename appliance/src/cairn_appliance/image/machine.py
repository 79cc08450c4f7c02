"""The machine itself, at each boot: a new seed is read, and what is kept is rendered.

machine      root, before the network: keeps what is the machine's, hands on in memory what the
             seed says of the cluster
first_boot   the appliance's user, with the network: makes or joins the cluster
applied      root: wipes the seed, and says that none is looked at any more
"""

from __future__ import annotations

import logging
import socket
import subprocess
from pathlib import Path

import msgspec

from cairn_appliance.cluster.files import PUBLIC, write_whole
from cairn_appliance.domain.errors import CairnError
from cairn_appliance.image import medium, ovf, places, seed, state, system
from cairn_appliance.image.seed import Network, Seed, System

log = logging.getLogger(__name__)


def prepare_system() -> None:
    """Keep what a new seed says, then render what is kept; raise CairnError after rendering."""
    state.make_run_directory()
    problem: CairnError | None = None
    try:
        take_seed()
    except CairnError as error:
        problem = error
    render(kept_system())
    state.tell(problem)
    if problem is not None:
        raise problem


def take_seed() -> None:
    """Read a seed where there is one that was not applied; raise SeedError."""
    if places.APPLIED.exists():
        return
    if state.is_set_up():  # power failed after the cluster was made and before the seed was wiped
        finish()
        return
    found = _found()
    if found is None:
        log.info("no medium with the label cidata is there, and no OVF property is filled in")
        return
    keep(found)


def _found() -> Seed | None:
    """Return what a medium says, else what a hypervisor says."""
    device = medium.find()
    return ovf.find() if device is None else seed.parse(medium.read(device))


def keep(found: Seed) -> None:
    """Write the machine's part to disk, and the cluster's, which has secrets, to memory only."""
    places.STATE_DIR.mkdir(mode=0o755, parents=True, exist_ok=True)
    write_whole(places.KEPT, msgspec.json.encode(found.system), PUBLIC)
    if found.cluster is not None and not state.is_set_up():
        write_whole(places.CLUSTER, msgspec.json.encode(found.cluster))
        state.give_away(places.CLUSTER)


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
    render_time(settings.network)


def render_time(network: Network) -> None:
    """Say whom to ask for the time."""
    _render(system.TIME_UNIT, system.time_unit(network))


def applied() -> None:
    """Be done with the seed, and start the appliance."""
    finish()
    subprocess.run(
        ["systemctl", "start", "--no-block", "cairn-appliance.service"], check=True, timeout=30
    )


def finish() -> None:
    """Wipe the seed and mark it as applied; where it can't be wiped the journal says so."""
    device = medium.find()
    if device is not None:
        try:
            medium.wipe(device)
        except CairnError as error:
            log.warning("%s: %s", error.cause, error.remedy)
    write_whole(places.APPLIED, b"", PUBLIC)
    places.CLUSTER.unlink(missing_ok=True)
    state.tell(None)


def _render(name: str, text: str) -> None:
    path = Path("/run") / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if text:
        write_whole(path, text.encode(), PUBLIC)
    else:
        path.unlink(missing_ok=True)
