"""What the action of this name does; all of it runs on the control host, and a shell there."""

from __future__ import annotations

DOCUMENTATION = r"""
module: agent_facts
short_description: Look at the agent of a host
description:
  - Says whether the agent is there, has joined and forwards for a LAN, and what its
    C(cairn-agent status) says. The host needs a shell and nothing else.
version_added: 0.1.0
author: The authors of Cairn (@cairn)
options: {}
extends_documentation_fragment:
  - cairn.overlay.unchanging
"""

EXAMPLES = r"""
- name: Look at the agent
  cairn.overlay.agent_facts:
  register: agent
"""

RETURN = r"""
is_installed:
  description: The agent's package is there.
  returned: always
  type: bool
is_joined:
  description: The host has an identity.
  returned: always
  type: bool
has_nftables:
  description: There is what a gateway needs of its host.
  returned: always
  type: bool
standing:
  description: C(forwarding) for a LAN, C(standby), or C(host) for what is no gateway.
  returned: always
  type: str
status:
  description: What C(cairn-agent status --json) printed; empty where no agent runs.
  returned: always
  type: dict
"""
