"""The options of everything that asks an appliance."""

from __future__ import annotations


class ModuleDocFragment:
    """Where the appliance is, how it is known, who asks."""

    DOCUMENTATION = r"""
options:
  url:
    description:
      - The operations API, as C(https://HOST:8443).
      - The environment's E(CAIRN_URL) where it is not given.
    type: str
  fingerprint:
    description:
      - SHA-256 of the cluster's CA, as C(cairn-appliance init) printed it. Nothing is sent to
        whoever shows another one.
      - The environment's E(CAIRN_FINGERPRINT) where it is not given.
    type: str
  ca_path:
    description: The CA itself, in a file; takes the place of O(fingerprint).
    type: path
  api_token:
    description: An API token with the scope operator.
    type: str
  api_token_file:
    description:
      - A file (mode 0600) with the API token in its first line; better than O(api_token).
      - The environment's E(CAIRN_TOKEN_FILE) where it is not given.
    type: path
"""
