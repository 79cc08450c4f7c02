#!/usr/bin/python
"""Joins this machine to a cluster, or lets it leave."""

from __future__ import annotations

DOCUMENTATION = r"""
module: agent_membership
short_description: Join a host to its vSubnets, or let it leave
description:
  - Joins a host that hasn't joined, with a token that is made for it on the control host, is good
    for this one host, and ends soon. A host that has joined needs neither token nor API.
  - The token is in no variable, result or log.
  - A host that has joined becomes a member of those of O(vsubnets) that it isn't in, where O(url)
    is given. It is taken out of none.
version_added: 0.1.0
author: The authors of Cairn (@cairn)
options:
  state:
    description: What the host is to be; V(left) removes its identity for good.
    type: str
    choices: [joined, left]
    default: joined
  name:
    description: The node's name; the host's own where empty.
    type: str
    default: ""
  force:
    description: Leave also where no appliance answers.
    type: bool
    default: false
  token:
    description: A join token that exists already, where the control host reaches no appliance.
    type: str
  token_life_s:
    description: After this many seconds the token that is made is no use any more.
    type: float
    default: 900
  vsubnets:
    description: Names, IDs or VNIs of the vSubnets that the host is to be in.
    type: list
    elements: str
    default: []
  site:
    description: The site of the new node.
    type: str
    default: ""
  labels:
    description: Labels of the new node.
    type: dict
    default: {}
  needs_approval:
    description: The node waits until an operator approves it.
    type: bool
    default: false
extends_documentation_fragment:
  - cairn.overlay.appliance
attributes:
  check_mode:
    support: full
    description: Looks whether the host has joined, and where; makes no token and no member.
  diff_mode:
    support: full
    description: Says whether the host joins or leaves, and which vSubnets it comes into.
"""

EXAMPLES = r"""
- name: Join
  cairn.overlay.agent_membership:
    vsubnets: [prod]
    url: https://192.0.2.10:8443
    fingerprint: "{{ cairn_fingerprint }}"
    api_token_file: ~/.cairn-token
  vars:
    ansible_python_interpreter: /usr/lib/cairn/bin/python3
"""

RETURN = r"""
said:
  description: What the agent's command printed.
  returned: when something was done
  type: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.cairn.overlay.plugins.module_utils.rules import said_by_command

_AGENT = "/usr/bin/cairn-agent"


def main() -> None:
    """Run the agent's command; the control host has looked whether it is needed."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["joined", "left"], "default": "joined"},
            "name": {"type": "str", "default": ""},
            "force": {"type": "bool", "default": False},
            "token": {"type": "str", "no_log": True},
        },
    )
    if module.params["state"] == "joined":
        name = module.params["name"]
        command = [_AGENT, "join", "-", *(["--name", name] if name else [])]
        given = f"{module.params['token']}\n"
    else:
        command = [_AGENT, "leave", "--yes", *(["--force"] if module.params["force"] else [])]
        given = ""
    status, out, error = module.run_command(command, data=given)
    if status != 0:
        told = said_by_command(error or out) or "cairn-agent failed and said nothing"
        module.fail_json(msg=told, rc=status)
    module.exit_json(changed=True, said=out.strip())


if __name__ == "__main__":
    main()
