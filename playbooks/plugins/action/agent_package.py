"""Puts the agent's package on a host, or takes it away, with nothing on the host but a shell.

It runs on the control host: the host may have no Python before the package brings one.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.cairn.overlay.plugins.module_utils.rules import (
    Told,
    package_of,
)

# What is installed, as install.sh sees it: kind of package, then the version, if any.
_PROBE = """
if command -v dpkg >/dev/null 2>&1 && [ -e /var/lib/dpkg/status ]; then
    kind=deb
    version=$(dpkg-query -W -f '${db:Status-Status} ${Version}' cairn-agent 2>/dev/null |
        sed -n 's/^installed //p')
elif command -v rpm >/dev/null 2>&1 && [ -d "$(rpm --eval '%{_dbpath}' 2>/dev/null)" ]; then
    kind=rpm
    version=$(rpm -q --qf '%{VERSION}-%{RELEASE}' cairn-agent 2>/dev/null) || version=
else
    kind=tar.gz
fi
about=/usr/share/doc/cairn-agent/bundled.txt
if [ -z "$version" ] && [ -e $about ]; then
    case $kind in
    deb) [ -e /var/lib/dpkg/info/cairn-agent.list ] || tarball=yes ;;
    *) tarball=yes ;;
    esac
    if [ -n "$tarball" ]; then
        kind=tar.gz
        version=$(sed -n '1s/^cairn-agent \\([^ ]*\\) .*/\\1/p' $about)
    fi
fi
echo "$(uname -s)/$(uname -m) $kind $version"
"""
# Everything that the agent could leave behind, one a line.
_TRACES = r"""
for path in /usr/bin/cairn-agent /usr/lib/cairn /usr/lib/systemd/system/cairn-agent.service \
    /usr/lib/systemd/system/cairn-dataplane.service /usr/share/doc/cairn-agent \
    /var/lib/cairn-agent /run/cairn /run/cairn-dataplane /run/cairn-facts; do
    [ ! -e "$path" ] || echo "$path"
done
sed -n 's/^\(cairn-agent\|cairn-dataplane\):.*/user \1/p' /etc/passwd
sed -n 's/^\(cairn\):.*/group \1/p' /etc/group
for path in /sys/class/net/cairn*; do [ ! -e "$path" ] || echo "interface ${path##*/}"; done
! command -v nft >/dev/null 2>&1 || nft list tables 2>/dev/null |
    sed -n 's/^table \([a-z]* cairn.*\)/nftables table \1/p'
"""
_REMOVE = {
    "deb": "dpkg --purge cairn-agent",
    "rpm": "rpm -e cairn-agent",
    "tar.gz": "/usr/lib/cairn/libexec/uninstall",
}


class ActionModule(ActionBase):
    """The action."""

    TRANSFERS_FILES = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict | None = None) -> dict:
        """Do it, or say what would be done."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        _, args = self.validate_argument_spec(
            argument_spec={
                "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
                "packages_dir": {"type": "path"},
            },
            required_if=[("state", "present", ("packages_dir",))],
        )
        try:
            kind, before = self._installed()
            if args["state"] == "present":
                done = self._present(Path(args["packages_dir"]), kind, before)
            else:
                done = self._absent(kind, before)
        except Told as told:
            raise AnsibleActionFail(str(told)) from told
        return {**result, "kind": kind, "before": before, **done}

    def _installed(self) -> tuple[str, str]:
        """Return the kind of package that the host takes, and the version that it has."""
        words = self._shell(_PROBE, "what is installed can't be seen").split()
        if not words or words[0] != "Linux/x86_64":
            raise Told(
                f"there is no package for {words[0] if words else 'this system'}",
                "use Linux on x86-64",
            )
        return words[1], words[2] if len(words) > 2 else ""

    def _present(self, directory: Path, kind: str, before: str) -> dict:
        try:
            wanted = (directory / "VERSION").read_text().strip()
            package = package_of(kind, (directory / "SHA256SUMS").read_text())
        except OSError as error:
            raise Told(
                f"{error.filename} can't be read on the control host: {error.strerror}",
                "cairn_packages_dir names what `make packages` left in dist",
            ) from error
        if before != wanted and not self._task.check_mode:
            self._install(directory, package)
            _, now = self._installed()
            if now != wanted:
                raise Told(f"after the installation there is {now or 'none'}, not {wanted}")
        return {
            "changed": before != wanted,
            "version": wanted,
            "diff": {"before": f"{before or 'absent'}\n", "after": f"{wanted}\n"},
        }

    def _install(self, directory: Path, package: str) -> None:
        """Copy what the installer needs, for root alone, and run it."""
        place = self._make_tmp_path()
        try:
            names = ("install.sh", "VERSION", "SHA256SUMS", "SHA256SUMS.sig", package)
            paths = [self._connection._shell.join_path(place, name) for name in names]
            for name, path in zip(names, paths, strict=True):
                self._transfer_file(str(directory / name), path)
            self._fixup_perms2([place, *paths])
            command = f"sh {shlex.quote(paths[0])} --from {shlex.quote(place.rstrip('/'))}"
            self._shell(command, "the package could not be installed")
        finally:
            self._remove_tmp_path(place, force=True)

    def _absent(self, kind: str, before: str) -> dict:
        traces = self._traces()
        if traces and not self._task.check_mode:
            if before or kind == "deb":  # dpkg --remove keeps what only a purge takes
                self._shell(_REMOVE[kind], "the package could not be removed")
            left = self._traces()
            if left:
                raise Told(
                    f"after the removal there is still: {', '.join(left)}",
                    "see journalctl -u cairn-agent; remove these by hand, then run this again",
                )
        return {
            "changed": bool(traces),
            "diff": {"before": "".join(f"{each}\n" for each in traces), "after": ""},
        }

    def _traces(self) -> list[str]:
        return self._shell(_TRACES, "what is there can't be seen").splitlines()

    def _shell(self, script: str, failure: str) -> str:
        """Return what a script of POSIX sh printed; raise Told with what it said."""
        done = self._low_level_execute_command(f"/bin/sh -c {shlex.quote(script)}")
        if done["rc"] != 0:
            said = (done["stderr"].strip() or done["stdout"].strip()).splitlines()
            raise Told(
                f"{failure}: {' '.join(line.strip() for line in said[-6:]) or done['rc']}",
                "" if "what to do:" in " ".join(said) else "log in to the host and look",
            )
        return str(done["stdout"])
