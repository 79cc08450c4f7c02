"""One installation. Nothing here ends in a power-off but a disk that was read back as the image."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from cairn_appliance.domain.errors import CairnError
from cairn_appliance.image import medium, seed
from cairn_appliance.image.installer import disks, menu, writing
from cairn_appliance.image.installer.disks import Disk
from cairn_appliance.image.installer.errors import InstallError
from cairn_appliance.image.installer.screen import Screen
from cairn_appliance.image.installer.writing import Image
from cairn_appliance.image.seed import Install

LABEL = "CAIRN_INSTALL"
_MEDIUM_WITHIN_S = 60.0
_REMINDED_S = 60.0
_RESTARTED_WITHIN_S = 120.0


def main() -> None:
    """Install once, then start the machine again or switch it off; what fails is said and stays."""
    screen = Screen()
    try:
        then = install(screen)
    except CairnError as error:
        _stay(screen, error.cause, error.remedy)
        then = "restart"
    except (OSError, subprocess.SubprocessError) as error:
        _stay(screen, f"the installer failed: {error!r}", "report this; start it once more")
        then = "restart"
    _end(then)


def install(screen: Screen) -> str:
    """Write the image to the disk that the seed or somebody names; return what then."""
    own = _own_medium()
    with medium.mounted(own, "ro") as place:
        image = writing.read_about(place)
        screen.say(f"\nCairn appliance {image.version}: installation to a disk")
        wanted, media = _wanted(screen, own)
        if wanted is None:
            disk = menu.choose(screen, lambda: disks.found(media), image.octets)
        else:
            disk = disks.chosen(wanted, disks.found(media), image.octets)
        _install(screen, place, image, disk)
    if wanted is not None:
        return wanted.then
    screen.ask("Take the installation medium away, then press Enter to restart:")
    return "restart"


def _install(screen: Screen, place: Path, image: Image, disk: Disk) -> None:
    screen.say(f"\nTo {disk}")
    progress = _Progress(screen)
    writing.write(place / "cairn" / image.file, image, disk, progress)
    writing.verify(image, disk, progress)
    # Tests and people wait for this word: nothing else says that it is done.
    screen.say(f"VERIFIED {disk.path} octets={image.octets} sha256={image.sha256}")


def _own_medium() -> Path:
    """Wait for the medium that this was started from: USB takes its time."""
    end = time.monotonic() + _MEDIUM_WITHIN_S
    while True:
        device = medium.find((LABEL,))
        if device is not None:
            return device
        if time.monotonic() > end:
            raise InstallError(
                f"the installation medium (label {LABEL}) is not found",
                "connect it by a controller that Linux knows, or write it anew",
            )
        time.sleep(1)


def _wanted(screen: Screen, own: Path) -> tuple[Install | None, list[Path]]:
    """Return what a seed says of the installation, and the media that are not to be written."""
    device = medium.find()
    if device is None:
        return None, [own]
    found = seed.parse(medium.read(device))  # as a whole: the installed system would refuse it
    if found.install is None:
        screen.say("There is a seed, without [install]: it is for the installed system.")
    return found.install, [own, device]


class _Progress:
    """Says every tenth part, once."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._said = ""

    def __call__(self, doing: str, percent: int) -> None:
        text = f"{doing} {percent // 10 * 10} %"
        if text != self._said:
            self._screen.say(text)
            self._said = text


def _stay(screen: Screen, cause: str, remedy: str) -> None:
    """Say it again and again until somebody restarts the machine."""
    while True:
        screen.say(f"\nNOT INSTALLED\nerror: {cause}\n  what to do: {remedy}")
        if screen.ask("Press Enter to restart:", _REMINDED_S) is not None:
            return


def _end(then: str) -> None:
    """Leave the machine; nothing is mounted, and the disk was synced."""
    os.sync()
    Path("/proc/sys/kernel/sysrq").write_text("1")
    Path("/proc/sysrq-trigger").write_text("o" if then == "poweroff" else "b")
    time.sleep(_RESTARTED_WITHIN_S)
    sys.exit("the machine does not end")


if __name__ == "__main__":
    main()
