"""The names of what can be wrong with a cluster: stable, for people and for what watches it.

docs/operate/alarms.md has a section for each, which a test sees to.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Alarm(StrEnum):
    """One thing that can be wrong."""

    NO_QUORUM = "no_quorum"
    STORE_FULL = "store_full"
    STORE_FILLING = "store_filling"
    DISK_FULL = "disk_full"
    MEMBER_CORRUPT = "member_corrupt"
    MEMBER_AWAY = "member_away"
    MEMBER_CUT_OFF = "member_cut_off"
    MEMBER_BEHIND = "member_behind"
    MEMBER_FLAPS = "member_flaps"
    MEMBER_LEARNS = "member_learns"
    MEMBERS_EVEN = "members_even"
    APIS_AWAY = "apis_away"
    ETCD_FAILS = "etcd_fails"
    SLOW_DISK = "slow_disk"
    LEADER_UNSTEADY = "leader_unsteady"
    CLOCK_OFF = "clock_off"
    CLOCK_UNSYNCHRONISED = "clock_unsynchronised"
    CERTIFICATE_EXPIRES = "certificate_expires"
    ADDRESS_UNKNOWN = "address_unknown"
    APPLIANCE_TWICE = "appliance_twice"
    VERSIONS_MIXED = "versions_mixed"
    VERSIONS_APART = "versions_apart"
    AGENTS_OLD = "agents_old"
    NONE_TO_SPARE = "none_to_spare"
    BACKUP_LATE = "backup_late"
    NO_RECOVERY_KEY = "no_recovery_key"
    RESTORING = "restoring"
    NODES_UNSEEN = "nodes_unseen"
    VALUES_UNREADABLE = "values_unreadable"
    CLONE_SEEN = "clone_seen"
    NO_FORWARDER = "no_forwarder"
    FORWARDER_UNSTEADY = "forwarder_unsteady"
    LAN_LOOP = "lan_loop"
    ROGUE_SERVER = "rogue_server"
    LAN_SPOOF = "lan_spoof"
    LAN_STORM = "lan_storm"
    STATION_FROZEN = "station_frozen"
    DUPLICATE_IP = "duplicate_ip"
    AUDIT_BROKEN = "audit_broken"
    RECEIVER_FAILS = "receiver_fails"


@dataclass(frozen=True, slots=True)
class Sign:
    """What an appliance notices of itself; changes seldom, since each change is a write."""

    name: str  # an Alarm, of this version or another
    detail: str  # one sentence that goes on after the appliance's name
    is_urgent: bool = False
