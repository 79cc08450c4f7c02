"""What this machine must allow for the agent to work, told before anything is begun."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from cairn_agent.errors import Environment

TUN_DEVICE: Final = Path("/dev/net/tun")
_CAP_NET_ADMIN: Final = 12  # linux/capability.h


def check_can_configure() -> None:
    """Raise Environment where the agent couldn't make a TAP."""
    if not can_administer_network():
        raise Environment(
            "the agent may not configure this machine's network",
            "run it as root (or with the capability CAP_NET_ADMIN)",
        )
    if (missing := tun_problem()) is not None:
        raise Environment(missing, "load the module (modprobe tun), or give this container it")


def can_administer_network() -> bool:
    """Return whether this process has CAP_NET_ADMIN."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return os.geteuid() == 0
    line = next((line for line in status.splitlines() if line.startswith("CapEff:")), "CapEff: 0")
    return bool(int(line.split()[1], 16) >> _CAP_NET_ADMIN & 1)


def tun_problem() -> str | None:
    """Return what is wrong with /dev/net/tun; None where it can be opened."""
    try:
        os.close(os.open(TUN_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return f"{TUN_DEVICE} is missing"
    except OSError as error:
        return f"{TUN_DEVICE} can't be opened: {error.strerror}"
    return None
