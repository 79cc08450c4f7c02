"""What the action of this name does; all of it runs on the control host, and a shell there."""

from __future__ import annotations

DOCUMENTATION = r"""
module: agent_package
short_description: Install, upgrade or remove the agent over SSH alone
description:
  - Copies the agent's package to a host and installs it, or removes everything that it brought and
    made. The host needs a shell and nothing else; there need be no Python on it.
  - Packages and their signed list come from a folder on the control host.
  - An upgrade hands sockets and interfaces over to the new version.
version_added: 0.1.0
author: The authors of Cairn (@cairn)
options:
  state:
    description:
      - V(absent) removes identity, users, interfaces and tables too, and fails with what is left
        where something is. Leave first (M(cairn.overlay.agent_membership)).
    type: str
    choices: [present, absent]
    default: present
  packages_dir:
    description: A folder on the control host with what C(make packages) left in C(dist).
    type: path
attributes:
  check_mode:
    support: full
    description: Looks what is installed; copies nothing.
  diff_mode:
    support: full
    description: Shows the versions, or what would be removed.
"""

EXAMPLES = r"""
- name: Install the agent
  cairn.overlay.agent_package:
    packages_dir: /srv/cairn/packages
"""

RETURN = r"""
kind:
  description: The kind of package that the host takes, C(deb), C(rpm) or C(tar.gz).
  returned: success
  type: str
before:
  description: The version that was there; empty where there was none.
  returned: success
  type: str
version:
  description: The version that is there now.
  returned: when O(state=present)
  type: str
"""
