"""The keys that others know the cluster by, and the steps in which they are replaced.

A map key is made known (signed by the one before), then it signs. An authority is made known
in the bundle, then it issues while the former one is still believed, then that one is retired.
Every step is one change of one value, so it is taken once, whichever replica takes it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

# Who is away finds the way by itself later; so a step waits for them, but not for ever.
ANNOUNCED_FOR_AWAY_S = 3600.0
ISSUED_FOR_AWAY_S = 86_400.0
# Who comes back within it is recognised by a certificate of a retired authority: as long as
# such a certificate may be renewed (30 days of life, 30 after), and some more.
RETIRED_KEPT_S = 90 * 86_400.0
SUCCESSIONS_KEPT = 32
RENEWALS_PER_S = 50.0  # of all nodes; one costs an appliance about 3 ms
RENEW_WITHIN_MIN_S = 2.0


class Phase(StrEnum):
    """How far the replacement of a key is."""

    STEADY = "steady"  # none is under way
    ANNOUNCED = "announced"  # the next one is made known and does nothing yet
    ISSUING = "issuing"  # of authorities: the next one issues, the former is still believed


@dataclass(frozen=True, slots=True)
class SealedKey:
    """A key pair; the private key is sealed under the KEK."""

    public: str  # base64 of 32 octets (a map key), or a certificate in PEM (an authority)
    sealed: str  # base64


@dataclass(frozen=True, slots=True)
class Succession:
    """One map key's word for the next."""

    old: str  # base64 of 32 octets, as `new`
    new: str
    signature: str  # base64


@dataclass(frozen=True, slots=True)
class MapKeys:
    """The key that signs netmaps, the one that is to follow, and how it came to be."""

    current: SealedKey
    next: SealedKey | None = None
    successions: tuple[Succession, ...] = ()  # the oldest first, that of `next` included
    since: float = 0.0  # of the phase; seconds since 1970

    @property
    def phase(self) -> Phase:
        """STEADY or ANNOUNCED."""
        return Phase.ANNOUNCED if self.next else Phase.STEADY

    def announced(self, following: SealedKey, succession: Succession, now: float) -> MapKeys:
        """Return them with one that is to follow."""
        chain = (*self.successions, succession)[-SUCCESSIONS_KEPT:]
        return replace(self, next=following, successions=chain, since=now)

    def switched(self, now: float) -> MapKeys:
        """Return them with the one that was to follow in use."""
        if self.next is None:
            raise ValueError("no map key was announced")
        return replace(self, current=self.next, next=None, since=now)


@dataclass(frozen=True, slots=True)
class Retired:
    """An authority that is believed no more; its certificate tells whom it knew."""

    certificate: str  # PEM
    at: float  # seconds since 1970


@dataclass(frozen=True, slots=True)
class Authorities:
    """The authority that issues, the one before or after it, and those of the past."""

    issuer: SealedKey
    phase: Phase = Phase.STEADY
    other: SealedKey | None = None  # ANNOUNCED: issues next; ISSUING: issued before
    since: float = 0.0  # of the phase; seconds since 1970
    # Each a new authority's key signed by the one before it, PEM, the newest first: who knows
    # an old one only believes the new one by it.
    crosses: tuple[str, ...] = ()
    retired: tuple[Retired, ...] = ()  # the newest first
    renew_within_s: float = 0.0  # over which nodes have their certificates signed anew

    @property
    def believed(self) -> tuple[str, ...]:
        """The certificates of those that nodes trust, the issuer's first."""
        return (self.issuer.public, *([self.other.public] if self.other else []))

    def announced(self, following: SealedKey, cross: str, now: float) -> Authorities:
        """Return them with one that is to issue next."""
        return replace(
            self,
            phase=Phase.ANNOUNCED,
            other=following,
            since=now,
            crosses=(cross, *self.crosses),
        )

    def issuing(self, nodes: int, now: float) -> Authorities:
        """Return them with the next one issuing; that many nodes have to renew."""
        if self.phase is not Phase.ANNOUNCED or self.other is None:
            raise ValueError("no authority was announced")
        within_s = max(RENEW_WITHIN_MIN_S, nodes / RENEWALS_PER_S)
        return replace(
            self,
            phase=Phase.ISSUING,
            issuer=self.other,
            other=self.issuer,
            since=now,
            renew_within_s=within_s,
        )

    def without_former(self, now: float) -> Authorities:
        """Return them without the one that issued before."""
        if self.phase is not Phase.ISSUING or self.other is None:
            raise ValueError("no authority is being replaced")
        retired = (Retired(self.other.public, now), *self.retired)
        return replace(self, phase=Phase.STEADY, other=None, since=now, retired=retired).pruned(now)

    def pruned(self, now: float) -> Authorities:
        """Return them without what was retired so long ago that it identifies nobody.

        The newest stays: that there is one tells which tokens are too old.
        """
        kept = tuple(
            each
            for number, each in enumerate(self.retired)
            if number == 0 or now - each.at < RETIRED_KEPT_S
        )
        count = len(kept) + (1 if self.other else 0)
        return replace(self, retired=kept, crosses=self.crosses[:count])


@dataclass(frozen=True, slots=True)
class Trust:
    """What is kept of all of it; missing until the first key is replaced."""

    map_keys: MapKeys
    authorities: Authorities


@dataclass(frozen=True, slots=True)
class Behind:
    """One who has not done its part of a step yet."""

    name: str
    node: str  # ID; empty: an appliance
    cause: str
    remedy: str
    is_away: bool = False  # it will do so when it comes back, and is not waited for without end


def is_due(behind: tuple[Behind, ...], *, since: float, for_away_s: float, now: float) -> bool:
    """True where the next step may be taken without anybody's word."""
    return not behind or (all(each.is_away for each in behind) and now - since >= for_away_s)
