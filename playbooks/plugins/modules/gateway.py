#!/usr/bin/python
"""Attaches a node to a LAN segment, or detaches it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gateway
short_description: Attach a node to a LAN segment as a gateway, or detach it
description:
  - Makes a node a gateway of a segment, after it has listened on the port and found nothing that
    no guard handles. A gateway that is attached already is not listened to again.
version_added: 0.1.0
author: The authors of Cairn (@cairn)
options:
  segment:
    description: Name or ID of the segment.
    type: str
    required: true
  node:
    description: Name or ID of the node. In check mode it may be empty, of a host yet to join.
    type: str
    required: true
  state:
    description: V(detached) leaves the port as it was before.
    type: str
    choices: [attached, detached]
    default: attached
  port:
    description: The interface of the node that is on the LAN.
    type: str
  vlan:
    description: The 802.1Q tag of the LAN's frames; V(0) without one.
    type: int
    default: 0
  listen_s:
    description: How long the node listens before; V(0) not at all.
    type: float
    default: 20
extends_documentation_fragment:
  - cairn.overlay.appliance
attributes:
  check_mode:
    support: full
    description: Reads and changes nothing, and listens to nothing.
  diff_mode:
    support: full
    description: Shows the port before and after.
"""

EXAMPLES = r"""
- name: Attach the gateway
  cairn.overlay.gateway:
    segment: office-lan
    node: gw-1
    port: eth1
    url: https://192.0.2.10:8443
    fingerprint: "{{ cairn_fingerprint }}"
    api_token_file: ~/.cairn-token
  delegate_to: localhost
"""

RETURN = r"""
findings:
  description: What the node heard on the LAN before it was attached.
  returned: when it was attached after listening
  type: list
  elements: dict
"""

import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.cairn.overlay.plugins.module_utils.appliance import OPTIONS, Appliance
from ansible_collections.cairn.overlay.plugins.module_utils.objects import carry_out
from ansible_collections.cairn.overlay.plugins.module_utils.rules import Told, sentence

_ANSWER_WITHIN_S = 30.0  # after the node has listened
_PAUSE_S = 1.0


def main() -> None:
    """Look who is attached, and attach or detach."""
    module = AnsibleModule(
        argument_spec={
            "segment": {"type": "str", "required": True},
            "node": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["attached", "detached"], "default": "attached"},
            "port": {"type": "str"},
            "vlan": {"type": "int", "default": 0},
            "listen_s": {"type": "float", "default": 20.0},
            **OPTIONS,
        },
        required_if=[("state", "attached", ("port",))],
        supports_check_mode=True,
    )
    carry_out(module, _done)


def _done(module: AnsibleModule, appliance: Appliance) -> dict:
    asked = module.params
    segment, etag = appliance.find("segments", asked["segment"])
    if segment is None and not module.check_mode:
        raise Told(f"there is no segment {asked['segment']}", "make it: cairn.overlay.segment")
    gateways = segment["gateways"] if segment else []
    mine = [each for each in gateways if asked["node"] in each["node"].values()]
    before = _words(mine[0]["port"], mine[0]["vlan"]) if mine else ""
    after = _words(asked["port"], asked["vlan"]) if asked["state"] == "attached" else ""
    result = {"changed": before != after, "diff": {"before": before, "after": after}}
    if before == after or module.check_mode:
        return result
    if before and after:
        raise Told(
            f"the node is a gateway of {segment['name']} on {before.strip()}, not {after.strip()}",
            "detach it first (state: detached): the LAN may be cut off meanwhile",
        )
    if before:
        node = mine[0]["node"]["id"]
        appliance.delete("segments", segment["id"], "gateways", node, etag=etag)
        return result
    found = _listen(appliance, segment["vsubnet"]["id"], asked) if asked["listen_s"] else []
    body = {name: asked[name] for name in ("node", "port", "vlan")}
    appliance.post("segments", segment["id"], "gateways", body=body)
    return {**result, "findings": found}


def _words(port: str, vlan: int) -> str:
    return f"{port} VLAN {vlan}\n" if vlan else f"{port}\n"


def _listen(appliance: Appliance, vsubnet: str, asked: dict) -> list:
    """Have the node listen; raise Told where the LAN must not be bridged as it is."""
    body = {name: asked[name] for name in ("node", "port", "vlan", "listen_s")}
    preflight = appliance.post("preflights", body={**body, "vsubnet": vsubnet})
    until = time.monotonic() + asked["listen_s"] + _ANSWER_WITHIN_S
    while not preflight["done"]:
        if time.monotonic() >= until:
            raise Told("the node says nothing of what it heard", "cairn node show; is it up?")
        time.sleep(_PAUSE_S)
        preflight, _ = appliance.get("preflights", preflight["task"])
    if preflight["error"]:
        cause, _, remedy = preflight["error"].partition("; ")
        raise Told(f"the node could not listen on {asked['port']}: {cause}", remedy)
    if not preflight["go"]:
        against = [each for each in preflight["findings"] if each["level"] == "no_go"]
        raise Told(" | ".join(sentence(each["what"], each["guard"]) for each in against))
    return list(preflight["findings"])


if __name__ == "__main__":
    main()
