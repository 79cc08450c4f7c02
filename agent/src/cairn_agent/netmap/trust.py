"""For how long a netmap may be used without an appliance (design trust.md 2.2, KT-11).

Counted in CLOCK_BOOTTIME seconds that are added up over restarts, never by the wall
clock: setting a clock forward or back changes nothing.
"""

from __future__ import annotations

from cairn_agent.protocol.netmap import VSubnetHeader


class OfflineTime:
    """Seconds since an appliance was heard last. `now` is CLOCK_BOOTTIME in seconds."""

    def __init__(self, before_s: float, now: float) -> None:
        self._before_s = max(0.0, before_s)
        self._since = now

    def heard(self, now: float) -> None:
        """An appliance said that the netmap is the newest."""
        self._before_s = 0.0
        self._since = now

    def seconds(self, now: float) -> float:
        """Return the time without an appliance."""
        return self._before_s + max(0.0, now - self._since)


def limit_s(header: VSubnetHeader, override_s: int | None) -> int:
    """Return the vSubnet's limit in seconds; 0 is none."""
    return header.policy.offline_trust_s if override_s is None else override_s


def is_trusted(header: VSubnetHeader, offline_s: float, override_s: int | None) -> bool:
    """Return whether the vSubnet may still be used."""
    limit = limit_s(header, override_s)
    return limit == 0 or offline_s <= limit
