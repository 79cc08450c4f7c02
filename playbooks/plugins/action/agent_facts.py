"""Looks at a host with nothing but a shell on it: what is installed, and what the agent says."""

from __future__ import annotations

import json
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.cairn.overlay.plugins.module_utils.rules import standing

_JOINED = "test -e /var/lib/cairn-agent/identity.json"
_NFTABLES = "PATH=$PATH:/usr/sbin:/sbin command -v nft"
_STATUS = "/usr/bin/cairn-agent status --json"


class ActionModule(ActionBase):
    """The action."""

    _VALID_ARGS = frozenset()
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict | None = None) -> dict:
        """Look; nothing is changed."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        is_joined = self._low_level_execute_command(_JOINED)["rc"] == 0
        has_nftables = self._low_level_execute_command(_NFTABLES)["rc"] == 0
        asked = self._low_level_execute_command(_STATUS)
        try:
            status = json.loads(asked["stdout"])
        except ValueError:
            status = {}
        return {
            **result,
            "changed": False,
            "is_installed": asked["rc"] not in (126, 127),
            "is_joined": is_joined,
            "has_nftables": has_nftables,
            "standing": standing(status),
            "status": status,
        }
