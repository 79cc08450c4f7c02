"""One simulated agent: what the real one says to an appliance, without a data plane.

It keeps to the real agent's order, bounds and back-off: a registration, then the stream on
the same connection, which acknowledgements go up; registrations after a change on a second
one, one at a time, the newest only. Of several appliances it chooses as the real agent's link does.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import random
import ssl
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import msgspec
from cairn_agent.control.backoff import Backoff, turned_away_backoff
from cairn_agent.control.pace import acknowledged_within_s
from cairn_agent.control.patience import Patience
from cairn_agent.control.tls import issuer_of, server_context
from cairn_agent.dataplane import Stats, VSubnetStats
from cairn_agent.identity import Keys, certificate_request
from cairn_agent.netmap.held import Netmap, NetmapRefused
from cairn_agent.protocol import acks, enrolment, telemetry
from cairn_agent.protocol import netmap as wire
from cairn_agent.report import DataPlaneReport, Status, VSubnetReport
from cairn_agent.telemetry import Teller, Ways, encode

from tests.sim.churn import Arrivals
from tests.sim.connection import Connection, Lost, NoAnswer, Refused, TurnedAway
from tests.sim.history import History, Kind
from tests.sim.sessions import Sessions
from tests.sim.sharing import Shared, SharingCopy

NEXT_APPLIANCE_S = 0.2  # these as in cairn_agent.control.link
SPREAD_S = 0.3
SHUNNED_S = 15.0
FAILOVER_S = 10.0
AGAIN_MIN_S, AGAIN_MAX_S = 0.3, 1.0
ENDPOINTS = 16  # as many as a node may have
DEAF_WINDOW = 4096  # octets
Post = Callable[[str, msgspec.Struct], Awaitable[bytes]]
FINAL = frozenset({"node_removed", "duplicate_node"})


class Credentials(msgspec.Struct, frozen=True):
    """What enrolment left."""

    node_id: str
    name: str
    key: str  # PEM
    certificate: str  # PEM
    dmi_uuid: str
    endpoint: str
    generation: int


@dataclass
class Site:
    """What the agents of one process have in common."""

    ca: str
    cluster_id: str
    map_key: str
    shared: Shared = field(default_factory=Shared)
    sessions: Sessions = field(default_factory=Sessions)
    history: History = field(default_factory=History)
    failures: Counter[str] = field(default_factory=Counter)
    marker: bytes = b""  # an endpoint whose arrival is timed
    arrivals: Arrivals | None = None  # while there is churn
    appliances: tuple[str, ...] = ()  # host:port of all, of late

    def context(self, credentials: Credentials | None = None, ca: str = "") -> ssl.SSLContext:
        """Return a context that trusts the cluster, and shows a node's certificate."""
        context = server_context(ca or self.ca)
        if credentials is not None:
            descriptor = os.memfd_create("certificate")
            try:
                os.write(descriptor, (credentials.certificate + credentials.key).encode())
                context.load_cert_chain(f"/proc/self/fd/{descriptor}")
            finally:
                os.close(descriptor)
        return context


class Silent(NoAnswer):
    """The appliance has stopped speaking in the middle of a stream."""


class SimulatedAgent:
    """An enrolled node that follows its netmap until it is told to end."""

    def __init__(self, site: Site, credentials: Credentials) -> None:
        self.credentials = credentials
        self.endpoint = credentials.endpoint
        self.further: list[str] = []  # endpoints
        self.copy = SharingCopy(
            site.shared,
            cluster_id=site.cluster_id,
            node_id=credentials.node_id,
            map_key=site.map_key,
        )
        self.octets = 0
        self.kinds: Counter[str] = Counter()
        self.registered_at = 0.0
        self.synced_at = 0.0  # the first time since it was (re)started
        self.marked_at = 0.0
        self.back_at = 0.0  # in sync for the first time in this session, if since `forget_times`
        self.is_deaf = False
        self.refusal = ""
        self._site = site
        self._generation = credentials.generation
        self._ca = ""  # as its netmap says
        self._trust = ""
        self._issuer = ""  # that should have signed its certificate
        self._issued_by = issuer_of(credentials.certificate)
        self._renew_at = math.inf
        self._renew_within_s = 0.0
        self._context: ssl.SSLContext | None = None
        self._backoff = Backoff()
        self._turned_away = turned_away_backoff()
        self._line: Connection | None = None
        self._second: Connection | None = None
        self._second_turn = asyncio.Lock()
        self._heard_at = 0.0
        self._say = asyncio.Event()
        self._ack_at = math.inf
        self._acked_up_at = -math.inf
        self._loaded: dict[str, str] = {}
        self._resync = False
        self._is_in_sync = False  # in this session
        self._wanted = ""  # appliance, for the next session
        self._turn = random.randrange(1 << 16)
        self._place = site.appliances[0]  # that it is at, or was
        self._lost_at: dict[str, float] = {}
        self._was_up_at = -math.inf
        self._unreachable = 0  # appliances in a row
        self._patience = Patience()

    @property
    def is_following(self) -> bool:
        """True while the stream is open."""
        return self._line is not None and self._line.is_open

    @property
    def place(self) -> str:
        """The appliance whose stream it is in sync with, or nothing."""
        return self._place if self.is_following and self._is_in_sync else ""

    @property
    def has_to_acknowledge(self) -> bool:
        """True until the appliance knows what it has loaded."""
        return self._ack_at < math.inf

    @property
    def netmap(self) -> Netmap | None:
        """What it holds."""
        return self.copy.current

    @property
    def trusts(self) -> str:
        """What it keeps of whom to trust, its map key, and who signed its certificate."""
        return f"{self._trust} {self.copy.map_keys.current} {self._issued_by}"

    async def run(self, first_wait_s: float) -> None:
        """Keep a session for good; ends where the appliance bars the node."""
        await asyncio.sleep(first_wait_s)
        while True:
            place = self._next_appliance()
            registered_at = self._was_up_at
            error: Lost | Refused
            try:
                await self._session(place)
            except Lost as lost:
                error = lost
                if isinstance(lost, NoAnswer):
                    self._lost_at[place] = time.monotonic()
                elif isinstance(lost, TurnedAway):
                    self._lost_at.pop(place, None)
            except Refused as refused:
                error = refused
                if refused.code in FINAL:
                    self.refusal = refused.code
                    return
            finally:
                self._end()
            self._site.failures[str(error)] += 1
            await asyncio.sleep(self._pause_s(error, was_up=self._was_up_at > registered_at))

    def _next_appliance(self) -> str:
        """Return the next one in turn, one that was not lost of late where there is such."""
        now, known = time.monotonic(), self._site.appliances
        wanted, self._wanted = self._wanted, ""
        if wanted:
            return wanted
        self._lost_at = {each: at for each, at in self._lost_at.items() if now - at < SHUNNED_S}
        hopeful = [each for each in known if each not in self._lost_at] or known
        self._turn += 1
        return hopeful[self._turn % len(hopeful)]

    def _pause_s(self, error: Lost | Refused, *, was_up: bool) -> float:
        """Return how long to wait before the next try."""
        known = len(self._site.appliances)
        self._unreachable = 0 if was_up else self._unreachable + 1
        if isinstance(error, Silent) and was_up and known > 1:
            return random.uniform(0.0, SPREAD_S)
        if self._unreachable % known:
            return NEXT_APPLIANCE_S
        is_busy = isinstance(error, Refused | TurnedAway)
        if known > 1 and is_busy and time.monotonic() - self._was_up_at < FAILOVER_S:
            return random.uniform(AGAIN_MIN_S, AGAIN_MAX_S)
        if isinstance(error, TurnedAway):
            return self._turned_away.next_s()
        return self._backoff.next_s(error.retry_after_s if isinstance(error, Refused) else 0.0)

    async def move(self, endpoint: str) -> tuple[float, float]:
        """Register another endpoint; return when it was asked for and when answered."""
        self.endpoint = endpoint
        asked = time.monotonic()
        await self._register(self._tell)
        return asked, time.monotonic()

    def cut(self) -> None:
        """Lose all connections, as a network does."""
        for connection in (self._line, self._second):
            if connection is not None:
                connection.abort()

    def go_to(self, place: str) -> None:
        """Lose all connections, and come back at this appliance."""
        self._wanted = place
        self.cut()

    def deafen(self) -> None:
        """Come back without a netmap, with a small receive buffer, and do not read it."""
        self.is_deaf = self._resync = True
        self.cut()

    async def widen(self) -> None:
        """Register as many endpoints as a node may have, which makes a vSubnet large."""
        number = self.endpoint.rpartition(":")[0].split(".")
        net = f"2001:db8:{number[2]}:{number[3]}"
        self.further = [f"[{net}:ffff:ffff:ffff:{each + 4096:x}]:65535" for each in range(15)]
        await self._register(self._tell)

    def hear(self) -> None:
        """Read again, from the beginning."""
        if self.is_deaf:
            self.is_deaf = False
            self.cut()

    def forget_times(self) -> None:
        """Begin a new measurement."""
        self.registered_at = self.synced_at = self.marked_at = self.back_at = 0.0
        self.octets = 0
        self.kinds.clear()

    async def _session(self, place: str) -> None:
        """Register and follow until the stream ends; never returns."""
        site = self._site
        if self._context is None:
            self._context = site.context(self.credentials, self._ca)
        window = DEAF_WINDOW if self.is_deaf else 0
        self._place = place
        self._line = await Connection.open(place, self._context, window=window)
        await self._register(self._line.post)
        self._was_up_at = time.monotonic()
        self.registered_at = self.registered_at or time.monotonic()
        incarnation, revision = (0, 0) if self._resync else self.copy.position()
        path = f"netmap?incarnation={incarnation}&after={revision}"
        if self._trust and not self._resync:
            path += f"&trust={self._trust}"
        await self._line.follow(path, self._take)
        if self.is_deaf:
            self._line.pause()
        self._heard_at = time.monotonic()
        self._patience.came_to_another(self._heard_at)
        self._acknowledge_in_turn()
        self._plan_renewal()
        speaking = [
            asyncio.create_task(self._speak(), name="speak"),
            asyncio.create_task(self._report(self._line), name="report"),
        ]
        try:
            await self._until_quiet(self._line)
        finally:
            for task in speaking:
                task.cancel()
            await asyncio.gather(*speaking, return_exceptions=True)
        raise Lost("the stream ended")

    async def _until_quiet(self, line: Connection) -> None:
        """Wait until the stream ends or says nothing for too long, as the agent does."""
        while line.is_open:
            now = time.monotonic()
            left_s = self._heard_at + self._patience.limit_s(now) - now
            if left_s <= 0 and not self.is_deaf:
                self._patience.fell_silent(now)
                raise Silent("the stream was quiet for too long")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(left_s, 1.0)):
                    await asyncio.shield(line.ended)

    async def _register(self, post: Post) -> None:
        request = enrolment.RegisterRequest(
            generation=self._generation,
            facts=enrolment.Facts(dmi_uuid=self.credentials.dmi_uuid),
            endpoints=[self.endpoint, *self.further],
            name=self.credentials.name,
            agent_version="0.1.0",
            loaded_revision=self.copy.position()[1],
        )
        node = self.credentials.node_id
        with self._site.history.of(node, Kind.WRITE, f"endpoint {node}", self.endpoint) as call:
            octets = await post("register", request)
            answer = msgspec.json.decode(octets, type=enrolment.RegisterAnswer)
            call.succeeded()
        self._generation = answer.generation
        self._patience.heartbeat_s = answer.heartbeat_s

    def _take(self, line: bytes) -> None:
        """Verify and apply a line of the stream."""
        self._heard_at = time.monotonic()
        self._patience.heard(self._heard_at)
        self.octets += len(line) + 1
        try:
            message = self._site.shared.decoded(line)
            changed = self.copy.apply(message)
        except (NetmapRefused, msgspec.MsgspecError) as error:
            self._site.failures[f"refused: {error}"[:120]] += 1
            self._resync = True
            self.cut()
            return
        self.kinds[_kind_of(message)] += 1
        match message:
            case wire.InSync():
                self._backoff.reset()
                self._turned_away.reset()
                self._resync = False
                self.synced_at = self.synced_at or self._heard_at
                if not self._is_in_sync:
                    self._is_in_sync, self.back_at = True, self._heard_at
                self._site.history.saw(self.credentials.node_id, message.revision)
                if changed is not None and changed.digests() != self._loaded:
                    self._loaded = changed.digests()
                    self._acknowledge_in_turn()
            case wire.ReceivedVSubnet():
                if self._site.arrivals is not None and not message.full:
                    self._site.arrivals.note(line, self._heard_at)
                marker = self._site.marker
                if marker and not self.marked_at and marker in line:
                    self.marked_at = self._heard_at
            case wire.ReceivedTrust():
                self._trust_changed()
            case wire.Removed() | wire.GoAway():
                self.cut()

    def _trust_changed(self) -> None:
        """Trust whom the netmap says; have the certificate signed anew where that is asked for."""
        held = self.copy.trust
        assert held is not None
        self._ca, self._trust = "".join(held.document.authorities), held.digest
        self._issuer, self._context = held.document.issuer, None
        self._renew_within_s = held.document.renew_within_s
        self._plan_renewal()
        self._acknowledge_in_turn()

    def _plan_renewal(self) -> None:
        is_outdated = self._issued_by != self._issuer
        if self._issuer and is_outdated and self._renew_at == math.inf:
            self._renew_at = time.monotonic() + random.uniform(0, self._renew_within_s)
            self._say.set()

    async def _renew(self) -> None:
        """Get a certificate by who issues now; the next connections show it."""
        self._renew_at = math.inf
        keys = Keys(self.credentials.node_id, self.credentials.key, "")
        request = enrolment.RenewRequest(certificate_request(keys))
        answer = msgspec.json.decode(await self._tell("renew", request), type=enrolment.RenewAnswer)
        self.credentials = msgspec.structs.replace(self.credentials, certificate=answer.certificate)
        self._issued_by = issuer_of(answer.certificate)
        self._context = None

    def _acknowledge_in_turn(self) -> None:
        if self.netmap is not None and self._ack_at == math.inf:
            goes_up = self._line is not None and self._line.takes_acks
            within_s = acknowledged_within_s(self.copy.current, goes_up=goes_up)
            self._ack_at = time.monotonic() + random.uniform(0, within_s)
            self._ack_at = max(self._ack_at, self._acked_up_at + acks.APART_S)
            self._say.set()

    async def _speak(self) -> None:
        """Acknowledge, one thing after the other, the newest only."""
        while True:
            self._say.clear()
            wait_s = max(self._ack_at - time.monotonic(), 0.0)
            if wait_s == 0.0 and self.netmap is not None:
                self._ack_at = wait_s = math.inf
                incarnation, revision = self.copy.position()
                ack = enrolment.AckRequest(
                    revision=revision,
                    incarnation=incarnation,
                    digests=self.netmap.digests(),
                    trust=self._trust,
                    issuer=self._issued_by,
                )
                try:
                    if self._line is not None and self._line.ack(ack):
                        self._acked_up_at = time.monotonic()
                    else:
                        await self._tell("ack", ack)
                except (Lost, Refused) as error:
                    self._site.failures[f"ack: {error}"] += 1
                    self.cut()
                    return
            renew_s = self._renew_at - time.monotonic()
            if renew_s <= 0:
                try:
                    await self._renew()
                except (Lost, Refused) as error:
                    self._site.failures[f"renew: {error}"] += 1
                self.cut()
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(wait_s, renew_s, 3600.0)):
                    await self._say.wait()

    async def _report(self, line: Connection) -> None:
        """Report as the real agent does, with sessions to some of its fellow members."""
        teller, is_first = Teller(Ways()), True
        while True:
            await asyncio.sleep(telemetry.EVERY_S * random.uniform(0.8, 1.0))
            if line.takes_reports and self.netmap is not None:
                report = teller.report(*self._figures(), full=is_first, measured_s=0.0)
                if report is not None:
                    line.report(encode(report))
                    is_first = False

    def _figures(self) -> tuple[Status, Stats]:
        held = self.netmap.vsubnets.items() if self.netmap else ()
        frames = round(time.monotonic())
        vsubnets = [
            VSubnetReport(vni, "v", "c", "m", [], 1400, 1400, len(each.members))
            for vni, each in held
        ]
        sessions, own = self._site.sessions, self.credentials.node_id
        counted = [
            VSubnetStats(vni, peers=sessions.behind(each, own), tx_frames=frames, rx_frames=frames)
            for vni, each in held
        ]
        dataplane = DataPlaneReport(is_up=True, version="sim")
        status = Status("approved", "sim", dataplane=dataplane, vsubnets=vsubnets)
        return status, Stats("sim", vsubnets=counted)

    async def _tell(self, path: str, message: msgspec.Struct) -> bytes:
        """Send on the connection beside the stream's; the appliance closes an idle one."""
        async with self._second_turn:
            if self._second is None or not self._second.is_open:
                if self._context is None:
                    self._context = self._site.context(self.credentials, self._ca)
                self._second = await Connection.open(self._place, self._context)
            return await self._second.post(path, message)

    def _end(self) -> None:
        self.copy.stream_ended()
        self.cut()
        self._line = self._second = None
        self._is_in_sync = False


def _kind_of(message: wire.ReceivedMessage) -> str:
    if isinstance(message, wire.ReceivedVSubnet):
        return "full" if message.full else "delta"
    return type(message).__name__.removeprefix("Received").lower()
