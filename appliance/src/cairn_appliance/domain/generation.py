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


class Decision(Enum):
    """What a registration means."""

    GO_ON = "restart"
    MOVED = "moved to another host or cloud"
    RESTORED = "snapshot restored"
    DUPLICATE = "clone"

    @property
    def needs_new_sessions(self) -> bool:
        """True where peers must forget the sessions they have with the node; a move keeps them."""
        return self is Decision.RESTORED


def decide(
    presented: int, generation: Generation, *, same_machine: bool, other_alive: bool
) -> Decision:
    """Return what it means that `presented` came from this machine.

    `other_alive`: a stream of the same node is open elsewhere. The table is that of
    control-plane.md; its one open case, an old value from the same machine while a newer
    generation is alive, is a clone by trust.md 2.5 (2). A newer stream of the same machine
    with a current value is a re-registration, or a reconnect before the old link is noticed dead.
    """
    is_old = presented < generation.current
    if same_machine and not is_old:
        return Decision.GO_ON
    if same_machine:
        return Decision.DUPLICATE if other_alive else Decision.RESTORED
    if is_old or other_alive:
        return Decision.DUPLICATE
    return Decision.MOVED
