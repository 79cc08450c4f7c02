"""The services that an API is built on, put together by main."""

from __future__ import annotations

from dataclasses import dataclass

from cairn_appliance.domain.cluster import Cluster
from cairn_appliance.services.events import Events
from cairn_appliance.services.members import Members
from cairn_appliance.services.nodes import Nodes
from cairn_appliance.services.presence import PresenceBoard
from cairn_appliance.services.tokens import Tokens
from cairn_appliance.services.vsubnets import VSubnets
from cairn_appliance.store.port import Store


@dataclass(frozen=True, slots=True)
class Services:
    """One of each; `access` (users and sessions) is built from the store on its own."""

    store: Store
    cluster: Cluster
    vsubnets: VSubnets
    members: Members
    tokens: Tokens
    nodes: Nodes
    events: Events
    presence: PresenceBoard
