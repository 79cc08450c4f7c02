"""The agent API as an ASGI application."""

from __future__ import annotations

import asyncio
import gzip
import logging
import math
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import TypeVar

import msgspec
from cairn_agent.protocol import acks, gateway, reassertion, telemetry
from cairn_agent.protocol import enrolment as wire
from fastapi import FastAPI, Query
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from cairn_appliance.api import errors
from cairn_appliance.api.agent_v1.lines import Lines
from cairn_appliance.api.agent_v1.packages import PackageRoutes, Packages
from cairn_appliance.api.agent_v1.stream import Afterwards, NetmapStream, StreamConnection
from cairn_appliance.api.client_certificate import (
    Connection,
    appliance_of,
    connection_of,
    control_key_of,
    issued_at_of,
    issuer_of,
    node_of,
)
from cairn_appliance.api.kept import KeptResponse
from cairn_appliance.api.limits import StrangerLimit
from cairn_appliance.domain.errors import CertificateRequired, Invalid, NotFound, Unavailable
from cairn_appliance.domain.generation import Attempt
from cairn_appliance.domain.identity import Facts
from cairn_appliance.domain.node import RENEWED_UNTIL_S, SHARED_STREAM
from cairn_appliance.domain.telemetry import SHARED_REPORTS
from cairn_appliance.domain.update import SHARED_UPDATE
from cairn_appliance.services.clock import Clock, wall_clock
from cairn_appliance.services.enrolment import Credentials, Newcomer
from cairn_appliance.services.limits import Buckets
from cairn_appliance.services.registry import Report
from cairn_appliance.services.services import Services
from cairn_appliance.services.updates import Updates
from cairn_appliance.store import keys
from cairn_appliance.store.port import StoreError

log = logging.getLogger(__name__)

BODY_MAX_OCTETS = 65_536
BODY_WITHIN_S = 10.0
DOCUMENT_MAX_OCTETS = 16 << 20  # of a vSubnet that a node shows after a restore: 40,000 members
STATIONS_MAX_OCTETS = 1 << 20  # 1,024 machines with their addresses, several times over
_SHOWN_AT_ONCE = 2  # they are in memory meanwhile
# Of one node: fifty copies of it that start at once are turned away, and use up none of it.
REGISTRATIONS_PER_S, REGISTRATIONS_AT_ONCE = 1.0, 60.0
RENEWALS_PER_S, RENEWALS_AT_ONCE = 0.1, 60.0
_NONCE_MAX = 64
_REASON_MAX = 500  # characters
_DIGESTS_MAX = 512
_DIGEST_MAX = 64  # hex digits of SHA-256
T = TypeVar("T")


def create_app(
    services: Services,
    clock: Clock = wall_clock,
    packages: Packages | None = None,
    updates: Updates | None = None,
) -> FastAPI:
    """Return the application; it has to be served by CertificateProtocol, inside `Unwound`."""
    app = FastAPI(
        title="Cairn agent API",
        openapi_url=None,
        redirect_slashes=False,
    )
    errors.install(app)
    agent_api = _AgentApi(services, clock, updates)
    for path, method, endpoint in agent_api.routes():
        app.add_api_route(path, endpoint, methods=[method], response_model=None)
    if packages is not None:
        given = PackageRoutes(packages)
        app.add_api_route("/install.sh", given.script, methods=["GET"], response_model=None)
        app.add_api_route("/packages/", given.index, methods=["GET"], response_model=None)
        app.add_api_route("/packages/{name}", given.file, methods=["GET"], response_model=None)
    return app


class _AgentApi:
    def __init__(self, services: Services, clock: Clock, updates: Updates | None) -> None:
        self._services = services
        self._updates = updates
        self._clock = clock
        self._limit = StrangerLimit()
        self._registrations = Buckets(REGISTRATIONS_PER_S, REGISTRATIONS_AT_ONCE)
        self._renewals = Buckets(RENEWALS_PER_S, RENEWALS_AT_ONCE)
        self._showing = asyncio.Semaphore(_SHOWN_AT_ONCE)

    def routes(self) -> Iterator[tuple[str, str, Callable[..., Awaitable[Response]]]]:
        """Yield path, method and endpoint."""
        root = "/agent/v1"
        yield f"{root}/enrol", "POST", self.enrol
        yield f"{root}/register", "POST", self.register
        yield f"{root}/netmap", "GET", self.netmap
        yield f"{root}/ack", "POST", self.ack
        yield f"{root}/renew", "POST", self.renew
        yield f"{root}/reassert", "POST", self.reassert
        yield f"{root}/reassert/vsubnet", "POST", self.reassert_vsubnet
        yield f"{root}/copy", "POST", self.copy
        yield f"{root}/become", "POST", self.become
        yield f"{root}/leave", "POST", self.leave
        yield f"{root}/gateway/beat", "POST", self.gateway_beat
        yield f"{root}/gateway/release", "POST", self.gateway_release
        yield f"{root}/gateway/event", "POST", self.gateway_event
        yield f"{root}/gateway/stations", "POST", self.gateway_stations
        yield f"{root}/gateway/preflight", "POST", self.gateway_preflight
        yield SHARED_REPORTS, "GET", self.appliance_telemetry
        yield SHARED_STREAM, "GET", self.appliance_stream
        yield SHARED_UPDATE, "GET", self.appliance_update
        yield "/healthz", "GET", self.healthz
        yield "/readyz", "GET", self.readyz

    async def enrol(self, request: Request) -> Response:
        """A new node shows a token; the only call without a certificate."""
        body = await _decoded(request, wire.EnrolRequest)
        _check_protocol(body.protocol)
        newcomer = replace(_newcomer(body), token_id=body.token_id, token_secret=body.token_secret)
        address = _address(request)
        async with self._limit.attempt(address):
            credentials = await self._services.enrolment.enrol(newcomer, address)
        return self._enrolled(credentials)

    async def register(self, request: Request) -> Response:
        """A node says what it is and where it can be reached."""
        node_id = self._node(request)
        self._services.streams.check_open()
        with self._registrations.taken(node_id, "registrations"):
            return await self._register(node_id, request)

    async def _register(self, node_id: str, request: Request) -> Response:
        body = await _decoded(request, wire.RegisterRequest)
        _check_protocol(body.protocol)
        if not body.incarnation:
            self._services.reassertions.heard(node_id)
        await self._check_restored(request, node_id)
        report = Report(
            generation=body.generation,
            facts=_facts(body.facts),
            endpoints=tuple(body.endpoints),
            name=body.name,
            agent_version=body.agent_version,
            dataplane_version=body.dataplane_version,
            offloads=body.offloads,
            control_key=control_key_of(connection_of(request)),
            attempt=Attempt(body.attempt, body.nonce[:_NONCE_MAX], tuple(body.given_up)),
        )
        address = _address(request)
        registered = await self._services.registry.register(node_id, report, address)
        cluster = self._services.cluster
        return _answer(
            wire.RegisterAnswer(
                state="approved" if registered.state == "approved" else "pending",
                generation=registered.generation,
                seen_address=address,
                appliances=list(cluster.appliances),
                heartbeat_s=self._services.netmaps.word_every_s,
                reassert=self._services.reassertions.wants(body.incarnation),
                again=registered.again,
            )
        )

    async def netmap(
        self,
        request: Request,
        incarnation: int = Query(0, ge=0),
        after: int = Query(0, ge=0),
        trust: str = Query("", max_length=_DIGEST_MAX),
    ) -> Response:
        """Stream the node's netmap: a full set or what changed, then what changes."""
        node_id = self._node(request)
        await self._check_restored(request, node_id)
        connection = connection_of(request)
        control_key = control_key_of(connection)
        known_at = await self._services.registry.known_at(node_id, control_key)
        keyring, issuer = self._services.keyring, issuer_of(connection)
        stream = await self._services.streams.open(
            node_id,
            incarnation,
            after,
            known_at=known_at,
            trust=trust,
            is_believed=partial(keyring.is_believed, issuer),
        )
        take = partial(self._take_line, node_id)
        lines = Lines(take, connection.abort, self._clock)
        reader = StreamConnection(stream, lines.feed)
        headers = {telemetry.HEADER: str(telemetry.VERSION), acks.HEADER: str(acks.VERSION)}
        return Afterwards(NetmapStream(reader, connection.hand_over, headers))

    async def ack(self, request: Request) -> Response:
        """A node says what its data plane has loaded."""
        node_id = self._node(request)
        await self._check_restored(request, node_id)
        body = await _decoded(request, wire.AckRequest)
        _check_digests(body.digests)
        if self._services.netmaps.removed_why(node_id) is not None:
            # What this replica has in memory may be behind, and "removed" is for good.
            await self._services.registry.known_at(node_id)
        self._loaded(node_id, body)
        return Response(status_code=204)

    def _take_line(self, node_id: str, line: bytes) -> None:
        """Take a line that came up a node's stream: an acknowledgement, or a report."""
        if not line.startswith(acks.BEGINS):
            self._services.telemetry.take(node_id, line)
            return
        try:
            ack = acks.decode(line)
            _check_digests(ack.digests)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, Invalid) as error:
            log.debug("an acknowledgement can't be read node=%s reason=%s", node_id, error)
            return
        self._loaded(node_id, ack)

    def _loaded(self, node_id: str, ack: wire.AckRequest) -> None:
        refused = ack.refused[:_REASON_MAX]
        if refused:
            log.warning(
                "netmap refused node=%s revision=%d reason=%s", node_id, ack.revision, refused
            )
        self._services.presence.loaded(
            node_id,
            ack.revision,
            ack.digests,
            refused,
            trust=ack.trust[:_DIGEST_MAX],
            issuer=ack.issuer[:_DIGEST_MAX],
        )

    async def renew(self, request: Request) -> Response:
        """A node gets a new certificate, also one that was away for long: no node is locked
        out for having been switched off while it is one of ours."""
        connection = connection_of(request)
        try:
            node_id = node_of(connection, self._clock(), expired_for_s=RENEWED_UNTIL_S)
        except CertificateRequired as error:
            if error.code == "certificate_expired":
                node_id = node_of(connection, self._clock(), expired_for_s=math.inf)
                await self._services.registry.tell_locked_out(node_id, _address(request))
            raise
        with self._renewals.taken(node_id, "renewals"):
            return await self._renew(node_id, request)

    async def _renew(self, node_id: str, request: Request) -> Response:
        await self._check_restored(request, node_id)
        connection = connection_of(request)
        is_retired = not self._is_believed(connection)
        body = await _decoded(request, wire.RenewRequest)
        certificate = await self._services.enrolment.renew(
            node_id, body.certificate_request, control_key_of(connection), is_retired=is_retired
        )
        return _answer(wire.RenewAnswer(certificate, self._services.enrolment.ca))

    async def reassert(self, request: Request) -> Response:
        """A node says what netmap it holds, to a cluster that was restored from a backup."""
        node_id, connection = self._node(request), connection_of(request)
        body = await _decoded(request, reassertion.ReassertRequest)
        wanted = await self._services.reassertions.take(
            node_id, control_key_of(connection), issued_at_of(connection), body
        )
        return _answer(reassertion.ReassertAnswer(wanted))

    async def reassert_vsubnet(self, request: Request) -> Response:
        """A node shows a document that it was asked for."""
        node_id = self._node(request)
        if not self._services.restoration.takes_reassertions:
            raise Invalid("the cluster was not restored of late: nothing is to be shown")
        async with self._showing:
            body = await _decoded(request, reassertion.ReassertedVSubnet, DOCUMENT_MAX_OCTETS)
            issued_at = issued_at_of(connection_of(request))
            await self._services.reassertions.take_vsubnet(node_id, issued_at, body)
        return Response(status_code=204)

    async def copy(self, request: Request) -> Response:
        """A machine that was turned away as a copy of a node becomes a node of its own."""
        original = self._node(request, expired_for_s=RENEWED_UNTIL_S)
        await self._check_restored(request, original)
        body = await _decoded(request, wire.CopyRequest)
        _check_protocol(body.protocol)
        duplicates = self._services.duplicates
        return self._enrolled(await duplicates.admit(original, _newcomer(body), _address(request)))

    async def become(self, request: Request) -> Response:
        """A copy takes up the identity that an operator gave it."""
        node_id = self._node(request, expired_for_s=RENEWED_UNTIL_S)
        await self._check_restored(request, node_id)
        body = await _decoded(request, wire.RenewRequest)
        duplicates = self._services.duplicates
        return self._enrolled(await duplicates.become(node_id, body.certificate_request))

    async def leave(self, request: Request) -> Response:
        """A node leaves for good."""
        node_id = self._node(request)
        await self._check_restored(request, node_id)
        body = await _decoded(request, wire.LeaveRequest)
        control_key = control_key_of(connection_of(request))
        await self._services.registry.leave(
            node_id, body.reason[:200], _address(request), control_key
        )
        return Response(status_code=204)

    async def gateway_beat(self, request: Request) -> Response:
        """A gateway lives: it is told who forwards for its segments, and for how long."""
        node_id = await self._gateway(request)
        body = await _decoded(request, gateway.GatewayBeat)
        return _answer(await self._services.election.beat(node_id, body))

    async def gateway_release(self, request: Request) -> Response:
        """A gateway has closed its gate for good, in this term."""
        node_id = await self._gateway(request)
        body = await _decoded(request, gateway.ReleaseRequest)
        await self._services.election.release(node_id, body.segment, body.term)
        return Response(status_code=204)

    async def gateway_event(self, request: Request) -> Response:
        """A gateway has something for the operators' log."""
        node_id = await self._gateway(request)
        body = await _decoded(request, gateway.GatewayEvent)
        await self._services.lan_reports.event(node_id, body, _address(request))
        return Response(status_code=204)

    async def gateway_stations(self, request: Request) -> Response:
        """The forwarder says which machines have come to its LAN or gone."""
        node_id = await self._gateway(request)
        body = await _decoded(request, gateway.StationReport, STATIONS_MAX_OCTETS)
        await self._services.lan_reports.stations(node_id, body, _address(request))
        return Response(status_code=204)

    async def gateway_preflight(self, request: Request) -> Response:
        """A node says what it heard on a port that it was asked to listen to."""
        node_id = await self._gateway(request)
        body = await _decoded(request, gateway.PreflightReport, STATIONS_MAX_OCTETS)
        await self._services.preflights.take(node_id, body)
        return Response(status_code=204)

    async def appliance_telemetry(
        self,
        request: Request,
        instance: str = Query("", max_length=64),
        after: int = Query(0, ge=0),
    ) -> Response:
        """Another appliance wants to know what the nodes report that are linked to this one."""
        self._check_appliance(request)
        octets = self._services.telemetry.since(instance, after)
        headers = {"content-encoding": "gzip"}
        packed = await asyncio.to_thread(gzip.compress, octets, 1)
        return Response(packed, media_type="application/json", headers=headers)

    async def appliance_stream(
        self, request: Request, node: str = Query(max_length=64)
    ) -> Response:
        """Another appliance wants to know whether a node's stream that is open here lives."""
        self._check_appliance(request)
        return _answer({"answers": await self._services.streams.answers(node) is True})

    async def appliance_update(self, request: Request) -> Response:
        """Another appliance takes the update that was uploaded here."""
        self._check_appliance(request)
        if self._updates is None:
            raise NotFound("no update lies on this appliance", "upload it")
        return KeptResponse(self._updates.open())

    def _check_appliance(self, request: Request) -> None:
        connection = connection_of(request)
        appliance_of(connection, self._clock())
        if not self._is_believed(connection):
            raise CertificateRequired("the certificate is of an authority that was replaced")

    async def healthz(self, request: Request) -> Response:
        """The process is alive."""
        return _answer({"alive": True})

    async def readyz(self, request: Request) -> Response:
        """The store answers with a quorum, and netmaps can be served."""
        self._services.streams.check_open()
        try:
            await self._services.store.get(keys.CLUSTER_INFO)
        except StoreError as error:
            raise Unavailable("the store gives no answer in time") from error
        if not self._services.streams.is_loaded:
            raise Unavailable("the netmaps are not loaded yet")
        return _answer({"ready": True})

    def _enrolled(self, credentials: Credentials) -> Response:
        cluster = self._services.cluster
        return _answer(
            wire.EnrolAnswer(
                state="approved" if credentials.state == "approved" else "pending",
                cluster_id=cluster.id,
                certificate=credentials.certificate,
                ca=credentials.ca,
                map_key=self._services.keyring.map_key.public,
                appliances=list(cluster.appliances),
                generation=credentials.generation,
            )
        )

    async def _gateway(self, request: Request) -> str:
        """Return the node that asks; what it may speak of is what the map gives it."""
        node_id = self._node(request)
        await self._check_restored(request, node_id)
        self._services.streams.check_open()
        if not self._services.streams.is_loaded:
            raise Unavailable("the netmaps are not loaded yet")
        return node_id

    async def _check_restored(self, request: Request, node_id: str) -> None:
        """Raise Restoring where a restored cluster has to hear the node before it answers."""
        issued_at = issued_at_of(connection_of(request))
        await self._services.reassertions.check(node_id, issued_at)

    def _node(self, request: Request, *, expired_for_s: float = 0.0) -> str:
        connection = connection_of(request)
        node_id = node_of(connection, self._clock(), expired_for_s=expired_for_s)
        if not self._is_believed(connection):
            # The code is the one for which an agent of any version renews by itself.
            raise CertificateRequired(
                "the client certificate is of an authority that was replaced",
                "the agent renews it by itself; leave and join again if it doesn't",
                code="certificate_expired",
            )
        return node_id

    def _is_believed(self, connection: Connection) -> bool:
        """True unless the certificate's authority was retired; TLS knows only those two kinds."""
        return self._services.keyring.is_believed(issuer_of(connection))


async def _decoded(request: Request, kind: type[T], octets_max: int = BODY_MAX_OCTETS) -> T:
    body = await _bounded_body(request, octets_max)
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"the body is not a {kind.__name__}: {error}", code="invalid_body") from error


async def _bounded_body(request: Request, octets_max: int) -> bytes:
    """Return the body; refuse one that is too long before it is read, or while it is."""
    body = bytearray()
    announced = request.headers.get("content-length", "")
    is_short = not announced.isdecimal() or int(announced[:12]) <= octets_max
    if is_short:
        try:
            async with asyncio.timeout(BODY_WITHIN_S):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > octets_max:
                        break
        except TimeoutError as error:
            raise HTTPException(408, "the request took too long to come") from error
        except ClientDisconnect as error:
            raise HTTPException(400, "the connection ended within the request") from error
    if not is_short or len(body) > octets_max:
        raise HTTPException(413, f"a request has at most {octets_max} octets")
    return bytes(body)


def _check_digests(digests: dict[str, str]) -> None:
    """Refuse what no agent of ours acknowledges: it is kept, and told to the other replicas."""
    fits = len(digests) <= _DIGESTS_MAX and all(
        (key == "node" or (key.isdecimal() and len(key) <= 8)) and len(digest) <= _DIGEST_MAX
        for key, digest in digests.items()
    )
    if not fits:
        raise Invalid("the acknowledgement names what is no document", code="invalid_body")


def _answer(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")


def _address(request: Request) -> str:
    return request.client.host if request.client else ""


def _newcomer(body: wire.EnrolRequest | wire.CopyRequest) -> Newcomer:
    return Newcomer(
        node=body.node_id,
        name=body.name,
        certificate_request=body.certificate_request,
        data_public_key=body.data_public_key,
        facts=_facts(body.facts),
        agent_version=body.agent_version,
    )


def _facts(facts: wire.Facts) -> Facts:
    return Facts(**msgspec.structs.asdict(facts)).clipped()


def _check_protocol(protocol: int) -> None:
    """Refuse what is more than one protocol away; unknown fields make up for one."""
    if abs(protocol - wire.PROTOCOL) > 1:
        older = "the agent" if protocol < wire.PROTOCOL else "the appliances"
        raise Invalid(
            f"the agent speaks protocol {protocol}, this appliance {wire.PROTOCOL}, and they may "
            "be one apart at most",
            f"update {older} first (docs/operate.md, Upgrading); traffic goes on meanwhile",
            code="protocol_not_supported",
        )
