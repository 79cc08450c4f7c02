"""A node's registration counter: tells clones and roll-backs from restarts.

control-plane.md, Identity. Two-phase: the service offers g + 1, which becomes current
when the node first presents it, so that a crash between the two is no alarm.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum


@dataclass(frozen=True, slots=True)
class Attempt:
    """Which of a machine's tries with one generation this is.

    The number goes up with each try, above its low bits with each start of the agent, and the
    nonce is drawn as it is sent: of two machines with one memory both come with the same number
    and with nonces of their own. No nonce: an agent of a version that doesn't say.
    """

    number: int = 0
    nonce: str = ""
    given_up: tuple[str, ...] = ()  # nonces of the tries before it since that start

    @property
    def start(self) -> int:
        """Which start of the agent with this generation it is of."""
        return self.number >> 32

    def follows(self, other: Attempt) -> bool:
        """Return whether the machine that made the other one can have made this after it."""
        if self.number <= other.number:
            return False
        return self.start > other.start or other.nonce in self.given_up

    def is_known(self) -> bool:
        """True unless the agent doesn't say."""
        return bool(self.nonce)


class Standing(Enum):
    """What a value and its attempt are to the generation on record."""

    NEWEST = "current or offered, from who has that by right"
    LATE = "given up by its machine, which has come with a later attempt since"
    OLD = "another machine, or another run of this one, has gone on from there"


@dataclass(frozen=True, slots=True)
class Generation:
    """`current` was presented by the node with `attempt`, `offered` was last sent to it."""

    current: int = 0
    offered: int = 1
    attempt: Attempt = field(default_factory=Attempt)

    def standing(self, value: int, attempt: Attempt) -> Standing:
        """Return what it means that `value` came with this attempt.

        A machine gives an attempt up before it makes the next one, with a higher number, and
        presents the offer of the last one. So from one machine never come two attempts of which
        neither follows the other, nor an offer after which another one was made.
        """
        if value < self.current:
            return Standing.OLD
        if value >= self.offered or not (attempt.is_known() and self.attempt.is_known()):
            return Standing.NEWEST
        if value > self.current:
            return Standing.OLD
        if attempt.follows(self.attempt):
            return Standing.NEWEST
        is_late = attempt.number < self.attempt.number
        is_same = attempt.nonce == self.attempt.nonce
        return Standing.LATE if is_late or is_same else Standing.OLD

    def presented(self, value: int, attempt: Attempt | None = None) -> Generation:
        """Return what follows when the node goes on with `value`.

        A lost answer costs nothing. Who comes again with the current value gets another offer:
        whoever has the one before is another machine. A value from beyond (a store restored
        from a backup) is left behind by an offer above both.
        """
        attempt = replace(attempt or Attempt(), given_up=())
        if value == self.current:
            is_another = attempt.is_known() and self.attempt.is_known()
            return Generation(value, self.offered + is_another, attempt)
        if value == self.offered:
            return Generation(value, value + 1, attempt)
        newest = max(value, self.offered)
        return Generation(newest, newest + 1)

    def restored(self) -> Generation:
        """Return what follows when the node goes on with an old value: above all that were
        offered, so that none of them is worth anything any more."""
        return Generation(self.offered + 1, self.offered + 2)


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
    LATE = "given up by the machine that sent it"
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


def decide(
    presented: int,
    generation: Generation,
    *,
    same_machine: bool,
    other: Other,
    attempt: Attempt | None = None,
) -> Decision:
    """Return what it means that `presented` came from this machine.

    The table is that of control-plane.md; its one open case, an old value from the same
    machine while a newer generation is alive, is a clone by trust.md 2.5 (2). A newer stream
    of the same machine with a current value is a re-registration, or a reconnect before the
    old link is noticed dead. Who is turned away as a clone becomes another node: so what
    hangs on `other` waits until it is known.
    """
    standing = generation.standing(presented, attempt or Attempt())
    if same_machine and standing is not Standing.OLD:
        return Decision.LATE if standing is Standing.LATE else Decision.GO_ON
    if presented < generation.current and not same_machine:
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
