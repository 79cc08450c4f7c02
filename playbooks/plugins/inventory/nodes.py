"""An inventory of the nodes that an appliance knows."""

from __future__ import annotations

DOCUMENTATION = r"""
name: nodes
short_description: The nodes of a Cairn cluster
description:
  - Lists nodes from the operations API. All are in the group C(cairn); there is a group for each
    site (C(cairn_site_X)), vSubnet (C(cairn_vsubnet_X)) and label (C(cairn_label_X_Y)), and
    C(cairn_gateways).
  - The file's name ends in C(cairn.yml) or C(cairn.yaml).
version_added: 0.1.0
author: The authors of Cairn (@cairn)
options:
  plugin:
    description: C(cairn.overlay.nodes).
    required: true
    choices: [cairn.overlay.nodes]
  url:
    description: The operations API, as C(https://HOST:8443).
    type: str
    required: true
    env:
      - name: CAIRN_URL
  fingerprint:
    description: SHA-256 of the cluster's CA, as C(cairn-appliance init) printed it.
    type: str
    env:
      - name: CAIRN_FINGERPRINT
  ca_path:
    description: The CA itself, in a file; takes the place of O(fingerprint).
    type: path
  api_token_file:
    description: A file (mode 0600) with an API token in its first line; the scope viewer is enough.
    type: path
    required: true
    env:
      - name: CAIRN_TOKEN_FILE
  states:
    description: Nodes in these states.
    type: list
    elements: str
    default: [approved]
  address:
    description:
      - By which address nodes are reached (C(ansible_host)), their first endpoint or the one that
        the appliance sees. With V(name) by the name alone.
    type: str
    choices: [endpoint, seen, name]
    default: endpoint
extends_documentation_fragment:
  - ansible.builtin.constructed
"""

EXAMPLES = r"""
plugin: cairn.overlay.nodes
url: https://192.0.2.10:8443
fingerprint: 0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0
api_token_file: ~/.cairn-token
groups:
  behind: not cairn_node_is_connected
"""

from ansible.errors import AnsibleParserError
from ansible.plugins.inventory import BaseInventoryPlugin, Constructable
from ansible_collections.cairn.overlay.plugins.module_utils.appliance import Appliance
from ansible_collections.cairn.overlay.plugins.module_utils.rules import (
    Told,
    host_groups,
    host_names,
    host_vars,
)

_OPTIONS = ("url", "fingerprint", "ca_path", "api_token_file")


class InventoryModule(BaseInventoryPlugin, Constructable):
    """The plugin."""

    NAME = "cairn.overlay.nodes"

    def verify_file(self, path: str) -> bool:
        """Take only files that are meant for it."""
        named = path.endswith(("cairn.yml", "cairn.yaml"))
        return bool(super().verify_file(path)) and named

    def parse(self, inventory, loader, path, cache=True) -> None:
        """Read the nodes and put them into their groups."""
        super().parse(inventory, loader, path, cache)
        self._read_config_data(path)
        states = self.get_option("states")
        try:
            with Appliance({name: self.get_option(name) for name in _OPTIONS}) as appliance:
                nodes = [node for state in states for node in appliance.all("nodes", state=state)]
        except Told as told:
            raise AnsibleParserError(f"{path}: {told}") from told
        self.inventory.add_group("cairn")
        for name, node in zip(host_names(nodes), nodes, strict=True):
            self._add(name, node)

    def _add(self, name: str, node: dict) -> None:
        self.inventory.add_host(name, group="cairn")
        for group in host_groups(node):
            named = self.inventory.add_group(self._sanitize_group_name(group))
            self.inventory.add_child("cairn", named)
            self.inventory.add_child(named, name)
        variables = host_vars(node, self.get_option("address"))
        for key, value in variables.items():
            self.inventory.set_variable(name, key, value)
        strict = self.get_option("strict")
        self._set_composite_vars(self.get_option("compose"), variables, name, strict=strict)
        self._add_host_to_composed_groups(self.get_option("groups"), variables, name, strict=strict)
        self._add_host_to_keyed_groups(
            self.get_option("keyed_groups"), variables, name, strict=strict
        )
