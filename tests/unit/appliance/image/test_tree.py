"""What is laid over Debian's system in the image."""

from __future__ import annotations

import re

from tests.lab.machine import ROOT

TREE = ROOT / "images/appliance/tree/usr/lib"


def test_what_units_keep_is_their_users_before_anything_looks() -> None:
    """systemd makes a StateDirectory as root's and gives it away: who looks meanwhile is denied."""
    made = {}
    for line in (TREE / "tmpfiles.d/cairn.conf").read_text().splitlines():
        kind, path, mode, user, *_ = line.split()
        made[path] = (kind, mode, user)
    kept = set()
    for unit in (TREE / "systemd/system").glob("*.service"):
        text = unit.read_text()
        for names in re.findall(r"(?m)^StateDirectory=(.*)$", text):
            (user,) = re.findall(r"(?m)^User=(.*)$", text)
            (mode,) = re.findall(r"(?m)^StateDirectoryMode=(.*)$", text)
            kept |= {(f"/var/lib/{name}", mode, user) for name in names.split()}
    assert kept
    for path, mode, user in kept:
        assert made.get(path) == ("d", mode, user), path
