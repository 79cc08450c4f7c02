"""`cairn-appliance run`: builds everything, starts it, and ends it in order."""

from __future__ import annotations

import asyncio
import logging
import signal
import ssl
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import partial
from pathlib import Path
from socket import socket
from typing import Any

from cairn_agent.protocol.enrolment import PROTOCOL

from cairn_appliance import __version__
from cairn_appliance import settings as settings_file
from cairn_appliance.api.agent_v1 import app as agent_api
from cairn_appliance.api.agent_v1.packages import Packages
from cairn_appliance.api.agent_v1.stream import Unwound
from cairn_appliance.api.client_certificate import CertificateProtocol, server_context
from cairn_appliance.api.console import Console, find_console
from cairn_appliance.api.ops_v1 import app as ops_api
from cairn_appliance.api.ops_v1.matrix import LONG
from cairn_appliance.api.quorum_guard import QuorumGuard
from cairn_appliance.api.waiting import wait_for_quorum
from cairn_appliance.cluster import bootstrap
from cairn_appliance.cluster.appliance_client import ApplianceClient
from cairn_appliance.cluster.audit_files import AuditFiles
from cairn_appliance.cluster.backup_shelf import shelf_of
from cairn_appliance.cluster.bootstrap import Local
from cairn_appliance.cluster.errors import LocalStateUnusable
from cairn_appliance.cluster.etcd_binary import find_etcd
from cairn_appliance.cluster.etcd_process import EtcdProcess, client_tls
from cairn_appliance.cluster.members import EtcdMembers
from cairn_appliance.cluster.own_machine import OwnMachine
from cairn_appliance.cluster.own_member import (
    OwnMember,
    check_not_removed,
    removed_from_cluster,
)
from cairn_appliance.cluster.self_watch import SelfWatch
from cairn_appliance.cluster.stream_questions import StreamQuestions
from cairn_appliance.cluster.telemetry_exchange import TelemetryExchange
from cairn_appliance.cluster.update_fetch import fetch
from cairn_appliance.domain import cluster as domain
from cairn_appliance.domain.cluster import Cluster
from cairn_appliance.pki.authority import utc_now
from cairn_appliance.services.announcement import Announcement
from cairn_appliance.services.backups import Backups, Source
from cairn_appliance.services.clock import wall_clock
from cairn_appliance.services.commit import until_committed
from cairn_appliance.services.formats import check_readable
from cairn_appliance.services.housekeeping import keep_house
from cairn_appliance.services.membership import Membership, OwnSigns
from cairn_appliance.services.quorum import Quorum
from cairn_appliance.services.services import Services, build
from cairn_appliance.services.stored import Stored, read, read_all
from cairn_appliance.services.updates import Updates
from cairn_appliance.services.upgrading import back_up_first
from cairn_appliance.services.upkeep import Upkeep
from cairn_appliance.serving import Server, listening, server, shared
from cairn_appliance.settings import Settings
from cairn_appliance.store import keys, records
from cairn_appliance.store.connection import Backoff
from cairn_appliance.store.etcd import EtcdStore
from cairn_appliance.store.port import Compare, Put, Store, Unavailable
from cairn_appliance.store.snapshots import Snapshots

log = logging.getLogger(__name__)

_RENEWAL_LOOKED_AT_EVERY_S = 60.0  # soon after a clock was put right, too
_KEYS_LOOKED_AT_EVERY_S = 1.0
# After the signal: to end in order; then to be cut off; stopping etcd comes on top (STOP_S).
_END_S = 6.0
_CUT_OFF_S = 1.0
_WAITED_IN_SILENCE_S = 3.0  # for the store, before the ports say that there is no quorum
# What is answered without a quorum: it needs none, or says what is known without one.
_OPEN_PATHS = frozenset(
    {
        "/healthz",
        "/metrics",
        "/api/v1/ca",
        "/api/v1/openapi.json",
        "/api/v1/docs",
        "/api/v1/status",
        "/api/v1/session",
        "/api/v1/cluster",
        "/api/v1/cluster/update/file",  # minutes long: a pause of the store must not end it
    }
)


async def run(data_dir: Path, *, without_backup: bool = False) -> None:
    """Run the appliance until SIGTERM or SIGINT; raise CairnError where it can't.

    It ends within ten seconds of the signal, whatever hangs: the store, a client, etcd.
    `without_backup`: a new version may begin also where none can be made.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    local = replace(bootstrap.load(data_dir), without_backup=without_backup)
    binary = find_etcd()
    agent_sockets = listening(local.settings.agent_port, "agent API")
    ops_sockets = listening(local.settings.ops_port, "operations API")
    bootstrap.renew_etcd_certificates(local, utc_now())
    etcd = EtcdProcess(local, binary)
    try:
        await _until_ended(_run(local, etcd, stop, agent_sockets, ops_sockets), stop)
    finally:
        await etcd.stop()
    log.info("appliance ended")


async def _run(
    local: Local,
    etcd: EtcdProcess,
    stop: asyncio.Event,
    agent_sockets: list[socket],
    ops_sockets: list[socket],
) -> None:
    if local.others():
        await etcd.begin()  # how it is depends on the others: nothing to wait for
    else:
        await etcd.start()
    async with asyncio.TaskGroup() as outer:
        supervising = outer.create_task(etcd.supervise(), name="supervise etcd")
        removal = outer.create_task(_stop_when_removed(etcd, stop), name="see a removal")
        store = EtcdStore(local.endpoints, client_tls(local))
        try:
            appliance = await _loaded(local, store, etcd, stop, agent_sockets, ops_sockets)
            if appliance is not None:
                await appliance.serve(stop, agent_sockets, ops_sockets)
        finally:
            await store.close()
            removal.cancel()
            supervising.cancel()  # it stops etcd
    if etcd.removed.is_set():
        raise removed_from_cluster(local)


async def _stop_when_removed(etcd: EtcdProcess, stop: asyncio.Event) -> None:
    await etcd.removed.wait()
    log.error("this appliance was removed from the cluster and ends")
    stop.set()


async def _loaded(
    local: Local,
    store: EtcdStore,
    etcd: EtcdProcess,
    stop: asyncio.Event,
    agent_sockets: list[socket],
    ops_sockets: list[socket],
) -> Appliance | None:
    """Return the appliance once the store answers; None where `stop` came first.

    Both ports say meanwhile what is missing.
    """
    async with asyncio.TaskGroup() as tasks:
        loading = tasks.create_task(_load(local, store, etcd), name="load")
        stopping = tasks.create_task(stop.wait(), name="stop")
        both = {loading, stopping}
        await asyncio.wait(both, timeout=_WAITED_IN_SILENCE_S, return_when=asyncio.FIRST_COMPLETED)
        if not loading.done() and not stop.is_set():
            log.warning("waits for a quorum: enough of the other appliances have to run")
            over = asyncio.Event()
            context = _context(local)
            for sockets in (agent_sockets, ops_sockets):
                waiting = server(wait_for_quorum, context, CertificateProtocol, lifespan=False)
                tasks.create_task(waiting.run_until(over, shared(sockets)), name="say so")
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            over.set()
        stopping.cancel()
        if not loading.done():
            loading.cancel()
    return None if loading.cancelled() else loading.result()


async def _load(local: Local, store: EtcdStore, etcd: EtcdProcess) -> Appliance:
    backoff = Backoff()
    while True:
        try:
            return await Appliance.load(local, store, etcd)
        except Unavailable as error:
            if not local.others():
                raise
            log.info("the store gives no answer yet reason=%s", error)
        await backoff.wait()


def _context(local: Local) -> ssl.SSLContext:
    return server_context(local.pki("api.pem"), local.pki("api-key.pem"), local.pki("ca.pem"))


async def _until_ended(work: Coroutine[Any, Any, None], stop: asyncio.Event) -> None:
    """Run the work to its end, which it finds by itself after `stop`, or is cut off."""
    working = asyncio.create_task(work, name="appliance")
    stopping = asyncio.create_task(stop.wait(), name="stop")
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait({working}, timeout=_END_S if stop.is_set() else None)
        if not working.done():
            log.warning("what is still under way is cut off")
    finally:
        stopping.cancel()
        working.cancel()
        await asyncio.wait({working}, timeout=_CUT_OFF_S)
    if working.done() and not working.cancelled():
        working.result()


class Appliance:
    """The servers and the background work of one replica."""

    def __init__(
        self, local: Local, services: Services, store: EtcdStore, process: EtcdProcess
    ) -> None:
        self._local = local
        self._services = services
        self._keyring = services.keyring
        self._shown = self._keyring.trust  # as which the files and the context have the keys
        self._shown_issuer = self._keyring.authority.key_id
        self._context = _context(local)
        self._etcd = EtcdMembers(store.endpoints)
        snapshot = services.netmaps.snapshot
        self._watch = SelfWatch(local, process, snapshot.appliances_by_name)
        self._membership = Membership(
            store,
            self._etcd,
            lambda: services.cluster,
            lambda: self._keyring.authority.pin,
            lambda: bootstrap.shared_keys(local),
            signs=lambda: OwnSigns(local.member, self._announcement.signs),
            backup_every_s=local.settings.backup_every_s,
        )
        self._backups = _backups(local, store, lambda: services.cluster)
        self._own_member = OwnMember(
            local,
            self._etcd,
            store.endpoints,
            self._membership.joined,
            lambda: self._watch.is_slow,
        )
        self._announcement = Announcement(
            store,
            described(local),
            issuer=lambda: self._shown_issuer,
            signs=lambda: (*self._watch.signs, *services.audit.signs),
        )
        self._quorum = Quorum(
            store,
            self._has_others,
            self._send_away,
            self._etcd.are_together,
            signs=lambda: self._watch.signs,
        )
        self._client = ApplianceClient(self._keyring)
        self._updates = Updates(
            store,
            local.member,
            OwnMachine(),
            self._membership,
            self._backups,
            partial(fetch, self._client),
            self._own_member.leads,
        )
        self._exchange = TelemetryExchange(
            services.telemetry, self._keyring, local.member, snapshot.appliances_by_name
        )
        self._questions = StreamQuestions(self._keyring, snapshot.appliances_by_name)
        services.liveness.ask = self._questions.answers
        self._upkeep = Upkeep(
            store, self._etcd, local.member, self._membership.fence, lambda: self._watch.is_slow
        )

    @classmethod
    async def load(cls, local: Local, store: EtcdStore, process: EtcdProcess) -> Appliance:
        """Return the appliance as its disk and the store describe it."""
        etcd = EtcdMembers(store.endpoints)
        try:
            await check_not_removed(local, etcd)
        finally:
            await etcd.close()
        keyring = await bootstrap.load_secrets(store, local)
        await check_readable(store)  # before anything is written
        await _back_up_first(local, store)
        await Announcement(store, described(local)).announce_once()
        cluster = await current_cluster(store, local.settings)
        if bootstrap.renew_api_certificate(local, keyring, utc_now()):
            log.info("certificate of the APIs renewed")
        services = build(
            store=store,
            cluster=cluster,
            keyring=keyring,
            sealer=local.sealer,
            replica=local.member,
            certificate_days=local.settings.agent_certificate_s / 86_400,
            audit_files=AuditFiles(local.data_dir),
        )
        await services.restoration.load()
        return cls(local, services, store, process)

    async def serve(
        self, stop: asyncio.Event, agent_sockets: list[socket], ops_sockets: list[socket]
    ) -> None:
        """Serve both APIs until `stop`; streams and the lead go elsewhere first."""
        services = self._services
        drained = asyncio.Event()
        async with asyncio.TaskGroup() as background:
            work = [
                background.create_task(services.streams.run(), name="serve netmaps"),
                background.create_task(services.presence.share(), name="share presence"),
                background.create_task(self._announcement.run(), name="announce"),
                background.create_task(services.reassertions.run(), name="hear nodes"),
                background.create_task(self._quorum.run(), name="watch the quorum"),
                background.create_task(self._own_member.run(), name="keep the membership"),
                background.create_task(self._upkeep.run(), name="keep the store small"),
                background.create_task(self._watch.run(), name="look after itself"),
                background.create_task(self._keep_house(), name="keep house"),
                background.create_task(self._renew_certificates(), name="renew certificates"),
                background.create_task(self._follow_keys(), name="follow the keys"),
                background.create_task(services.rotation.run(), name="replace keys"),
                background.create_task(services.board.run(), name="listen to gateways"),
                background.create_task(services.audit.run(), name="keep the audit"),
                background.create_task(self._exchange.run(), name="read others' reports"),
                background.create_task(services.outputs.run(), name="tell events"),
                background.create_task(self._updates.run(), name="update the image"),
            ]
            if every_s := self._local.settings.backup_every_s:
                making = self._backups.keep_making(every_s, self._own_member.leads)
                work.append(background.create_task(making, name="make backups"))
            async with asyncio.TaskGroup() as servers:
                servers.create_task(self._agent_server().run_until(drained, agent_sockets))
                servers.create_task(self._ops_server().run_until(drained, ops_sockets))
                log.info(
                    "appliance serves cluster=%s agent_port=%d ops_port=%d",
                    services.cluster.id,
                    self._local.settings.agent_port,
                    self._local.settings.ops_port,
                )
                await stop.wait()
                await self._drain()
                drained.set()
            for task in work:
                task.cancel()
        await self._client.close()
        await self._questions.close()
        await self._etcd.close()

    async def _drain(self) -> None:
        """Let the agents and the lead go to the others while requests are still served."""
        streams = self._services.streams
        log.info("appliance ends streams=%d", streams.count)
        streams.close()
        if self._has_others():
            await self._membership.hand_over_lead(self._local.member)

    def _agent_server(self) -> Server:
        app = agent_api.create_app(self._services, packages=self._packages(), updates=self._updates)
        guarded = QuorumGuard(app, self._quorum, _OPEN_PATHS)
        return server(Unwound(guarded), self._context, CertificateProtocol, lifespan=False)

    def _ops_server(self) -> Server:
        packages = self._packages()
        app = ops_api.create_app(
            self._services,
            self._membership,
            self._backups,
            install=packages.command,
            own=self._watch.figures,
            updating=self._updates,
        )
        guarded = QuorumGuard(app, self._quorum, _OPEN_PATHS, LONG)
        return server(
            Console(guarded, find_console()), self._context, CertificateProtocol, lifespan=True
        )

    def _packages(self) -> Packages:
        settings = self._local.settings
        return Packages(
            Path(settings.packages_dir),
            settings.appliances(),
            self._local.pki("api.pem").read_bytes,
        )

    def _has_others(self) -> bool:
        return len(self._services.netmaps.snapshot.appliances) > 1

    def _send_away(self) -> None:
        """Let agents look elsewhere: another appliance may have the quorum."""
        streams = self._services.streams
        log.warning("agents are sent to other appliances streams=%d", streams.count)
        streams.send_away()

    async def _keep_house(self) -> None:
        services = self._services
        await services.restoration.opened()
        await keep_house(
            services.vsubnets,
            services.nodes,
            services.tokens,
            services.events,
            more=(
                self._membership.tidy,
                self._catch_up,
                services.addressing.tidy,
                services.segments.tidy,
                services.election.tidy,
                services.lan_reports.tidy,
                services.preflights.tidy,
                services.telemetry.tidy,
                services.clones.tell,
            ),
        )

    async def _catch_up(self) -> None:
        await self._services.journal.catch_up(self._services.store)

    async def _renew_certificates(self) -> None:
        """Renew what this appliance shows; new connections get the new certificate."""
        while True:
            await asyncio.sleep(_RENEWAL_LOOKED_AT_EVERY_S)
            try:
                bootstrap.renew_etcd_certificates(self._local, utc_now())
                self._renew_api_certificate()
            except LocalStateUnusable as error:
                log.error("certificates were not renewed reason=%s", error)  # noqa: TRY400

    def _renew_api_certificate(self) -> None:
        if bootstrap.renew_api_certificate(self._local, self._keyring, utc_now()):
            paths = self._local.pki("api.pem"), self._local.pki("api-key.pem")
            self._context.load_cert_chain(*paths)

    async def _follow_keys(self) -> None:
        """Show what the cluster's keys of now say, and let in whom they know.

        TLS learns of new authorities only; which of them still count the agent API decides.
        """
        while True:
            await asyncio.sleep(_KEYS_LOOKED_AT_EVERY_S)
            trust = self._keyring.trust
            if trust == self._shown:
                continue
            try:
                self._context.load_verify_locations(cadata=self._keyring.clients)
                self._renew_api_certificate()
            except LocalStateUnusable as error:
                log.error("the new keys can't be shown reason=%s", error)  # noqa: TRY400
                continue
            self._shown, self._shown_issuer = trust, self._keyring.authority.key_id
            log.info("the cluster's keys have changed issuer=%s", self._shown_issuer)


async def _back_up_first(local: Local, store: EtcdStore) -> None:
    cluster = await _known_cluster(store)
    backups = _backups(local, store, lambda: cluster.value)
    await back_up_first(store, backups, __version__, wall_clock(), may_lack=local.without_backup)


def _backups(local: Local, store: EtcdStore, cluster: Callable[[], Cluster]) -> Backups:
    source = Source(
        appliance=local.member,
        kek=lambda: bootstrap.shared_keys(local).kek,
        settings=lambda: settings_file.to_toml(local.settings),
    )
    kept = local.settings.backups_kept
    snapshots = Snapshots(store.endpoints)
    return Backups(store, snapshots, shelf_of(local), cluster, source, kept=kept)


def described(local: Local) -> domain.Appliance:
    """Return what this appliance says of itself."""
    settings = local.settings
    return domain.Appliance(
        local.member,
        settings.appliances(),
        settings.operations(),
        __version__,
        PROTOCOL,
        domain.FORMAT,
    )


async def current_cluster(store: Store, settings: Settings) -> Cluster:
    """Return the cluster, after this appliance's settings were written into it if they changed."""
    cluster = await until_committed(partial(_with_settings, store, settings))
    appliances = await read_all(store, records.appliances, keys.APPLIANCES)
    return cluster.served_by(each.value for each in appliances)


async def _with_settings(store: Store, settings: Settings) -> Cluster:
    cluster = await _known_cluster(store)
    wanted = replace(cluster.value, heartbeat_s=settings.heartbeat_s)
    if wanted != cluster.value:
        put = Put(keys.CLUSTER_INFO, records.clusters.encode(wanted))
        await store.commit([Compare(keys.CLUSTER_INFO, cluster.revision)], [put])
    return wanted


async def _known_cluster(store: Store) -> Stored[Cluster]:
    cluster = await read(store, records.clusters, keys.CLUSTER_INFO)
    if cluster is None:
        raise LocalStateUnusable(
            "the store has no cluster", remedy="restore the data directory from a backup"
        )
    return cluster
