"""When etcd's database wants room to be made, and in which order its members are put right.

etcd counts what a file takes and not what is in use: what was deleted or overwritten takes
room until it is compacted, and the file shrinks by defragmentation only. During that the
member answers nobody, so it is one member at a time, and the leader last.
"""

from __future__ import annotations

from cairn_appliance.domain.cluster import EtcdState
from cairn_appliance.domain.cluster_health import ClusterView, Seen

FILLING_AT = 0.6  # of the quota: an alarm, time enough to do something
CROWDED_AT = 0.8  # of the quota: history is given up without waiting for its hour
_WORTH = 1 / 16  # of the quota: less is not worth the pause


def is_wasteful(state: EtcdState) -> bool:
    """Return whether defragmentation is worth the pause."""
    waste, quota = state.db_octets - state.db_used_octets, state.db_quota_octets
    is_half = 2 * waste >= state.db_octets
    return waste >= _WORTH * quota and (is_half or state.db_octets >= FILLING_AT * quota)


def is_crowded(state: EtcdState) -> bool:
    """Return whether the quota is nearly used up."""
    return state.db_octets >= CROWDED_AT * state.db_quota_octets


def has_room(state: EtcdState) -> bool:
    """Return whether there is enough room for changes to be let in again."""
    return not is_crowded(state)


def in_order(view: ClusterView) -> tuple[Seen, ...]:
    """Return the members that answer, in the order in which they are defragmented."""
    there = (seen for seen in view.seen if seen.state is not None)
    return tuple(sorted(there, key=lambda seen: (seen.leads, seen.name)))


def is_safe(view: ClusterView) -> bool:
    """Return whether one voter may be silent for a while without anybody noticing."""
    return all(seen.is_healthy for seen in view.voters)
