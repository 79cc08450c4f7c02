#!/usr/bin/python
"""Makes, changes and removes a vSubnet."""

from __future__ import annotations

DOCUMENTATION = r"""
module: vsubnet
short_description: Make, change or remove a vSubnet
description:
  - Brings a vSubnet into the wanted state by the operations API. What is left out stays as it is.
  - Runs where it is told to, which is the control host as a rule (C(delegate_to), C(localhost)).
version_added: 0.1.0
author: The authors of Cairn (@cairn)
options:
  name:
    description: The vSubnet's name.
    type: str
    required: true
  state:
    description: V(absent) is refused while the vSubnet has members, and needs the scope admin.
    type: str
    choices: [present, absent]
    default: present
  prefixes:
    description: At most one prefix of IPv4 and one of IPv6; changed only while without members.
    type: list
    elements: str
  reserved:
    description: Addresses and ranges that are given to nobody, as C(10.7.0.10-10.7.0.20).
    type: list
    elements: str
  mtu:
    description: Octets of an inner IP packet.
    type: int
  policy:
    description: What the members enforce; names are those of the API.
    type: dict
    suboptions:
      bum_pps:
        description: BUM frames per second and sending member.
        type: int
      bum_burst:
        description: How many of them at once.
        type: int
      ageing_s:
        description: Life of a learned address.
        type: int
      offline_trust_s:
        description: How long members go on without an appliance; V(0) without a limit.
        type: int
      shared_ips:
        description: Virtual addresses, which any member may take.
        type: list
        elements: str
extends_documentation_fragment:
  - cairn.overlay.appliance
attributes:
  check_mode:
    support: full
    description: Reads and changes nothing.
  diff_mode:
    support: full
    description: Shows what changes.
"""

EXAMPLES = r"""
- name: Make the vSubnet of production
  cairn.overlay.vsubnet:
    name: prod
    prefixes: [10.7.0.0/24, "fd00:7::/64"]
    policy:
      bum_pps: 500
    url: https://192.0.2.10:8443
    fingerprint: "{{ cairn_fingerprint }}"
    api_token_file: ~/.cairn-token
  delegate_to: localhost
"""

RETURN = r"""
vsubnet:
  description: The vSubnet as the API shows it; empty where it is absent, or would be made.
  returned: success
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.cairn.overlay.plugins.module_utils.appliance import OPTIONS, Appliance
from ansible_collections.cairn.overlay.plugins.module_utils.objects import (
    absent,
    carry_out,
    present,
)

_FIELDS = ("prefixes", "reserved", "mtu", "policy")
_POLICY = {
    **{name: {"type": "int"} for name in ("bum_pps", "bum_burst", "ageing_s", "offline_trust_s")},
    "shared_ips": {"type": "list", "elements": "str"},
}


def main() -> None:
    """Read, compare, and change what differs."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "prefixes": {"type": "list", "elements": "str"},
            "reserved": {"type": "list", "elements": "str"},
            "mtu": {"type": "int"},
            "policy": {"type": "dict", "options": _POLICY},
            **OPTIONS,
        },
        supports_check_mode=True,
    )
    carry_out(module, _present if module.params["state"] == "present" else _absent)


def _present(module: AnsibleModule, appliance: Appliance) -> dict:
    found = appliance.find("vsubnets", module.params["name"])
    wanted = {field: module.params[field] for field in _FIELDS}
    return present(module, appliance, "vsubnet", found, wanted=wanted)


def _absent(module: AnsibleModule, appliance: Appliance) -> dict:
    return absent(module, appliance, "vsubnet", {"prefixes": []})


if __name__ == "__main__":
    main()
