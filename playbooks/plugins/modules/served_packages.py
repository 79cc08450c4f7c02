"""What the action of this name does; all of it runs on the control host, and a shell there."""

from __future__ import annotations

DOCUMENTATION = r"""
module: served_packages
short_description: Give an appliance the packages that it serves
description:
  - Copies a folder of packages to an appliance over SSH, checks it there, and puts it in the place
    of the one before in one step. New nodes and roll-outs take their packages from there.
version_added: 0.1.0
author: The authors of Cairn (@cairn)
options:
  packages_dir:
    description: A folder on the control host with what C(make packages) left in C(dist).
    type: path
    required: true
  served_dir:
    description: The appliance's C(packages_dir).
    type: path
    default: /usr/share/cairn/packages
attributes:
  check_mode:
    support: full
    description: Compares the lists; copies nothing.
  diff_mode:
    support: full
    description: Shows the versions.
"""

EXAMPLES = r"""
- name: Serve the packages
  cairn.overlay.served_packages:
    packages_dir: /srv/cairn/packages
"""

RETURN = r"""
version:
  description: The version that is served.
  returned: success
  type: str
"""
