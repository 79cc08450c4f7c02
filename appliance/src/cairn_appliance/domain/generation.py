"""A node's registration counter: tells clones and roll-backs from restarts.

control-plane.md, Identity. Two-phase: the service offers g + 1, which becomes current
when the node first presents it, so that a crash between the two is no alarm.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True, slots=True)
class Generation:
    """`current` was presented by the node, `offered` was last sent to it."""

    current: int = 0
    offered: int = 1

    def presented(self, value: int) -> Generation:
        """Return what follows when the node goes on with `value`.

        The offer is repeated as long as it has not been presented: a lost answer costs
        nothing. A value from before or beyond (a store restored from a backup) is left
        behind by an offer above both.
        """
        if value == self.current:
            return self
        if value == self.offered:
            return Generation(value, value + 1)
        newest = max(value, self.offered)
        return Generation(newest, newest + 1)


class Other(Enum):
    """What is known of another machine, or another run of this one, with the same identity."""

    NONE = "none"
    UNSURE = "it may be there: nobody knows yet"
    ALIVE = "alive"


class Decision(Enum):
    """What a registration means."""

    GO_ON = "restart"
    MOVED = "moved to another host or cloud"
    RESTORED = "snapshot restored"
    DUPLICATE = "clone"
    WAIT = "not known yet"
    FREEZE = "taken over too often"

    @property
    def is_takeover(self) -> bool:
        """True where the identity passes from one machine, or one run of it, to another."""
        return self in (Decision.MOVED, Decision.RESTORED)

    @property
    def needs_new_sessions(self) -> bool:
        """True where peers must forget the sessions they have with the node; a move keeps them."""
        return self is Decision.RESTORED


# As EVPN has it for moves of a MAC address (RFC 7432 section 15.1).
TAKEOVERS_MAX = 5
TAKEOVERS_WINDOW_S = 180.0
# A machine that registered within this may be about to open its stream: of two that come at
# the same instant, at two replicas, the second waits until it is known what the first is.
REGISTERED_LATELY_S = 15.0


def registered_lately(at: float, now: float) -> bool:
    """Return whether a machine registered of late; `at` may be of another appliance's clock.

    Those are apart by some seconds, and then `at` may be to come. One that is far off was set
    back: that must not hold anybody up.
    """
    return abs(now - at) < REGISTERED_LATELY_S


def decide(presented: int, generation: Generation, *, same_machine: bool, other: Other) -> Decision:
    """Return what it means that `presented` came from this machine.

    The table is that of control-plane.md; its one open case, an old value from the same
    machine while a newer generation is alive, is a clone by trust.md 2.5 (2). A newer stream
    of the same machine with a current value is a re-registration, or a reconnect before the
    old link is noticed dead. Who is turned away as a clone becomes another node: so what
    hangs on `other` waits until it is known.
    """
    is_old = presented < generation.current
    if same_machine and not is_old:
        return Decision.GO_ON
    if is_old and not same_machine:
        return Decision.DUPLICATE
    if other is Other.UNSURE:
        return Decision.WAIT
    if other is Other.ALIVE:
        return Decision.DUPLICATE
    return Decision.RESTORED if same_machine else Decision.MOVED


def counted(
    decision: Decision, takeovers: tuple[float, ...], now: float
) -> tuple[Decision, tuple[float, ...]]:
    """Return the decision and the times of the takeovers that count, this one among them.

    Two that take the identity from each other again and again are stopped, both, rather
    than let fight: the one that is one too many freezes the node.
    """
    recent = tuple(at for at in takeovers if 0 <= now - at < TAKEOVERS_WINDOW_S)
    if not decision.is_takeover:
        return decision, recent
    if len(recent) + 1 >= TAKEOVERS_MAX:
        return Decision.FREEZE, recent
    return decision, (*recent, now)
