"""Files by which the steps of the first boot tell each other, and the screen, how it is."""

from __future__ import annotations

import shutil

from cairn_appliance.cluster.files import PUBLIC, write_whole
from cairn_appliance.domain.errors import CairnError
from cairn_appliance.image import places


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
        write_whole(places.PROBLEM, f"{problem.cause}\n{problem.remedy}\n".encode(), PUBLIC)
