"""Somebody is asked, on screen and serial line: which disk, and whether that is meant."""

from __future__ import annotations

from collections.abc import Callable

from cairn_appliance.image.installer.disks import Disk, check_size
from cairn_appliance.image.installer.errors import InstallError
from cairn_appliance.image.installer.screen import Screen


def choose(screen: Screen, look: Callable[[], list[Disk]], needed: int) -> Disk:
    """Return the disk that somebody chose and, where it isn't empty, confirmed by its name."""
    while True:
        disks = look()
        _show(screen, disks)
        answer = screen.ask("Number of the disk to install on, or Enter to look again:")
        if not answer:
            continue
        disk = _numbered(disks, answer)
        if disk is None:
            screen.say(f"There is no disk {answer}.")
            continue
        try:
            check_size(disk, needed)
        except InstallError as error:
            screen.say(f"error: {error.cause}\n  what to do: {error.remedy}")
            continue
        if is_confirmed(screen, disk):
            return disk


def is_confirmed(screen: Screen, disk: Disk) -> bool:
    """Ask before anything is lost."""
    if not disk.content:
        return True
    screen.say(f"All that is on it will be lost: {disk}")
    if screen.ask(f"Type {disk.name} to go on, anything else to go back:") == disk.name:
        return True
    screen.say("Nothing was written.")
    return False


def _show(screen: Screen, disks: list[Disk]) -> None:
    screen.say()
    for number, disk in enumerate(disks, 1):
        screen.say(f"  {number}  {disk}")
    if not disks:
        screen.say("  No disk is there but the installation medium: connect one.")


def _numbered(disks: list[Disk], answer: str) -> Disk | None:
    if not answer.isascii() or not answer.isdigit():
        return None
    number = int(answer)
    return disks[number - 1] if 1 <= number <= len(disks) else None
