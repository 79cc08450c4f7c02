"""Gives an appliance the packages that it serves to new nodes, with nothing there but a shell."""

from __future__ import annotations

import hashlib
import shlex
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.cairn.overlay.plugins.module_utils.rules import Told, listed

# The folder is complete at every moment: it is filled beside its place, checked, and swapped in.
_SWAP = """
set -e
umask 022
cd {place}
sha256sum --quiet -c SHA256SUMS
rm -rf {served}.new {served}.old
mkdir -p {served}.new
cp -- * {served}.new/
chown -R 0:0 {served}.new
chmod -R u=rwX,go=rX {served}.new
[ ! -e {served} ] || mv {served} {served}.old
mv {served}.new {served}
rm -rf {served}.old
"""


class ActionModule(ActionBase):
    """The action."""

    TRANSFERS_FILES = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict | None = None) -> dict:
        """Compare the lists, and copy where they differ."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        _, args = self.validate_argument_spec(
            argument_spec={
                "packages_dir": {"type": "path", "required": True},
                "served_dir": {"type": "path", "default": "/usr/share/cairn/packages"},
            }
        )
        try:
            done = self._bring(Path(args["packages_dir"]), str(args["served_dir"]).rstrip("/"))
        except Told as told:
            raise AnsibleActionFail(str(told)) from told
        return {**result, **done}

    def _bring(self, directory: Path, served: str) -> dict:
        try:
            sums = (directory / "SHA256SUMS").read_bytes()
            version = (directory / "VERSION").read_text()
        except OSError as error:
            raise Told(
                f"{error.filename} can't be read on the control host: {error.strerror}",
                "cairn_packages_dir names what `make packages` left in dist",
            ) from error
        found = self._shell(f"cat {shlex.quote(served)}/VERSION 2>/dev/null || echo absent")
        digest = self._shell(f"sha256sum {shlex.quote(served)}/SHA256SUMS 2>/dev/null || :")
        is_same = digest.split()[:1] == [hashlib.sha256(sums).hexdigest()]
        if not is_same and not self._task.check_mode:
            self._copy(directory, served, sums.decode())
        return {
            "changed": not is_same,
            "version": version.strip(),
            "diff": {"before": found, "after": version},
        }

    def _copy(self, directory: Path, served: str, sums: str) -> None:
        place = self._make_tmp_path()
        try:
            for name in (*listed(sums), "SHA256SUMS", "SHA256SUMS.sig", "install.sh"):
                path = self._connection._shell.join_path(place, name)
                self._transfer_file(str(directory / name), path)
            self._shell(_SWAP.format(place=shlex.quote(place), served=shlex.quote(served)))
        finally:
            self._remove_tmp_path(place, force=True)

    def _shell(self, script: str) -> str:
        done = self._low_level_execute_command(f"/bin/sh -c {shlex.quote(script)}")
        if done["rc"] != 0:
            said = " ".join((done["stderr"] or done["stdout"]).split())
            raise Told(f"the packages could not be put in place: {said}", "is there room?")
        return str(done["stdout"])
