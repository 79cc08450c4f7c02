"""Whether this boot is well, and what follows for the system slots.

A slot that was started on trial keeps its place only by coming up well; else the machine starts
again, and GRUB, which has already forgotten the trial, starts the slot of before.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import platform
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from cairn_appliance.domain.update import Standing
from cairn_appliance.image import environment, local_api, places, standing, state
from cairn_appliance.image.environment import Environment, Slot

log = logging.getLogger(__name__)

# A machine that is slow, under load, with a large store: what comes later doesn't come.
WITHIN_S = 300.0
_UNIT = "cairn-appliance.service"
_WORDS_MOST = 300
_ESP_LOCK = Path("/run/cairn-esp.lock")


def judge(within_s: float = WITHIN_S) -> None:
    """Confirm the running slot once the appliance is ready; go back where it stays away."""
    running = running_slot()
    _keep_machine_id()
    known = _known(running)
    is_trial = known.is_trial(running)
    told = standing.change(
        lambda it: it.booted(
            running,
            platform.freedesktop_os_release().get("IMAGE_VERSION", ""),
            time.time(),
            is_trial=is_trial,
            fell_back=known.fell_back(running),
        )
    )
    log.info("started slot=%s version=%s step=%s", running, told.version, told.step)
    if local_api.wait_until_ready(within_s) if state.is_set_up() else True:
        _confirm(running)
    elif is_trial:
        _give_up(running, within_s)
    else:
        log.warning("not ready within %.0f s slot=%s", within_s, running)


def running_slot() -> Slot:
    """Return the slot that runs; raise EnvironmentUnusable."""
    return environment.running_slot(places.COMMAND_LINE.read_text("ascii"))


def _known(running: Slot) -> Environment:
    """Return what is known of this start; where GRUB could not write that down, do it for it."""
    with esp():
        known = environment.read(places.GRUBENV)
        is_told_trial = environment.is_told_trial(places.COMMAND_LINE.read_text("ascii"))
        if is_told_trial and known.trial == running:
            known = known.begun(running)
            environment.write(places.GRUBENV, known)
    return known


def _confirm(running: Slot) -> None:
    with esp():
        known = environment.read(places.GRUBENV)
        if known != known.confirmed(running):
            environment.write(places.GRUBENV, known.confirmed(running))
            log.info("slot confirmed slot=%s", running)
    standing.change(lambda it: it.well(time.time()))


def _give_up(running: Slot, within_s: float) -> None:
    """Start the machine again: GRUB has forgotten the trial, and takes the slot of before."""
    log.error("not ready within %.0f s, going back slot=%s", within_s, running)
    words = _last_words()

    def doomed(it: Standing) -> Standing:
        cause = f"{it.version} was not ready within {within_s:.0f} s of its start"
        return it.doomed(f"{cause}; its appliance said last: {words}" if words else cause, "")

    standing.change(doomed)
    subprocess.run(["systemctl", "reboot"], check=True, timeout=60)


def _last_words() -> str:
    """Return what the appliance wrote last: nobody can log in here to look."""
    command = ["journalctl", "--boot", "--lines=1", "--output=cat", f"_SYSTEMD_UNIT={_UNIT}"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("what the appliance said can't be read reason=%s", error)
        return ""
    text = done.stdout.decode("utf-8", "replace").strip()[:_WORDS_MOST]
    return "".join(each if each.isprintable() else " " for each in text)


def _keep_machine_id() -> None:
    """Keep the number that systemd drew at the first boot: the read-only system has no place."""
    with esp():
        known = environment.read(places.GRUBENV)
        if not known.machine_id:
            drawn = Path("/etc/machine-id").read_text("ascii").strip()
            environment.write(places.GRUBENV, replace(known, machine_id=drawn))


@contextlib.contextmanager
def esp() -> Iterator[None]:
    """Have the ESP mounted, by one at a time and for as short as can be: FAT has no journal."""
    lock = os.open(_ESP_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)  # nobody holds it for longer than a read and a write
        subprocess.run(["mount", str(places.ESP)], check=True, timeout=30)
        try:
            yield
        finally:
            subprocess.run(["umount", str(places.ESP)], check=True, timeout=30)
    finally:
        os.close(lock)
