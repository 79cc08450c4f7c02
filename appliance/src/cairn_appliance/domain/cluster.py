"""What holds for the cluster as a whole."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cluster:
    """The cluster's identity, and what every node is told."""

    id: str  # UUID
    incarnation: int = 1  # raised by a restore from backup
    appliances: tuple[str, ...] = ()  # host:port of every replica's agent API
    heartbeat_s: float = 15.0
