"""What gateways report of their LANs: events, and which machines are there.

A gateway reports changes in batches, and what is known already is not written again: a station
that goes on sending costs no write, one that comes or goes that of a 64th of its segment. They
lie in the store and not in the memory of the replica that was told, since the gateway's next
report, and an operator's question, may go to any replica.
"""

from __future__ import annotations

import logging
import zlib
from collections import defaultdict
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial

from cairn_agent.protocol import gateway as wire

from cairn_appliance.domain.errors import Clash, Invalid, NotFound
from cairn_appliance.domain.event import Severity
from cairn_appliance.domain.gateway import (
    ALARMS,
    MOVES_FREEZE,
    MOVES_WINDOW_S,
    TWICE_S,
    Station,
    StationBatch,
    Trouble,
    few,
    is_code,
    settled,
)
from cairn_appliance.domain.identity import Actor, ActorKind
from cairn_appliance.domain.segment import STATIONS_MAX, Segment, is_station
from cairn_appliance.netmap.netmaps import Netmaps
from cairn_appliance.services.clock import Clock, wall_clock
from cairn_appliance.services.commit import until_committed
from cairn_appliance.services.election import Election
from cairn_appliance.services.events import Journal
from cairn_appliance.services.gateway_board import GatewayBoard
from cairn_appliance.services.limits import Buckets
from cairn_appliance.services.stored import read
from cairn_appliance.store import keys, records
from cairn_appliance.store.port import Compare, Delete, Put, Store

log = logging.getLogger(__name__)

EVENTS_PER_S, EVENTS_AT_ONCE = 0.5, 20.0  # of one node
REPORTS_PER_S, REPORTS_AT_ONCE = 2.0, 20.0
TOLD_EVERY_S = 60.0  # an event in the log, of one segment and code
_BATCHES = 64
_DETAIL_MAX = 300
_CHANGES_MAX = 2 * STATIONS_MAX  # in one report
_COUNT_MAX = 1 << 31

_REMEDIES = {
    "loop_blocked": "take away the second connection between LAN and vSubnet that the event names; "
    "the port opens again by itself when no probe comes back",
    "rogue_dhcp": "find the machine with this MAC at the port; if it is the right DHCP server, "
    "allow it with `cairn gateway segment set SEGMENT --dhcp`",
    "rogue_ra": "find the machine with this MAC at the port; if it is the right router, allow it "
    "with `cairn gateway segment set SEGMENT --router-advertisements`",
    "spoofed_mac": "find the machine on the LAN that sends with the MAC of a member",
    "spoofed_ip": "find the machine on the LAN that has the address of a member",
    "storm": "find what floods the LAN: a loop there, or a machine gone wrong",
    "mac_limit": "raise --mac-limit of the segment if there are so many machines",
    "station_frozen": "find the second machine with this MAC, or the loop that makes it move",
    "duplicate_ip": "give one of the two machines another address; if both are to have it, share "
    "it with `cairn vsubnet set NAME --shared-ip ADDRESS`",
}
_ALARM = "see docs/operate/alarms.md"


@dataclass(slots=True)
class _Table:
    """The stations of one segment as they lie in the store, and which batches change."""

    segment: Segment
    revisions: dict[str, int]  # batch -> revision
    stations: dict[str, Station]
    dirty: set[str]

    def put(self, station: Station) -> None:
        self.stations[station.mac] = station
        self.dirty.add(_batch_of(station.mac))

    def batch(self, name: str) -> tuple[Station, ...]:
        found = (each for each in self.stations.values() if _batch_of(each.mac) == name)
        return tuple(sorted(found, key=lambda each: each.mac))

    def leave(self, mac: str, now: float) -> None:
        """Note that one isn't heard any more.

        Where it was is kept for a while: the LAN that it went to may report it after this, and
        that is a move all the same.
        """
        known = self.stations.get(mac)
        if known is None or known.is_gone:
            return
        if sum(each.is_gone for each in self.stations.values()) < self.segment.guards.mac_limit:
            self.put(replace(known, is_gone=True, since=now))
        else:
            self.drop(mac)

    def count(self, now: float) -> int:
        """Return how many are on the LAN."""
        return sum(each.is_here(now) for each in self.stations.values())

    def drop(self, mac: str) -> None:
        if self.stations.pop(mac, None) is not None:
            self.dirty.add(_batch_of(mac))


class _Judge:
    """Says who has an address, as it was before a report."""

    def __init__(self, tables: list[_Table], shared: frozenset[str], now: float) -> None:
        self._shared = shared
        self._now = now
        self._places: dict[str, _Table] = {}  # by MAC
        self._holders = defaultdict[str, list[Station]](list)  # by address
        for table in tables:
            for station in table.stations.values():
                self._places[station.mac] = table
                for ip in station.ips if station.is_here(now) else ():
                    self._holders[ip].append(station)

    def settle(self, own: _Table, mac: str, ips: tuple[str, ...]) -> tuple[Station, list[str]]:
        """Return a machine that was seen with its addresses, and what is to be told of them."""
        old = self._places.get(mac, own).stations.get(mac, Station(mac))
        holders = {ip: holder for ip in ips if (holder := self._holder(ip, mac)) is not None}
        has, duplicates = settled(old, ips, holders, self._now)
        told = []
        for ip, times in duplicates.items():
            table = self._places[holders[ip].mac]
            holder = table.stations.get(holders[ip].mac)
            if holder is not None:  # else it has just gone to another LAN
                table.put(holder.frozen_with(ip, times))
            told.append(
                _twice(ip, (table.segment, holders[ip]), (own.segment, has), times[0])
                + ": it is frozen with the first"
            )
        return has, told

    def _holder(self, ip: str, mac: str) -> Station | None:
        """Return the other machine that has an address; of several who holds it fast, or took it
        last."""
        others = [each for each in self._holders.get(ip, ()) if each.mac != mac]
        if ip in self._shared or not others:
            return None
        return max(others, key=lambda each: (each.holds_fast(ip, self._now), each.has_since(ip)))


class LanReports:
    """Takes what gateways report of their LANs."""

    def __init__(
        self,
        store: Store,
        netmaps: Netmaps,
        election: Election,
        board: GatewayBoard,
        journal: Journal,
        clock: Clock = wall_clock,
        *,
        limits: tuple[Buckets, Buckets] | None = None,
    ) -> None:
        self._store = store
        self._netmaps = netmaps
        self._election = election
        self._board = board
        self._journal = journal
        self._clock = clock
        self._events, self._reports = limits or (
            Buckets(EVENTS_PER_S, EVENTS_AT_ONCE),
            Buckets(REPORTS_PER_S, REPORTS_AT_ONCE),
        )

    async def event(self, node: str, body: wire.GatewayEvent, address: str) -> None:
        """Take an event of a gateway; raise Refused (no duty), TooMany, Invalid."""
        segment = self._election.duty(node, body.segment)
        if not is_code(body.code):
            raise Invalid("the code of an event is a word in lower case", code="invalid_body")
        self._events.take(node, "events")
        await self._tell(segment, node, body.code, body.detail, address, max(1, body.count))

    async def stations(self, node: str, body: wire.StationReport, address: str) -> None:
        """Take what changed on a LAN, from its forwarder; raise Refused, Clash, TooMany."""
        segment = self._election.duty(node, body.segment)
        self._reports.take(node, "reports of stations")
        record = self._board.record(segment.id)
        if record.holder != node or record.term != body.term:
            raise Clash(
                f"segment {segment.name} is forwarded by another gateway, or in another term",
                "nothing: the forwarder reports",
                code="not_the_forwarder",
            )
        if len(body.seen) + len(body.gone) > _CHANGES_MAX:
            raise Invalid(f"a report has at most {_CHANGES_MAX} changes", code="invalid_body")
        claims: dict[str, list[str]] = {}
        await until_committed(lambda: self._take(segment, body, claims))
        for code, details in claims.items():
            await self._tell(segment, node, code, details[0], address, len(set(details)))

    def on(self, segment: str) -> list[Station]:
        """Return the machines on a segment's LAN, as far as this replica has seen."""
        stations, now = self._board.stations(segment), self._clock()
        return [stations[mac] for mac in sorted(stations) if stations[mac].is_here(now)]

    async def unfreeze(self, segment: Segment, mac: str, by: Actor) -> Station:
        """Let a frozen machine be on any LAN again; raise NotFound. One that isn't frozen stays."""
        mac = mac.lower()

        async def attempt() -> Station:
            table = await self._table(segment)
            known = table.stations.get(mac)
            if known is None:
                raise NotFound(
                    f"there is no machine {mac} on the LAN of segment {segment.name}",
                    f"see `cairn gateway stations {segment.name}`; it is frozen where it is listed",
                )
            if not known.is_frozen(self._clock()) and not known.taken:
                return known
            thawed = known.thawed()
            if thawed.is_gone:
                table.drop(mac)
            else:
                table.put(thawed)
            text = f"{mac} on segment {segment.name} may be on other LANs again"
            entry = self._journal.entry(
                "lan_station_unfrozen", text, by, vsubnet=segment.vsubnet, segment=segment.id
            )
            await self._write([table], entry)
            return thawed

        return await until_committed(attempt)

    async def tidy(self) -> None:
        """Forget troubles that are over, and machines that are gone for good; tell of addresses
        that two machines have had for long."""
        now = self._clock()
        await self._tell_twice()
        for segment in list(self._netmaps.snapshot.segments.values()):
            stations = self._board.stations(segment.id).values()
            if any(each.is_over(now) or each.released(now) != each for each in stations):
                await until_committed(partial(self._tidy_stations, segment))
        for item in (await self._store.list(keys.TROUBLES)).items:
            for trouble in records.troubles.decode_all([item], records.quarantine):
                if trouble.is_over(now):
                    compare = Compare(item.key, item.revision)
                    await self._store.commit([compare], [Delete(item.key)])

    async def _tell_twice(self) -> None:
        """Tell of addresses that two LANs' machines speak for, none of which moves any more."""
        holders = defaultdict[tuple[str, str], dict[str, tuple[Segment, Station]]](dict)
        now = self._clock()
        for segment in list(self._netmaps.snapshot.segments.values()):
            shared = self._shared(segment)
            for station in self._board.stations(segment.id).values():
                for ip in station.ips if station.is_here(now) else ():
                    if ip not in shared:
                        holders[segment.vsubnet, ip][station.mac] = segment, station
        found = defaultdict[str, list[str]](list)
        for (_, ip), by_mac in holders.items():
            if len(by_mac) < 2:
                continue
            *_, one, other = sorted(by_mac.values(), key=lambda each: each[1].has_since(ip))
            since = other[1].has_since(ip)
            if now - since >= TWICE_S:
                found[other[0].id].append(_twice(ip, one, other, since))
        for segment_id, details in found.items():
            node = self._board.record(segment_id).holder
            segment = self._netmaps.snapshot.segments[segment_id]
            await self._tell(segment, node, "duplicate_ip", details[0], "", len(details))

    def _shared(self, segment: Segment) -> frozenset[str]:
        """Return the addresses that any machine of the segment's vSubnet may have."""
        vsubnet = self._netmaps.snapshot.vsubnets.get(segment.vsubnet)
        return frozenset(vsubnet.policy.shared_ips if vsubnet else ())

    async def _tidy_stations(self, segment: Segment) -> None:
        table, now = await self._table(segment), self._clock()
        for mac, station in list(table.stations.items()):
            if station.is_over(now):
                table.drop(mac)
            elif station.released(now) != station:
                table.put(station.released(now))
        await self._write([table])

    async def _tell(
        self, segment: Segment, node: str, code: str, detail: str, address: str, count: int
    ) -> None:
        """Note a trouble; the log of events has one of a kind in a minute, with their number."""
        key, now = keys.trouble(segment.id, code), self._clock()

        async def attempt() -> None:
            found = await read(self._store, records.troubles, key)
            old = found.value if found else Trouble(segment.id, code, node, "", 0.0, 0.0, 0)
            is_due = now - old.told_at >= TOLD_EVERY_S
            new = replace(
                old,
                node=node,
                detail=detail[:_DETAIL_MAX],
                at=now,
                told_at=now if is_due else old.told_at,
                count=min(old.count + count, _COUNT_MAX),
            )
            writes = [Put(key, records.troubles.encode(replace(new, count=0) if is_due else new))]
            if is_due:
                writes.append(self._entry(segment, new, address))
            await self._store.commit([Compare(key, found.revision if found else 0)], writes)

        await until_committed(attempt)

    def _entry(self, segment: Segment, trouble: Trouble, address: str) -> Put:
        severity = Severity.ALARM if trouble.code in ALARMS else Severity.WARNING
        remedy = _REMEDIES.get(trouble.code, _ALARM).replace("SEGMENT", segment.name)
        known = self._netmaps.snapshot.nodes.get(trouble.node)
        return self._journal.entry(
            f"lan_{trouble.code}",
            f"{segment.name}, gateway {known.name if known else trouble.node}: {trouble.detail}",
            Actor(ActorKind.NODE, trouble.node, address),
            severity=severity,
            node=trouble.node,
            vsubnet=segment.vsubnet,
            segment=segment.id,
            count=str(trouble.count),
            remedy=remedy,
        )

    async def _take(
        self, segment: Segment, body: wire.StationReport, claims: dict[str, list[str]]
    ) -> None:
        """Write what is new of a report; add to `claims`, by code, what is wrong with it."""
        if not self._is_news(segment, body):
            return
        fellows = [
            each
            for each in self._netmaps.snapshot.segments.values()
            if each.vsubnet == segment.vsubnet and each.id != segment.id
        ]
        own = await self._table(segment)
        others = [await self._table(each) for each in fellows]
        seen = {each.mac.lower(): each for each in body.seen}
        gone = {mac.lower() for mac in body.gone}
        if body.is_full:
            gone |= own.stations.keys() - seen.keys()
        for mac in gone:
            own.leave(mac, self._clock())
        members = self._members_by_address(segment.vsubnet)
        judge = _Judge([own, *others], self._shared(segment), self._clock())
        for mac, station in sorted(seen.items()):
            if mac in members:
                told = f"the LAN claims {mac}, the MAC of member {members[mac]}"
                claims.setdefault("spoofed_mac", []).append(told)
                continue
            stolen = sorted(set(station.ips) & members.keys())
            if stolen:
                told = ", ".join(f"{ip} of member {members[ip]}" for ip in stolen)
                claims.setdefault("spoofed_ip", []).append(f"{mac} on the LAN claims {told}")
            ips = few(tuple(ip for ip in station.ips if ip not in members))
            has, twice = judge.settle(own, mac, ips)
            claim = self._place(own, others, mac, has)
            if claim:
                claims.setdefault(claim[0], []).append(claim[1])
            if twice:
                claims.setdefault("duplicate_ip", []).extend(twice)
        await self._write([own, *others])

    def _is_news(self, segment: Segment, body: wire.StationReport) -> bool:
        """Return whether anything of the report is new to this replica: most is not."""
        known = self._board.stations(segment.id)
        here = {mac: each.ips for mac, each in known.items() if not each.is_gone}
        if any(mac.lower() in here for mac in body.gone):
            return True
        if body.is_full and here.keys() - {each.mac.lower() for each in body.seen}:
            return True
        return any(here.get(each.mac.lower()) != few(tuple(each.ips)) for each in body.seen)

    def _place(
        self, own: _Table, others: list[_Table], mac: str, has: Station
    ) -> tuple[str, str] | None:
        """Put a station where it was seen; return what is wrong with that, if anything is."""
        now = self._clock()
        if not is_station(mac):
            return None
        known = own.stations.get(mac)
        if known is None or not known.is_here(now):
            elsewhere = next((table for table in others if mac in table.stations), None)
            if elsewhere is None:
                if own.count(now) >= own.segment.guards.mac_limit:
                    limit = own.segment.guards.mac_limit
                    return "mac_limit", f"more than {limit} machines; {mac} is left out"
                known = replace(known or Station(mac), since=now)
            else:
                before = elsewhere.stations[mac]
                if before.is_frozen(now):
                    return None  # it stays where it is, and that has been told
                known = before.moved(now)
                if known.is_frozen(now):
                    elsewhere.put(replace(before, moves=known.moves, frozen_at=now))
                    return "station_frozen", (
                        f"{mac} moved {MOVES_FREEZE} times in {MOVES_WINDOW_S:.0f} seconds, last "
                        f"from segment {elsewhere.segment.name}: it is frozen there"
                    )
                elsewhere.drop(mac)
        has = replace(known, ips=has.ips, taken=has.taken, held=has.held, is_gone=False)
        own.put(has)
        return None

    def _members_by_address(self, vsubnet: str) -> dict[str, str]:
        """Return MAC or IP address -> name of the member that has it."""
        snapshot, found = self._netmaps.snapshot, dict[str, str]()
        for node, member in snapshot.members_of(vsubnet).items():
            known = snapshot.nodes.get(node)
            found.update(dict.fromkeys((member.mac, *member.ips), known.name if known else node))
        return found

    async def _table(self, segment: Segment) -> _Table:
        revisions, stations = {}, {}
        for item in (await self._store.list(keys.stations_of(segment.id))).items:
            revisions[keys.last_part(item.key)] = item.revision
            for batch in records.station_batches.decode_all([item], records.quarantine):
                stations.update({station.mac: station for station in batch.stations})
        return _Table(segment, revisions, stations, set())

    async def _write(self, tables: list[_Table], *entries: Put) -> None:
        """Write batch by batch; one that has moved is in the same batch of both segments."""
        for batch in sorted(set().union(*(table.dirty for table in tables))):
            compares, writes = [], list[Put | Delete]()
            for table in tables:
                if batch not in table.dirty:
                    continue
                key = keys.stations(table.segment.id, batch)
                compares.append(Compare(key, table.revisions.get(batch, 0)))
                stations = table.batch(batch)
                value = records.station_batches.encode(StationBatch(stations))
                writes.append(Put(key, value) if stations else Delete(key))
            await self._store.commit(compares, [*writes, *entries])


def _twice(ip: str, one: tuple[Segment, Station], other: tuple[Segment, Station], at: float) -> str:
    """Return the sentence about an address that two machines have."""
    (first, had), (second, has) = one, other
    since = datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return (
        f"{ip} is the address of two machines since {since}: {had.mac} on segment {first.name} "
        f"and {has.mac} on segment {second.name}"
    )


def _batch_of(mac: str) -> str:
    return f"{zlib.crc32(mac.encode()) % _BATCHES:02d}"
