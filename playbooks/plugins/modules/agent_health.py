#!/usr/bin/python
"""Waits until this node is as it should be; the gate between batches of a roll-out."""

from __future__ import annotations

DOCUMENTATION = r"""
module: agent_health
short_description: Wait until a node is healthy, or say what is wrong and what to do
description:
  - Asks the agent (C(cairn-agent doctor), C(cairn-agent status)) until nothing has failed and the
    node is in the vSubnets that it should be in. Changes nothing.
  - Fails with each cause and remedy, which stops a roll-out before its next batch.
  - A peer that doesn't answer fails a host only where no other peer answers it.
version_added: 0.1.0
author: The authors of Cairn (@cairn)
options:
  within_s:
    description: How long it may take.
    type: float
    default: 60
  vsubnets:
    description: Names of the vSubnets that the node must be in.
    type: list
    elements: str
    default: []
  segments:
    description: Names of the LAN segments that the node must forward or stand by for.
    type: list
    elements: str
    default: []
  ping:
    description:
      - Peers (names, addresses in a vSubnet, or node IDs) that must answer.
      - A node that may wait for approval, and does, reaches none and isn't asked to.
    type: list
    elements: str
    default: []
  may_wait:
    description: A node that waits for an operator's approval is as it should be.
    type: bool
    default: false
extends_documentation_fragment:
  - cairn.overlay.unchanging
"""

EXAMPLES = r"""
- name: Wait until the node is healthy
  cairn.overlay.agent_health:
    vsubnets: [prod]
  vars:
    ansible_python_interpreter: /usr/lib/cairn/bin/python3
"""

RETURN = r"""
node_id:
  description: The node's ID.
  returned: success
  type: str
name:
  description: The node's name.
  returned: success
  type: str
site:
  description: The node's site.
  returned: success
  type: str
version:
  description: The agent's version.
  returned: success
  type: str
vsubnets:
  description: Name, addresses and interface of each vSubnet of the node.
  returned: success
  type: list
  elements: dict
advice:
  description: What is not as it should be and stops nothing.
  returned: success
  type: list
  elements: str
"""

import json
import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.cairn.overlay.plugins.module_utils.rules import (
    findings,
    said_by_command,
    sentence,
)

_AGENT = "/usr/bin/cairn-agent"
_PAUSE_S = 0.5


def main() -> None:
    """Ask until all is well or the time is over."""
    module = AnsibleModule(
        argument_spec={
            "within_s": {"type": "float", "default": 60.0},
            "vsubnets": {"type": "list", "elements": "str", "default": []},
            "segments": {"type": "list", "elements": "str", "default": []},
            "ping": {"type": "list", "elements": "str", "default": []},
            "may_wait": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    until = time.monotonic() + module.params["within_s"]
    while True:
        failures, warnings, status = _look(module)
        if not failures:
            break
        if time.monotonic() >= until:
            module.fail_json(
                msg="this node is not healthy: " + " | ".join(failures), failures=failures
            )
        time.sleep(_PAUSE_S)
    module.exit_json(
        changed=False,
        node_id=status.get("node_id", ""),
        name=status.get("name", ""),
        site=status.get("site", ""),
        version=status.get("agent_version", ""),
        vsubnets=[
            {name: vsubnet[name] for name in ("name", "vni", "tap", "mac", "ips")}
            for vsubnet in status.get("vsubnets", [])
        ],
        advice=warnings,
    )


def _look(module: AnsibleModule) -> tuple[list[str], list[str], dict]:
    """Return failures and warnings as sentences, and the status."""
    checks, told = _asked(module, "doctor")
    if checks is None:
        return [told], [], {}
    status, _ = _asked(module, "status")  # where this fails, the doctor has said why
    wanted = {name: module.params[name] if status else [] for name in ("vsubnets", "segments")}
    failed, warned = findings(checks, status or {}, may_wait=module.params["may_wait"], **wanted)
    failures = [sentence(*each) for each in failed]
    if not failures and (status or {}).get("state") != "pending":  # who waits has no peers
        failures = [told for peer in module.params["ping"] if (told := _unanswered(module, peer))]
    return failures, [sentence(*each) for each in warned], status or {}


def _asked(module: AnsibleModule, command: str) -> tuple[object, str]:
    """Return what the agent's command printed as JSON, or None and what it said instead."""
    try:
        _, out, error = module.run_command([_AGENT, command, "--json"], handle_exceptions=False)
        return json.loads(out), ""
    except OSError as error:
        told = sentence(f"{_AGENT}: {error.strerror}", "run the roll-out on this host")
        return None, told
    except ValueError:
        return None, said_by_command(error) or f"cairn-agent {command} said nothing"


def _unanswered(module: AnsibleModule, peer: str) -> str:
    """Return what keeps a peer from answering; empty: it answers."""
    status, out, error = module.run_command([_AGENT, "ping", "-c", "1", peer])
    return "" if status == 0 else said_by_command(error or out)


if __name__ == "__main__":
    main()
