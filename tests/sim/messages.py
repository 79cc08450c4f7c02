"""What workers answer."""

from __future__ import annotations

import msgspec

from tests.sim.history import Operation, Seen


class Enrolled(msgspec.Struct, frozen=True):
    """The nodes that joined."""

    count: int
    took_s: float


class State(msgspec.Struct, frozen=True):
    """How the agents of one process are; times are of the machine's monotonic clock."""

    agents: int
    following: int
    registered_at: list[float]
    synced_at: list[float]
    revisions: dict[int, int]  # revision -> agents that are in sync with it
    octets: int  # of lines, after TLS and HTTP
    kinds: dict[str, int]  # lines by kind
    unacknowledged: int  # agents that have loaded what the appliance doesn't know of
    failures: dict[str, int]
    barred: int
    ended: list[str]  # errors that ended an agent: a bug of the rig
    verified: int  # vSubnet lines that were worked out; the others shared a result
    cpu_s: float
    back_at: list[float] = []  # in sync for the first time in sessions since `forget`
    octets_back: int = 0  # of lines, of the agents that have begun such a session
    places: dict[str, int] = {}  # appliance -> agents that are in sync there
    trusts: dict[str, int] = {}  # "trust, map key, issuer" -> agents that have these


class Applied(msgspec.Struct, frozen=True):
    """Times, or seconds."""

    at: list[float]


class Moved(msgspec.Struct, frozen=True):
    """When a change was asked for and when it was acknowledged."""

    asked: float
    answered: float


class Churned(msgspec.Struct, frozen=True):
    """What came of a churn since it was asked last."""

    asked: int
    answered: list[float]  # seconds
    waiting: int  # for an answer, now
    ages: dict[int, int]  # hundredths of a second -> changes applied by an agent so long after


class Held(msgspec.Struct, frozen=True):
    """What the agents hold, by node and document, and their history."""

    digests: dict[str, dict[str, str]]
    operations: list[Operation]
    seen: list[Seen]
