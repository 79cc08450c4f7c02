"""Joins a host, with a token that is made for it now and is no use to anybody else.

A host that has joined is made a member of the vSubnets that it isn't in yet, where an appliance
is named; no vSubnet is left that nobody named.

It runs on the control host: neither API token nor inventory come to the host, and the join token
is in no variable, no result and no log. On the host the module of the same name does the rest.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.cairn.overlay.plugins.module_utils.appliance import OPTIONS, Appliance
from ansible_collections.cairn.overlay.plugins.module_utils.rules import Told

_MODULE = "cairn.overlay.agent_membership"
_IDENTITY = "/var/lib/cairn-agent/identity.json"
_UNTOLD = (3, 4)  # of cairn-agent leave: no appliance answers, or it refuses
_AGENT = "/usr/bin/cairn-agent"
_STATUS = f"{_AGENT} status --json"


class ActionModule(ActionBase):
    """The action."""

    TRANSFERS_FILES = True
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict | None = None) -> dict:
        """Do it, or say what would be done."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        _, args = self.validate_argument_spec(
            argument_spec={
                "state": {"type": "str", "choices": ["joined", "left"], "default": "joined"},
                "name": {"type": "str", "default": ""},
                "force": {"type": "bool", "default": False},
                "token": {"type": "str", "no_log": True},
                "token_life_s": {"type": "float", "default": 900.0, "no_log": False},
                "vsubnets": {"type": "list", "elements": "str", "default": []},
                "site": {"type": "str", "default": ""},
                "labels": {"type": "dict", "default": {}},
                "needs_approval": {"type": "bool", "default": False},
                **{name: {**option, "required": False} for name, option in OPTIONS.items()},
            },
        )
        is_joined = self._is_joined()
        wanted = args["state"] == "joined"
        words = {True: "joined\n", False: "not joined\n"}
        result.update(changed=is_joined != wanted)
        result.update(diff={"before": words[is_joined], "after": words[wanted]})
        try:
            if is_joined and wanted:
                return {**result, **self._attach(args)}
            if is_joined == wanted or self._task.check_mode:
                return result
            done = self._join(args, task_vars) if wanted else self._leave(args, task_vars)
        except Told as told:
            raise AnsibleActionFail(str(told)) from told
        return {**result, "changed": not done.get("failed"), **done}

    def _is_joined(self) -> bool:
        """Look without Python: in check mode there may be no agent yet."""
        done = self._low_level_execute_command(f"test -e {_IDENTITY}")
        if done["rc"] not in (0, 1):
            raise AnsibleActionFail(f"the host can't be asked: {done['stderr'].strip()}")
        return bool(done["rc"] == 0)

    def _attach(self, args: dict) -> dict:
        """Make the node a member where it is missing; without an appliance the gate tells it."""
        asked = self._low_level_execute_command(_STATUS)
        try:
            status = json.loads(asked["stdout"])
        except ValueError:
            return {}  # the agent doesn't run, which the gate tells, too
        names = {each["name"] for each in status["vsubnets"]}
        here = names | {str(each["vni"]) for each in status["vsubnets"]}
        away = sorted(set(args["vsubnets"]) - here)
        if not away or not args["url"] or status["state"] != "approved":
            return {}
        with Appliance(args) as appliance:
            found = {appliance.get("vsubnets", vsubnet)[0]["name"] for vsubnet in away}
            missing = sorted(found - names)  # named by its ID it may be one that it is in
            if not self._task.check_mode:
                for vsubnet in missing:
                    body = {"node": status["node_id"]}
                    appliance.post("vsubnets", vsubnet, "members", body=body)
        after = "joined\n" + "".join(f"in vSubnet {vsubnet}\n" for vsubnet in missing)
        return {"changed": bool(missing), "diff": {"before": "joined\n", "after": after}}

    def _join(self, args: dict, task_vars: dict | None) -> dict:
        if args["token"]:
            return self._module({"token": args["token"]}, args, task_vars)
        with Appliance(args) as appliance:
            made = appliance.post(
                "tokens",
                body={
                    "vsubnets": args["vsubnets"],
                    "max_uses": 1,
                    "life_s": args["token_life_s"],
                    "site": args["site"],
                    "labels": args["labels"],
                    "needs_approval": args["needs_approval"],
                },
            )
            done = self._module({"token": made["token"]}, args, task_vars)
            if done.get("failed"):
                with suppress(Told):  # it ends by itself soon
                    appliance.delete("tokens", made["id"])
            return done

    def _leave(self, args: dict, task_vars: dict | None) -> dict:
        """Tell an appliance, and forget; with force also where there is nobody left to do it."""
        if self._low_level_execute_command(f"test -x {_AGENT}")["rc"] != 0:
            if args["force"]:
                return {}
            raise Told(
                "this host has an identity, and no agent that could leave with it",
                "run cairn.overlay.rollout on it first; or have cairn_force=true remove what is "
                "left, and delete the node at an appliance (cairn node delete)",
            )
        done = self._module({"force": args["force"]}, args, task_vars)
        if done.get("rc") in _UNTOLD:
            done["msg"] += (
                "; or have cairn_force=true remove the agent all the same, and delete the node at "
                "an appliance (cairn node delete)"
            )
        return done

    def _module(self, more: dict, args: dict, task_vars: dict | None) -> dict:
        options = {"state": args["state"], "name": args["name"], **more}
        return dict(
            self._execute_module(module_name=_MODULE, module_args=options, task_vars=task_vars)
        )
