"""Fetches the agent's packages from an appliance into a folder of the control host."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.cairn.overlay.plugins.module_utils.appliance import OPTIONS, Appliance
from ansible_collections.cairn.overlay.plugins.module_utils.rules import Told, listed

_AGENT_PORT = 8002


class ActionModule(ActionBase):
    """The action."""

    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict | None = None) -> dict:
        """Fetch what is missing; in check mode only the list, which is small."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        _, args = self.validate_argument_spec(
            argument_spec={
                "cache_dir": {"type": "path", "default": "~/.cache/cairn/packages"},
                "packages_url": {"type": "str", "default": ""},
                **{name: {**option, "required": False} for name, option in OPTIONS.items()},
            }
        )
        try:
            directory, fetched = self._fetch(args)
        except Told as told:
            raise AnsibleActionFail(str(told)) from told
        except OSError as error:
            raise AnsibleActionFail(
                f"{error.filename} can't be written on the control host: {error.strerror}; what "
                "to do: set cairn_packages_cache_dir to a folder with room"
            ) from error
        # Nothing of the host is changed, and what a cache has is nobody's wish.
        return {**result, "changed": False, "path": str(directory), "fetched": fetched}

    def _fetch(self, args: dict) -> tuple[Path, list[str]]:
        """Return where the packages are and the names of those that were fetched.

        One folder for each list: a batch that is under way keeps what it began with.
        """
        if not args["url"]:
            raise Told(
                "there are no packages to install",
                "set cairn_packages_dir to a folder with them, or cairn_url to the appliance",
            )
        place = args["packages_url"] or f"https://{_host(args['url'])}:{_AGENT_PORT}"
        with Appliance(args) as appliance:
            sums = appliance.fetch(f"{place}/packages/SHA256SUMS")
            directory = Path(args["cache_dir"]) / hashlib.sha256(sums).hexdigest()[:16]
            directory.mkdir(parents=True, exist_ok=True)
            names = [*listed(sums.decode()), "SHA256SUMS.sig", "install.sh", "SHA256SUMS"]
            if self._task.check_mode:
                names = ["VERSION", "SHA256SUMS"]
            fetched = []
            for name in names:
                digest = listed(sums.decode()).get(name, "")
                if _is_there(directory / name, digest):
                    continue
                path = name if name == "install.sh" else f"packages/{name}"
                octets = sums if name == "SHA256SUMS" else appliance.fetch(f"{place}/{path}")
                if digest and hashlib.sha256(octets).hexdigest() != digest:
                    raise Told(f"{name} is not what the appliance's list says", "run this again")
                new = directory / f".{name}.new"
                new.write_bytes(octets)
                new.replace(directory / name)
                fetched.append(name)
        return directory, fetched


def _host(url: str) -> str:
    host = urlsplit(url).hostname or ""
    return f"[{host}]" if ":" in host else host


def _is_there(path: Path, digest: str) -> bool:
    if not path.is_file():
        return False
    return not digest or hashlib.sha256(path.read_bytes()).hexdigest() == digest
