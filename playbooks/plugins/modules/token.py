#!/usr/bin/python
"""Makes and removes enrolment tokens."""

from __future__ import annotations

DOCUMENTATION = r"""
module: token
short_description: Make or remove an enrolment token
description:
  - Makes a token that new nodes join with, for cloud-init or a golden image for example. Each run
    makes another one; the role C(cairn.overlay.agent) makes its own and needs none.
  - The answer has the token, which is told only once. Give the task C(no_log=true).
version_added: 0.1.0
author: The authors of Cairn (@cairn)
options:
  state:
    description: V(absent) removes one; nodes that joined with it stay.
    type: str
    choices: [present, absent]
    default: present
  id:
    description: The ID of the token to remove.
    type: str
  vsubnets:
    description: Names, IDs or VNIs of the vSubnets that new nodes join.
    type: list
    elements: str
    default: []
  max_uses:
    description: How many nodes may join with it.
    type: int
    default: 1
  life_s:
    description: After this many seconds nobody joins with it.
    type: float
    default: 86400
  site:
    description: The site of the new nodes.
    type: str
    default: ""
  labels:
    description: Labels of the new nodes.
    type: dict
    default: {}
  needs_approval:
    description: The nodes wait until an operator approves them.
    type: bool
    default: false
  sources:
    description:
      - Networks that the new nodes come from, as an appliance sees them; behind a NAT, the NAT's.
      - Without any, nodes may come from anywhere.
    type: list
    elements: str
    default: []
  instances:
    description:
      - Instance IDs of the machines that it is for, as C(cairn-agent doctor) shows them there.
      - Without any, each machine may use it.
      - A machine says itself which ID it has, and proves nothing by it. This keeps mistakes out,
        and no liar.
    type: list
    elements: str
    default: []
extends_documentation_fragment:
  - cairn.overlay.appliance
attributes:
  check_mode:
    support: full
    description: Makes and removes nothing; there is no token in the answer.
  diff_mode:
    support: full
    description: Says that a token is made or removed, without its secret.
"""

EXAMPLES = r"""
- name: Make a token for ten copies of an image
  cairn.overlay.token:
    vsubnets: [prod]
    max_uses: 10
    life_s: 3600
    url: https://192.0.2.10:8443
    fingerprint: "{{ cairn_fingerprint }}"
    api_token_file: ~/.cairn-token
  delegate_to: localhost
  no_log: true
  register: token

- name: Make a token for the one machine that was created before
  cairn.overlay.token:
    vsubnets: [prod]
    sources: [192.0.2.0/24]
    instances: ["{{ vm.instance_id }}"]
    url: https://192.0.2.10:8443
    fingerprint: "{{ cairn_fingerprint }}"
    api_token_file: ~/.cairn-token
  delegate_to: localhost
  no_log: true
  register: token
"""

RETURN = r"""
token:
  description: The pasteable string; a secret.
  returned: when one was made
  type: str
id:
  description: The token's ID, which is no secret.
  returned: when one was made
  type: str
expires_at:
  description: When it ends.
  returned: when one was made
  type: str
install:
  description: What to run on a machine without an agent, short of the token.
  returned: when one was made
  type: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.cairn.overlay.plugins.module_utils.appliance import OPTIONS, Appliance
from ansible_collections.cairn.overlay.plugins.module_utils.objects import carry_out

_ASKED = ("vsubnets", "max_uses", "life_s", "site", "labels", "needs_approval")
_BOUNDS = ("sources", "instances")  # an appliance of the version before doesn't know the words


def main() -> None:
    """Make one, or remove one."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "id": {"type": "str"},
            "vsubnets": {"type": "list", "elements": "str", "default": []},
            "max_uses": {"type": "int", "default": 1},
            "life_s": {"type": "float", "default": 86400.0},
            "site": {"type": "str", "default": ""},
            "labels": {"type": "dict", "default": {}},
            "needs_approval": {"type": "bool", "default": False},
            **{name: {"type": "list", "elements": "str", "default": []} for name in _BOUNDS},
            **OPTIONS,
        },
        required_if=[("state", "absent", ("id",))],
        supports_check_mode=True,
    )
    carry_out(module, _present if module.params["state"] == "present" else _absent)


def _present(module: AnsibleModule, appliance: Appliance) -> dict:
    asked = {name: module.params[name] for name in _ASKED}
    asked |= {name: module.params[name] for name in _BOUNDS if module.params[name]}
    result = {"changed": True, "diff": {"before": "", "after": f"a token: {asked}\n"}}
    if module.check_mode:
        return result
    made = appliance.post("tokens", body=asked)
    return {**result, **{name: made[name] for name in ("id", "token", "expires_at", "install")}}


def _absent(module: AnsibleModule, appliance: Appliance) -> dict:
    current, etag = appliance.find("tokens", module.params["id"])
    if current is not None and not module.check_mode:
        appliance.delete("tokens", module.params["id"], etag=etag)
    before = f"token {module.params['id']}\n" if current else ""
    return {"changed": current is not None, "diff": {"before": before, "after": ""}}


if __name__ == "__main__":
    main()
