"""What gateways say: beats, states, troubles, and the machines on their LANs."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from cairn_appliance.domain.alarm import Alarm

# Of a MAC between segments (RFC 7432 section 15.1), or an address between MACs (RFC 9161, 3.7).
MOVES_FREEZE = 5
MOVES_WINDOW_S = 180.0
FROZEN_S = 600.0  # since its last move; then it may be where it is
# Two have had an address for longer than a gateway keeps one that isn't spoken for any more.
TWICE_S = 660.0
TROUBLE_S = 600.0  # since it was last reported; then it is over
_IPS_MAX, _LOOKED_AT = 8, 64  # of one station
_CODE = re.compile(r"[a-z][a-z0-9_]{0,31}")


@dataclass(frozen=True, slots=True)
class Asked:
    """What a beat says of one segment, as far as others have to know it at once."""

    segment: str
    is_able: bool
    term: int
    is_hurrying: bool = False  # it knows that it is next


@dataclass(frozen=True, slots=True)
class Beat:
    """A gateway's last beat: short, since it is written twice a second."""

    node: str
    boot: str
    asked: tuple[Asked, ...]

    def of(self, segment: str) -> Asked | None:
        """Return what it says of a segment."""
        return next((each for each in self.asked if each.segment == segment), None)


@dataclass(frozen=True, slots=True)
class Said:
    """What a gateway says of one segment, for people."""

    segment: str
    is_able: bool
    why_not: str = ""
    code: str = ""
    is_forwarding: bool = False
    term: int = 0
    stations: int = 0
    counters: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GatewayState:
    """What a gateway says of all its segments; written when it matters, not with each beat."""

    node: str
    at: float  # seconds since 1970
    said: tuple[Said, ...]

    def of(self, segment: str) -> Said | None:
        """Return what it says of a segment."""
        return next((each for each in self.said if each.segment == segment), None)


@dataclass(frozen=True, slots=True)
class Trouble:
    """What the gateways of a segment reported last under one code."""

    segment: str
    code: str
    node: str  # who reported it last
    detail: str
    at: float  # seconds since 1970, of the last report
    told_at: float  # of the last event about it
    count: int = 1  # since the last event

    def is_over(self, now: float) -> bool:
        """Return whether nothing of it was heard for a while."""
        return now - self.at >= TROUBLE_S


# What is reported by gateways, and an alarm while it lasts. Other codes are events only.
ALARMS: Mapping[str, Alarm] = {
    "loop_blocked": Alarm.LAN_LOOP,
    "rogue_dhcp": Alarm.ROGUE_SERVER,
    "rogue_ra": Alarm.ROGUE_SERVER,
    "spoofed_mac": Alarm.LAN_SPOOF,
    "spoofed_ip": Alarm.LAN_SPOOF,
    "storm": Alarm.LAN_STORM,
    "station_frozen": Alarm.STATION_FROZEN,
    "duplicate_ip": Alarm.DUPLICATE_IP,
}


@dataclass(frozen=True, slots=True)
class Station:
    """A machine on a LAN."""

    mac: str
    ips: tuple[str, ...] = ()
    since: float = 0.0  # seconds since 1970: here
    moves: tuple[float, ...] = ()  # between segments, of late
    frozen_at: float = 0.0  # 0: it isn't
    is_gone: bool = False  # not heard any more, `since` then; kept to know a move from it
    # Address -> when it went from one machine to another of late, this one the last.
    taken: dict[str, tuple[float, ...]] = field(default_factory=dict)
    held: tuple[str, ...] = ()  # of `ips` those that it doesn't speak for now: they are frozen

    def is_frozen(self, now: float) -> bool:
        """Return whether it moved too often of late."""
        return bool(self.frozen_at) and now - self.frozen_at < FROZEN_S

    def frozen_for_s(self, now: float) -> float:
        """Return for how long it stays frozen; 0: it isn't."""
        return self.frozen_at + FROZEN_S - now if self.is_frozen(now) else 0.0

    def thawed(self) -> Station:
        """Return the station as one that never moved, nor an address of it."""
        ips = tuple(ip for ip in self.ips if ip not in self.held)
        return replace(self, moves=(), frozen_at=0.0, ips=ips, taken={}, held=())

    def holds_fast(self, ip: str, now: float) -> bool:
        """Return whether an address that moved too often is frozen as this one's."""
        times = self.taken.get(ip, ())
        return len(times) >= MOVES_FREEZE and now - times[-1] < FROZEN_S

    def frozen_ips(self, now: float) -> tuple[str, ...]:
        """Return the addresses that are frozen as this one's."""
        return tuple(ip for ip in self.ips if self.holds_fast(ip, now))

    def has_since(self, ip: str) -> float:
        """Return since when it has an address that another has too."""
        return self.taken[ip][-1] if self.taken.get(ip) else self.since

    def frozen_with(self, ip: str, times: tuple[float, ...]) -> Station:
        """Return the station as the one that an address stays with, spoken for or not."""
        taken = {**self.taken, ip: times}
        if ip in self.ips:
            return replace(self, taken=taken)
        ips = tuple(sorted({*self.ips, ip}))
        return replace(self, ips=ips, taken=taken, held=(*self.held, ip))

    def released(self, now: float) -> Station:
        """Return the station without addresses that it had only while they were frozen."""
        over = {ip for ip in self.held if not self.holds_fast(ip, now)}
        ips = tuple(ip for ip in self.ips if ip not in over)
        return replace(self, ips=ips, held=tuple(ip for ip in self.held if ip not in over))

    def is_over(self, now: float) -> bool:
        """Return whether it is gone for so long that nobody needs to know where it was."""
        gone_for = now - self.since
        return self.is_gone and not self.is_frozen(now) and not 0 <= gone_for < MOVES_WINDOW_S

    def is_here(self, now: float) -> bool:
        """Return whether it is held to be on its LAN: it talks there, or is frozen there."""
        return not self.is_gone or self.is_frozen(now)

    def moved(self, now: float) -> Station:
        """Return the station at its new segment; frozen where that is one move too many."""
        moves = (*(at for at in self.moves if 0 <= now - at < MOVES_WINDOW_S), now)
        frozen_at = now if len(moves) >= MOVES_FREEZE else 0.0
        return replace(self, moves=moves, since=now, frozen_at=frozen_at, is_gone=False)


@dataclass(frozen=True, slots=True)
class StationBatch:
    """Some of the stations of a segment."""

    stations: tuple[Station, ...]


def settled(
    old: Station, ips: tuple[str, ...], holders: Mapping[str, Station], now: float
) -> tuple[Station, dict[str, tuple[float, ...]]]:
    """Return a machine as it is that spoke for these addresses, and its duplicates: address ->
    when it moved, of those that are frozen with who had them.

    `holders`: who had each before, where that is another machine. An address that goes from one
    machine to another again and again is two machines' (RFC 9161 section 3.7).
    """
    taken, duplicates = dict[str, tuple[float, ...]](), dict[str, tuple[float, ...]]()
    before = () if old.is_gone else old.ips
    for ip in ips:
        holder = holders.get(ip) if ip not in before else None
        if holder is None:
            taken.update({ip: old.taken[ip]} if ip in old.taken else {})
            continue
        times = (*(at for at in holder.taken.get(ip, ()) if 0 <= now - at < MOVES_WINDOW_S), now)
        if holder.holds_fast(ip, now):
            duplicates[ip] = holder.taken[ip]
        elif len(times) >= MOVES_FREEZE:
            duplicates[ip] = times
        else:
            taken[ip] = times
    kept = old.frozen_ips(now)
    taken.update({ip: old.taken[ip] for ip in kept})
    held = tuple(sorted(set(kept) - set(ips)))
    has = replace(old, ips=tuple(sorted({*ips, *kept})), taken=taken, held=held)
    return has, duplicates


def is_code(text: str) -> bool:
    """Return whether an event of a gateway can have this code."""
    return _CODE.fullmatch(text) is not None


def few(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Return so many addresses of a station as are kept, in order; what is none is left out."""
    return tuple(sorted(set(filter(None, map(_address, texts[:_LOOKED_AT])))))[:_IPS_MAX]


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return ""
