#!/usr/bin/python
"""Waits until an appliance is ready; the gate between appliances."""

from __future__ import annotations

DOCUMENTATION = r"""
module: appliance_health
short_description: Wait until an appliance is ready, or say what is wrong and what to do
description:
  - Asks an appliance until it is ready and nothing urgent is wrong with the cluster. Changes
    nothing. Runs on the control host.
version_added: 0.1.0
author: The authors of Cairn (@cairn)
options:
  within_s:
    description: How long it may take.
    type: float
    default: 60
extends_documentation_fragment:
  - cairn.overlay.unchanging
  - cairn.overlay.appliance
"""

EXAMPLES = r"""
- name: Wait until the appliance is ready
  cairn.overlay.appliance_health:
    url: https://192.0.2.10:8443
    fingerprint: "{{ cairn_fingerprint }}"
    api_token_file: ~/.cairn-token
  delegate_to: localhost
"""

RETURN = r"""
version:
  description: The appliance's version.
  returned: success
  type: str
advice:
  description: What is not as it should be and is not urgent.
  returned: success
  type: list
  elements: str
"""

import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.cairn.overlay.plugins.module_utils.appliance import OPTIONS, Appliance
from ansible_collections.cairn.overlay.plugins.module_utils.rules import Told, sentence

_PAUSE_S = 1.0


def main() -> None:
    """Ask until all is well or the time is over."""
    module = AnsibleModule(
        argument_spec={"within_s": {"type": "float", "default": 60.0}, **OPTIONS},
        supports_check_mode=True,
    )
    until = time.monotonic() + module.params["within_s"]
    while True:
        failures, status = _look(module)
        if not failures:
            break
        if time.monotonic() >= until:
            module.fail_json(msg="the appliance is not healthy: " + " | ".join(failures))
        time.sleep(_PAUSE_S)
    advice = [sentence(each["cause"], each["remedy"]) for each in status["problems"]]
    module.exit_json(changed=False, version=status["version"], advice=advice)


def _look(module: AnsibleModule) -> tuple[list[str], dict]:
    try:
        with Appliance(module.params) as appliance:
            status, _ = appliance.get("status")
    except Told as told:
        return [str(told)], {}
    problems = [each for each in status["problems"] if each["urgent"]]
    if not status["store"]["healthy"]:
        return [f"its store gives no answer: {status['store']['detail']}"], status
    return [sentence(each["cause"], each["remedy"]) for each in problems], status


if __name__ == "__main__":
    main()
