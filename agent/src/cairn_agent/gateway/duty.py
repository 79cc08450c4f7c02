"""One duty: runs the rules of one segment against sockets, bridge and data plane.

`Duty.run` does several things side by side: probes out, probes in on both sides, what the
rules say to the data plane in its order, the port, announcements, a look at the bridge now
and then. Each is a loop that ends with the duty, and has a netlink socket of its own where it
needs one: a second dump on a socket that is being read is refused (EBUSY).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import logging
import math
import random
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Protocol, TypeVar

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from cairn_agent.dataplane import DataPlane, Event
from cairn_agent.errors import AgentError, Environment
from cairn_agent.gateway.announce import binding_frames, paced, station_frames
from cairn_agent.gateway.beats import Beats
from cairn_agent.gateway.clock import now_ns
from cairn_agent.gateway.ports import ProbePort, open_port
from cairn_agent.gateway.probe import (
    MAX_STATIONS,
    Side,
    decode,
    decode_stations,
    encode,
    encode_stations,
)
from cairn_agent.gateway.standing import (
    Announce,
    Output,
    Release,
    SetGate,
    SetPort,
    Speak,
    Standing,
    Tell,
)
from cairn_agent.gateway.wanted import bridged, overlay_macs
from cairn_agent.host.bridge import BridgeOutcome, block_port, learn_stations, stations
from cairn_agent.host.bridge_guards import Seen, hold_frozen, read_counters, read_noted
from cairn_agent.host.network import IFF_LOWER_UP, Link, Network
from cairn_agent.netmap.desired import tap_name
from cairn_agent.netmap.held import Netmap
from cairn_agent.protocol.gateway import (
    MAX_FROZEN,
    GatewayDuty,
    GatewayEvent,
    Grant,
    ReleaseRequest,
    SegmentState,
    Station,
    StationReport,
)
from cairn_agent.racing import first_to_end

log = logging.getLogger(__name__)

_T = TypeVar("_T")
_TICK_S: Final = 0.2
_LOOK_S: Final = 2.0  # at stations and counters
_MOST_ADDRESSES: Final = 8  # of one station: what an appliance keeps
_REOPEN_S: Final = 0.5
_GATE_TIMEOUT_S: Final = 1.0
_MAX_QUEUED: Final = 32
_SETTLED_S: Final = 0.03  # a gate opens 20 ms after it was asked to
_AGAIN_S: Final = 1.0  # announcements are said twice
_LEAVE_S: Final = 2.0
_TOLD_S: Final = 300.0  # as long as the bridge keeps what it learned itself
_MAX_TOLD: Final = 4096
_SEEN: Final = {
    "rogue_dhcp": "answers as a DHCP server; it doesn't cross (allow it, or find it)",
    "rogue_ra": "advertises itself as an IPv6 router; it doesn't cross (allow it, or find it)",
    "spoofed_mac": "sends with the MAC of a machine that isn't on this side; it doesn't cross",
    "storm": "sends more to all than may cross; the rest is dropped",
}


class Surroundings(Protocol):
    """What a duty needs of the agent; each is as of now."""

    @property
    def node_id(self) -> str: ...

    @property
    def netmap(self) -> Netmap | None: ...

    @property
    def dataplane(self) -> DataPlane | None: ...

    @property
    def network(self) -> Network: ...

    @property
    def bridges(self) -> Mapping[int, BridgeOutcome]: ...


class Duty:
    """One segment of this node."""

    def __init__(self, duty: GatewayDuty, around: Surroundings, beats: Beats, boot: int) -> None:
        self._around = around
        self._beats = beats
        self._key = _key(duty)
        self._ports: dict[Side, ProbePort] = {}
        self._gates: asyncio.Queue[SetGate] = asyncio.Queue(_MAX_QUEUED)
        self._blocks: asyncio.Queue[SetPort] = asyncio.Queue(_MAX_QUEUED)
        self._releases: asyncio.Queue[Release] = asyncio.Queue(_MAX_QUEUED)
        self._announce_due = asyncio.Event()
        self._leaving = asyncio.Event()
        self._dataplane: DataPlane | None = None
        self._reported: tuple[int, dict[str, list[str]]] = (-1, {})  # term, addresses by MAC
        self._known: frozenset[Seen] = frozenset()
        self._stations: frozenset[str] = frozenset()
        self._is_crowded = False
        self._frozen: dict[str, float] = {}  # by the appliances' word -> until when
        self._held: frozenset[str] = frozenset()  # of these, what the guards were told
        self._told: dict[str, float] = {}  # stations by the forwarder's word -> when
        self.counters: dict[str, int] = {}
        self.standing = Standing(
            around.node_id,
            duty,
            boot,
            now_ns(),
            chance=random.SystemRandom().random,
            name_of=self.name_of,
        )

    @property
    def duty(self) -> GatewayDuty:
        """The duty as it is now."""
        return self.standing.duty

    @property
    def stations(self) -> int:
        """How many stations the LAN port has."""
        return len(self._stations)

    def update(self, duty: GatewayDuty) -> None:
        """Take over what changed."""
        self._key = _key(duty)
        self._do(self.standing.duty_changed(now_ns(), duty))

    def leave(self) -> None:
        """Close the gate, say so, and end."""
        self._leaving.set()

    def state(self) -> SegmentState | None:
        """Return what to say with a beat."""
        return self.standing.beat(now_ns(), self.stations, self.counters)

    def answered(self, sent: int, grant: Grant) -> None:
        """Take in what an appliance answered."""
        now = time.monotonic()
        self._frozen = {each.mac.lower(): now + each.left_s for each in grant.frozen[:MAX_FROZEN]}
        self._do(self.standing.answered(now_ns(), sent, grant))

    def note(self, event: Event) -> None:
        """The data plane says something of this vSubnet's gate or LAN."""
        if event.type == "reflected":
            self._tell(
                "reflected",
                f"{event.mac} talks on {self.duty.port} and came from {self.name_of(event.peer)} "
                f"in the vSubnet too ({event.count} frames, dropped): it is on both sides, or "
                "something joins them",
            )
        else:
            log.warning("the gate closed, nobody confirmed it segment=%s", self.duty.name)

    def name_of(self, node: str) -> str:
        """Return a gateway's name for people."""
        netmap = self._around.netmap
        vsubnet = netmap.vsubnets.get(self.duty.vni) if netmap else None
        held = vsubnet.members.get(node) if vsubnet else None
        return held.member.name if held and held.member else node

    async def run(self) -> None:
        """Do it until `leave`, or until cancelled."""
        try:
            await first_to_end(
                self._tick(),
                self._listen("lan"),
                self._listen("overlay"),
                self._set_gates(),
                self._set_port(),
                self._release(),
                self._announce(),
                self._look(),
                self._leave(),
            )
        finally:
            for port in self._ports.values():
                port.__exit__(None, None, None)

    def _do(self, outputs: Iterable[Output]) -> None:
        for output in outputs:
            match output:
                case SetGate():
                    _put(self._gates, output)
                case SetPort():
                    _put(self._blocks, output)
                    self._beats.beat_soon()
                case Release():
                    _put(self._releases, output)
                case Announce():
                    self._announce_due.set()
                    log.info("forwarding segment=%s", self.duty.name)
                case Speak():
                    self._speak()
                case Tell():
                    self._tell(output.code, output.detail)

    def _tell(self, code: str, detail: str) -> None:
        self._beats.tell(GatewayEvent(self.duty.segment, code, detail))

    # Side by side

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            before = self.standing.why_not()
            dataplane = self._around.dataplane
            if dataplane is not self._dataplane:
                self._dataplane = dataplane
                if dataplane is not None:
                    self._do(self.standing.gate_lost(now_ns()))
            self._do(self.standing.trouble(now_ns(), *self._trouble()))
            self._do(self.standing.tick(now_ns()))
            self._speak()
            if self.standing.why_not() != before:
                log.info("segment=%s is now: %s", self.duty.name, self.standing.why_not())
                self._beats.beat_soon()
            due = max(due + _TICK_S, loop.time())
            await asyncio.sleep(due - loop.time())

    def _speak(self) -> None:
        sides: tuple[Side, Side] = ("lan", "overlay")
        for side in sides:
            port = self._ports.get(side)
            probe = self.standing.probe(now_ns(), side) if port else None
            if port is not None and probe is not None:
                port.send_probe(encode(probe, self._key))

    async def _listen(self, place: Side) -> None:
        while True:
            link = self._link(place)
            if link is None:
                await asyncio.sleep(_REOPEN_S)
                continue
            try:
                with open_port(link.name, link.mac) as port:
                    self._ports[place] = port
                    await first_to_end(self._hear(place, port), self._until_other(place, link))
            except Environment as error:
                log.info("%s: %s", self.duty.name, error.cause)
                await asyncio.sleep(_REOPEN_S)
            finally:
                self._ports.pop(place, None)

    async def _hear(self, place: Side, port: ProbePort) -> None:
        while True:
            payload = await port.payload()
            probe = decode(payload, self._key)
            if probe is not None:
                self._do(self.standing.heard(now_ns(), place, probe))
            elif place == "lan":
                self._note_stations(payload)

    def _note_stations(self, payload: bytes) -> None:
        """Keep what the forwarder says of its stations, for when this one takes over."""
        said = decode_stations(payload, self._key)
        if said is None or not self.standing.is_news(said[0]):
            return
        now = time.monotonic()
        self._told = {mac: at for mac, at in self._told.items() if now - at < _TOLD_S}
        for mac in said[1]:
            if mac in self._told or len(self._told) < _MAX_TOLD:
                self._told[mac] = now

    def _tell_stations(self) -> None:
        """Say on the LAN which stations there are: who stands by may have heard none of them."""
        macs, port = sorted(self._stations), self._ports.get("lan")
        for begin in range(0, len(macs), MAX_STATIONS):
            probe = self.standing.probe(now_ns(), "lan")
            if probe is not None and port is not None:
                part = macs[begin : begin + MAX_STATIONS]
                port.send_probe(encode_stations(probe, part, self._key))

    async def _until_other(self, place: Side, link: Link) -> None:
        """Wait until the interface isn't the one any more that it was."""
        while True:
            await asyncio.sleep(_REOPEN_S)
            now = self._link(place)
            if now is None or (now.index, now.mac) != (link.index, link.mac):
                return

    async def _set_gates(self) -> None:
        asked: DataPlane | None = None
        while True:
            gate = await self._gates.get()
            dataplane = self._around.dataplane
            if dataplane is None:
                self.standing.gate_refused()
                continue
            try:
                async with asyncio.timeout(_GATE_TIMEOUT_S):
                    if asked is not dataplane:
                        await self._learn_term(dataplane)
                        asked = dataplane
                    await dataplane.gate(self.duty.vni, gate.term, gate.until_ns)
            except (AgentError, TimeoutError) as error:
                log.info("the gate isn't set segment=%s: %s", self.duty.name, error)
                self.standing.gate_refused()
                continue
            self._do(self.standing.gate_set(now_ns(), gate))

    async def _learn_term(self, dataplane: DataPlane) -> None:
        """Know the term that the gate had before: with an agent, or a cluster, of before."""
        for vsubnet in (await dataplane.stats()).vsubnets:
            if vsubnet.vni == self.duty.vni and vsubnet.gate is not None:
                self._do(self.standing.term_seen(now_ns(), vsubnet.gate.term))

    async def _set_port(self) -> None:
        async with AsyncIPRoute() as netlink:  # open already when there is a loop
            while True:
                wanted = await self._blocks.get()
                try:
                    await block_port(netlink, self.duty.vni, wanted.is_blocked)
                except NetlinkError as error:
                    log.warning("the port can't be blocked port=%s: %s", self.duty.port, error)

    async def _release(self) -> None:
        while True:
            release = await self._releases.get()
            await self._post_release(release.term)
            self._beats.beat_soon()

    async def _post_release(self, term: int) -> None:
        request = ReleaseRequest(self.duty.segment, term)
        try:
            await self._beats.post(lambda replica: replica.gateway_release(request))
        except AgentError as error:
            # The next answer asks for it again, or the silence does.
            log.info("the release is not taken segment=%s: %s", self.duty.name, error.cause)

    async def _announce(self) -> None:
        async with AsyncIPRoute() as netlink:
            while True:
                await self._announce_due.wait()
                self._announce_due.clear()
                for pause_s in (_SETTLED_S, _AGAIN_S):
                    await asyncio.sleep(pause_s)
                    if self.standing.is_forwarding(now_ns()):
                        await self._announce_once(netlink)

    async def _announce_once(self, netlink: AsyncIPRoute) -> None:
        netmap = self._around.netmap
        vsubnet = netmap.vsubnets.get(self.duty.vni) if netmap else None
        if vsubnet is None:
            return
        now = time.monotonic()
        told = {mac for mac, at in self._told.items() if now - at < _TOLD_S}
        here = told - overlay_macs(vsubnet, [])
        try:
            known = await stations(netlink, self.duty.vni)
            await learn_stations(netlink, self.duty.vni, here - known)
            here = (here | known) - self._frozen_now().keys()
        except NetlinkError as error:
            log.warning("stations can't be told segment=%s: %s", self.duty.name, error)
        await paced(lambda frame: self._send("overlay", frame), station_frames(here))
        await paced(lambda frame: self._send("lan", frame), binding_frames(vsubnet))

    def _send(self, side: Side, frame: bytes) -> None:
        if port := self._ports.get(side):
            port.send(frame)

    async def _look(self) -> None:
        """Note what the bridge knows; the forwarder tells the appliances."""
        async with AsyncIPRoute() as netlink:
            while True:
                try:
                    await self._look_once(netlink)
                except (NetlinkError, AgentError) as error:
                    log.info("segment=%s can't be looked at: %s", self.duty.name, error)
                await asyncio.sleep(_LOOK_S)

    async def _look_once(self, netlink: AsyncIPRoute) -> None:
        self._stations = await stations(netlink, self.duty.vni)
        await self._hold_frozen()
        self.counters = await read_counters(self.duty.vni)
        noted = await read_noted(self.duty.vni)
        self._tell_seen(noted.seen)
        if self.standing.is_forwarding(now_ns()):
            self._tell_stations()
            await self._report_stations(noted.addresses)

    def _frozen_now(self) -> dict[str, int]:
        """Return whose frames may not cross from this LAN, and for how many seconds."""
        now = time.monotonic()
        return {mac: math.ceil(until - now) for mac, until in self._frozen.items() if until > now}

    async def _hold_frozen(self) -> None:
        """Have the guards hold whoever is frozen on another LAN; report again who no more is."""
        frozen = self._frozen_now()
        if not frozen and not self._held:
            return
        await hold_frozen(self.duty.vni, frozen)
        term, known = self._reported
        thawed = self._held - frozen.keys()
        self._reported = term, {mac: known[mac] for mac in known.keys() - thawed}
        self._held = frozenset(frozen)

    def _tell_seen(self, seen: Iterable[Seen]) -> None:
        """Tell of who is new among those whose frames the guards refused.

        A standby sees the forwarder's frames on the LAN, and takes them for spoofed.
        """
        link = self._link("lan")
        ours = {link.name, tap_name(self.duty.vni)} if link else set()
        new = frozenset(each for each in seen if each.port in ours)
        if self.standing.is_forwarding(now_ns()):
            for each in sorted(new - self._known, key=lambda one: (one.code, one.mac)):
                what = _SEEN.get(each.code, "sends what may not cross")
                self._tell(each.code, f"{each.mac} on {each.port} {what}")
            is_crowded = self.stations >= self.duty.guards.mac_limit
            if is_crowded and not self._is_crowded:
                self._tell(
                    "mac_limit",
                    f"{self.duty.port} has {self.stations} stations, as many as the segment "
                    "allows: others are not learned; raise the limit, or find who floods",
                )
            self._is_crowded = is_crowded
        self._known = new

    async def _report_stations(self, addresses: Mapping[str, Sequence[str]]) -> None:
        term, known = self._reported
        own_term = self.standing.own_term
        is_full = term != own_term
        here = {mac: list(addresses.get(mac, ())[:_MOST_ADDRESSES]) for mac in self._stations}
        listed = {mac: ips for mac, ips in here.items() if is_full or known.get(mac) != ips}
        gone = [] if is_full else sorted(known.keys() - here.keys())
        if not is_full and not listed and not gone:
            return
        seen = [Station(mac, ips) for mac, ips in sorted(listed.items())]
        report = StationReport(self.duty.segment, own_term, is_full, seen, gone)
        await self._beats.post(lambda replica: replica.gateway_stations(report))
        self._reported = (own_term, here)

    async def _leave(self) -> None:
        await self._leaving.wait()
        term = self.standing.own_term
        dataplane = self._around.dataplane
        with contextlib.suppress(AgentError, TimeoutError):
            async with asyncio.timeout(_LEAVE_S):
                if term and dataplane is not None:
                    await dataplane.gate(self.duty.vni, term, 0)
                    await self._post_release(term)

    # What is so now

    def _trouble(self) -> tuple[str, str]:
        """Return code and sentence of what of the host is missing; ("", "") nothing."""
        duty = self.duty
        here = bridged(self._around.netmap, self._around.node_id).get(duty.vni)
        outcome = self._around.bridges.get(duty.vni)
        names = {link.name for link in self._around.network.links}
        if duty.port not in names:
            return "port_missing", f"there is no interface {duty.port}; name another, or add it"
        if here is not None and here.segment != duty.segment:
            return "bridge_failed", f"segment {here.name} has the bridge of this vSubnet here"
        if here is None or outcome is None:
            return "bridge_failed", "the bridge isn't made yet; it is tried again by itself"
        if outcome.error is not None:
            return "bridge_failed", f"{outcome.error.cause}; {outcome.error.remedy}"
        link = self._link("lan")
        if link is None:
            return "port_missing", f"there is no interface {outcome.port}"
        if not link.is_up:
            return "port_down", f"{link.name} is down; set it up (ip link set {link.name} up)"
        if not link.flags & IFF_LOWER_UP:
            return "port_down", f"{link.name} has no carrier; look at the cable and the switch"
        if self._around.dataplane is None:
            return "bridge_failed", "the data plane is away; look at its log"
        return "", ""

    def _link(self, side: Side) -> Link | None:
        """Return the interface of a side."""
        outcome = self._around.bridges.get(self.duty.vni)
        if outcome is None or outcome.error is not None:
            return None
        name = outcome.port if side == "lan" else tap_name(self.duty.vni)
        return next((link for link in self._around.network.links if link.name == name), None)


def _put(queue: asyncio.Queue[_T], item: _T) -> None:
    if queue.full():
        queue.get_nowait()  # the newest counts
    queue.put_nowait(item)


def _key(duty: GatewayDuty) -> bytes:
    """Return the segment's key; one that can't be read fits no probe."""
    try:
        return base64.b64decode(duty.key, validate=True)
    except (binascii.Error, ValueError):
        log.warning("the key of segment=%s can't be read", duty.segment)
        return random.SystemRandom().randbytes(32)
