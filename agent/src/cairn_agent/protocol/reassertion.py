"""What a node tells a cluster that was restored from a backup: the netmap that it holds.

The documents are signed by the cluster's own map key, so they say what the cluster itself
had given out after the backup, whoever brings them (docs/protocol.md section 3.5).
"""

from __future__ import annotations

import msgspec

from cairn_agent.protocol.netmap import ReceivedNode, ReceivedVSubnet

RESTORING = "restoring"  # the code of the refusal that asks for it


class ReassertRequest(msgspec.Struct, frozen=True):
    """What is held, in short."""

    incarnation: int
    revision: int  # in sync with
    node: ReceivedNode
    data_public_key: str  # base64 of 32 octets
    vsubnets: dict[str, int] = {}  # VNI -> revision of the document


class ReassertAnswer(msgspec.Struct, frozen=True):
    """The VNIs of the documents that the appliance wants to see."""

    wanted: list[int] = []


class ReassertedVSubnet(msgspec.Struct, frozen=True):
    """One document, whole."""

    incarnation: int
    document: ReceivedVSubnet
