"""GRUB's environment block: which system slot is started, and which one only once.

GRUB itself clears `trial` before it starts that slot (images/appliance/grub.cfg), so a slot that
doesn't come up well is not started a second time. 1,024 octets, always written in place: on the
ESP, without a journal, a file that is shortened first could be found empty after a power failure.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

from cairn_appliance.domain.errors import CairnError

Slot = Literal["a", "b"]
SIZE = 1024  # octets
_FIRST_LINE = "# GRUB Environment Block\n"


class EnvironmentUnusable(CairnError):
    """What GRUB keeps can't be read or written."""

    code = "grub_environment"
    remedy = "choose the slot in the boot menu; write the image anew if it happens again"


@dataclass(frozen=True, slots=True)
class Environment:
    """What GRUB and the system tell each other."""

    default_slot: Slot = "a"  # the one that was well
    trial: Slot | None = None  # to be started once
    tried: Slot | None = None  # was started once; until that boot says how it is
    machine_id: str = ""  # the system's, which has no place of its own for it

    def confirmed(self, running: Slot) -> Environment:
        """Return what is to be kept once the running slot is well.

        That another one is to be tried stays: an update asked for it since this start.
        """
        trial = None if self.trial == running else self.trial
        return replace(self, default_slot=running, trial=trial, tried=None)

    def begun(self, running: Slot) -> Environment:
        """Return what GRUB would have left at the start of a trial, where it could write."""
        return replace(self, trial=None, tried=running)

    def is_trial(self, running: Slot) -> bool:
        """Say whether the running slot has yet to show that it is well."""
        return self.tried == running != self.default_slot

    def fell_back(self, running: Slot) -> bool:
        """Say whether another slot was tried before this boot and didn't do."""
        return self.tried is not None and self.tried != running


def other(slot: Slot) -> Slot:
    """Return the slot beside it."""
    return "b" if slot == "a" else "a"


def decode(octets: bytes) -> Environment:
    """Return what a block says; raise EnvironmentUnusable."""
    text = octets.decode("ascii", "replace")
    if len(octets) != SIZE or not text.startswith(_FIRST_LINE):
        raise EnvironmentUnusable("GRUB's environment block is damaged")
    values = dict(
        line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#")
    )
    return Environment(
        default_slot=_slot(values.get("default_slot", "")) or "a",
        trial=_slot(values.get("trial", "")),
        tried=_slot(values.get("tried", "")),
        machine_id=values.get("machine_id", ""),
    )


def encode(environment: Environment) -> bytes:
    """Return the block."""
    lines = [
        f"default_slot={environment.default_slot}",
        f"trial={environment.trial or ''}",
        f"tried={environment.tried or ''}",
        f"machine_id={environment.machine_id}",
    ]
    text = _FIRST_LINE + "".join(f"{line}\n" for line in lines)
    return text.encode("ascii").ljust(SIZE, b"#")


def read(path: Path) -> Environment:
    """Read a block; raise EnvironmentUnusable."""
    try:
        return decode(path.read_bytes())
    except OSError as error:
        raise EnvironmentUnusable(f"{path} can't be read: {error.strerror}") from error


def write(path: Path, environment: Environment) -> None:
    """Write a block over the one that is there; raise EnvironmentUnusable."""
    try:
        file = os.open(path, os.O_WRONLY)
        try:
            os.pwrite(file, encode(environment), 0)
            os.fsync(file)
        finally:
            os.close(file)
    except OSError as error:
        raise EnvironmentUnusable(f"{path} can't be written: {error.strerror}") from error


def running_slot(command_line: str) -> Slot:
    """Return the slot that the kernel was told it is of."""
    for word in command_line.split():
        if word.startswith("cairn.slot="):
            slot = _slot(word.removeprefix("cairn.slot="))
            if slot is not None:
                return slot
    raise EnvironmentUnusable(
        "the kernel was not told which slot it is of", "start the image by its own boot menu"
    )


def is_told_trial(command_line: str) -> bool:
    """Say whether GRUB told the kernel that it is one on trial."""
    return "cairn.trial" in command_line.split()


def _slot(text: str) -> Slot | None:
    return cast(Slot, text) if text in ("a", "b") else None
