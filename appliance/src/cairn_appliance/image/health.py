"""Whether this boot is well, and what follows for the system slots.

A slot that was started on trial keeps its place only by coming up well; else the machine starts
again, and GRUB, which has already forgotten the trial, starts the slot of before.
"""

from __future__ import annotations

import contextlib
import logging
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from cairn_appliance.cluster.files import PUBLIC, write_whole
from cairn_appliance.image import environment, local_api, places, state
from cairn_appliance.image.environment import Slot

log = logging.getLogger(__name__)

WITHIN_S = 600.0
ROLLED_BACK = places.STATE_DIR / "rolled-back"


def judge(within_s: float = WITHIN_S) -> None:
    """Confirm the running slot once the appliance is ready; go back where it stays away."""
    running = running_slot()
    _keep_machine_id()
    is_well = local_api.wait_until_ready(within_s) if state.is_set_up() else True
    with esp():
        known = environment.read(places.GRUBENV)
        if is_well:
            if known.fell_back(running):
                note_fall_back(running)
            elif known.is_trial(running):
                ROLLED_BACK.unlink(missing_ok=True)
            if known != known.confirmed(running):
                environment.write(places.GRUBENV, known.confirmed(running))
                log.info("slot confirmed slot=%s", running)
            return
    if known.is_trial(running):
        log.error("not ready within %.0f s, going back slot=%s", within_s, running)
        subprocess.run(["systemctl", "reboot"], check=True, timeout=60)
    else:
        log.warning("not ready within %.0f s slot=%s", within_s, running)


def running_slot() -> Slot:
    """Return the slot that runs; raise EnvironmentUnusable."""
    return environment.running_slot(places.COMMAND_LINE.read_text("ascii"))


def note_fall_back(running: Slot) -> None:
    """Leave word that an update did not do, until another one does."""
    tried = environment.other(running)
    write_whole(ROLLED_BACK, f"{tried}\n".encode(), PUBLIC)
    log.error(
        "the update did not come up well and was rolled back tried=%s slot=%s", tried, running
    )


def _keep_machine_id() -> None:
    """Keep the number that systemd drew at the first boot: the read-only system has no place."""
    with esp():
        known = environment.read(places.GRUBENV)
        if not known.machine_id:
            drawn = Path("/etc/machine-id").read_text("ascii").strip()
            environment.write(places.GRUBENV, replace(known, machine_id=drawn))


@contextlib.contextmanager
def esp() -> Iterator[None]:
    """Have the ESP mounted, for as short as can be: FAT has no journal."""
    subprocess.run(["mount", str(places.ESP)], check=True, timeout=30)
    try:
        yield
    finally:
        subprocess.run(["umount", str(places.ESP)], check=True, timeout=30)
