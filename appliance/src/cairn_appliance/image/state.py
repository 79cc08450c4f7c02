"""Files by which the steps of the first boot tell each other, and the screen, how it is."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

from cairn_appliance.cluster.files import PUBLIC, write_whole
from cairn_appliance.domain.errors import CairnError
from cairn_appliance.image import places


def is_set_up() -> bool:
    """Say whether this machine is an appliance of a cluster already."""
    return (places.DATA_DIR / "settings.toml").exists()


def make_run_directory() -> None:
    """Make the directory by which the steps tell each other, and the screen."""
    places.RUN_DIR.mkdir(mode=0o750, exist_ok=True)
    give_away(places.RUN_DIR)


def give_away(path: Path) -> None:
    """Let it be the appliance's user's; not what it points to, which that user might choose."""
    user = pwd.getpwnam(places.USER)
    os.chown(path, user.pw_uid, user.pw_gid, follow_symlinks=False)


def tell(problem: CairnError | None) -> None:
    """Leave a problem for the screen, or take the last one back."""
    if problem is None:
        places.PROBLEM.unlink(missing_ok=True)
    else:
        write_whole(places.PROBLEM, f"{problem.cause}\n{problem.remedy}\n".encode(), PUBLIC)
