"""What the action of this name does; all of it runs on the control host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: appliance_packages
short_description: Fetch the agent's packages from an appliance
description:
  - Fetches into a folder of the control host what the appliance serves for new nodes, and compares
    each file with the list. The control host needs TCP 8443 and 8002 to the appliance for that.
  - Whether the list is signed is looked at by the installer on each host that has OpenSSL 3.
version_added: 0.1.0
author: The authors of Cairn (@cairn)
options:
  cache_dir:
    description: Where the packages are kept, a folder for each list.
    type: path
    default: ~/.cache/cairn/packages
  packages_url:
    description: Where agents reach the appliance, as C(https://HOST:8002); found from O(url).
    type: str
    default: ""
extends_documentation_fragment:
  - cairn.overlay.appliance
attributes:
  check_mode:
    support: full
    description: Fetches the list alone.
  diff_mode:
    support: none
    description: There is nothing to compare.
"""

EXAMPLES = r"""
- name: Fetch the packages
  cairn.overlay.appliance_packages:
    url: https://192.0.2.10:8443
    fingerprint: "{{ cairn_fingerprint }}"
    api_token_file: ~/.cairn-token
  run_once: true
  register: packages
"""

RETURN = r"""
path:
  description: The folder that has them.
  returned: success
  type: str
fetched:
  description: Names of the files that were not there yet.
  returned: success
  type: list
  elements: str
"""
