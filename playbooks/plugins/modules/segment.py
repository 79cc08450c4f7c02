#!/usr/bin/python
"""Makes, changes and removes a LAN segment."""

from __future__ import annotations

DOCUMENTATION = r"""
module: segment
short_description: Make, change or remove a LAN segment
description:
  - Brings a LAN segment of a vSubnet into the wanted state by the operations API. What is left out
    stays as it is. Gateways are attached to it by M(cairn.overlay.gateway).
version_added: 0.1.0
author: The authors of Cairn (@cairn)
options:
  name:
    description: The segment's name.
    type: str
    required: true
  state:
    description: V(absent) is refused while it has gateways, and needs the scope admin.
    type: str
    choices: [present, absent]
    default: present
  vsubnet:
    description: Name, ID or VNI of the vSubnet; it stays for good.
    type: str
  preference:
    description: What a forwarder does that no appliance answers, stop or go on where it is safe.
    type: str
    choices: [safety, availability]
  guards:
    description: What the gateways let across; names are those of the API.
    type: dict
    suboptions:
      dhcp:
        description: Answers of DHCP servers cross.
        type: bool
      router_advertisements:
        description: Router advertisements and redirects cross.
        type: bool
      silent_hosts:
        description: MACs that get frames though they never spoke.
        type: list
        elements: str
      mac_limit:
        description: Machines on the LAN.
        type: int
      bum_pps:
        description: BUM frames a second, per direction.
        type: int
      source_bum_pps:
        description: The same, per machine.
        type: int
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
- name: Make the segment of the office
  cairn.overlay.segment:
    name: office-lan
    vsubnet: office
    url: https://192.0.2.10:8443
    fingerprint: "{{ cairn_fingerprint }}"
    api_token_file: ~/.cairn-token
  delegate_to: localhost
"""

RETURN = r"""
segment:
  description: The segment as the API shows it; empty where it is absent, or would be made.
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
from ansible_collections.cairn.overlay.plugins.module_utils.rules import Told

_FIELDS = ("preference", "guards")
_GUARDS = {
    **{name: {"type": "bool"} for name in ("dhcp", "router_advertisements")},
    **{name: {"type": "int"} for name in ("mac_limit", "bum_pps", "source_bum_pps")},
    "silent_hosts": {"type": "list", "elements": "str"},
}


def main() -> None:
    """Read, compare, and change what differs."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "vsubnet": {"type": "str"},
            "preference": {"type": "str", "choices": ["safety", "availability"]},
            "guards": {"type": "dict", "options": _GUARDS},
            **OPTIONS,
        },
        required_if=[("state", "present", ("vsubnet",))],
        supports_check_mode=True,
    )
    carry_out(module, _present if module.params["state"] == "present" else _absent)


def _present(module: AnsibleModule, appliance: Appliance) -> dict:
    name, vsubnet = module.params["name"], module.params["vsubnet"]
    current, etag = appliance.find("segments", name)
    if current is not None and vsubnet not in map(str, current["vsubnet"].values()):
        raise Told(
            f"segment {name} is of vSubnet {current['vsubnet']['name']}, and stays so",
            "take another name, or remove the segment first",
        )
    wanted = {field: module.params[field] for field in _FIELDS}
    once = {"vsubnet": vsubnet}
    return present(module, appliance, "segment", (current, etag), wanted=wanted, once=once)


def _absent(module: AnsibleModule, appliance: Appliance) -> dict:
    return absent(module, appliance, "segment", {"preference": "", "guards": {}})


if __name__ == "__main__":
    main()
