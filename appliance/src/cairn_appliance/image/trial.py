"""A change of the network that stays only if somebody says so in time.

What is tried is in memory only: a restart, of the machine or of anything here, leads back to
what is kept. A timer of systemd's takes it back, whatever becomes of the menu.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec

from cairn_appliance.cluster.files import PUBLIC, write_whole
from cairn_appliance.domain.errors import CairnError, Clash
from cairn_appliance.image import interfaces, machine, places, readdressing, seed
from cairn_appliance.image.seed import Network, System

KEEP_WITHIN_S = 60.0  # as cairn-network-revert.timer has it
_TIMER = "cairn-network-revert.timer"
_WITHIN_S = 60.0


class TooLate(CairnError):
    """There is no change any more that could be kept."""

    code = "too_late"
    remedy = "make the change again"


class _Trial(msgspec.Struct, frozen=True):
    network: Network
    before: list[str]  # the addresses that the machine had


def begin(network: Network) -> None:
    """Use it from now on for KEEP_WITHIN_S; raise CairnError, and then nothing has changed."""
    seed.check_network(network)
    kept = machine.kept_system()
    with _locked():
        if places.TRIAL.exists():
            raise Clash("another change of the network is being tried", "wait until it has ended")
        tried = _Trial(network, interfaces.hosts())
        _run("systemctl", "restart", _TIMER)  # first: whatever fails from here on is taken back
        write_whole(places.TRIAL, msgspec.json.encode(tried))
        use(msgspec.structs.replace(kept, network=network))
        _run("systemctl", "restart", _TIMER)  # the time counts from when it is in use


def keep() -> None:
    """Let what is tried stay; raise TooLate."""
    with _locked():
        try:
            tried = msgspec.json.decode(places.TRIAL.read_bytes(), type=_Trial)
        except FileNotFoundError as error:
            raise TooLate("the change has been taken back already") from error
        keep_system(msgspec.structs.replace(machine.kept_system(), network=tried.network))
        places.TRIAL.unlink()
        _run("systemctl", "stop", _TIMER)
        if readdressing.follow(tried.before, interfaces.hosts()):
            _run("systemctl", "--no-block", "try-restart", "cairn-appliance.service")


def revert() -> None:
    """Go back to what is kept, if a change is being tried."""
    with _locked():
        if not places.TRIAL.exists():
            return
        use(machine.kept_system())
        places.TRIAL.unlink()
        _run("systemctl", "stop", _TIMER)


def use(settings: System) -> None:
    """Render it and let systemd's services take it up."""
    machine.render(settings)
    _run("networkctl", "reload")
    _run("systemctl", "try-restart", "systemd-timesyncd.service")


def keep_system(settings: System) -> None:
    """Write the machine's settings to disk."""
    places.STATE_DIR.mkdir(mode=0o755, parents=True, exist_ok=True)
    write_whole(places.KEPT, msgspec.json.encode(settings), PUBLIC)


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    """Let the one who keeps and the timer that takes back not meet."""
    place: Path = places.TRIAL.with_suffix(".lock")
    file = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


def _run(*command: str) -> None:
    try:
        subprocess.run(
            command, check=True, timeout=_WITHIN_S, stdin=subprocess.DEVNULL, capture_output=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise CairnError(f"`{' '.join(command)}` failed: {error}", "try it again") from error
