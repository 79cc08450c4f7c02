"""`cairn-appliance run`: builds everything, starts it, and ends it in order."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Coroutine
from pathlib import Path
from socket import socket
from typing import Any

from cairn_appliance.api.agent_v1 import app as agent_api
from cairn_appliance.api.client_certificate import CertificateProtocol, server_context
from cairn_appliance.api.ops_v1 import app as ops_api
from cairn_appliance.cluster import bootstrap
from cairn_appliance.cluster.bootstrap import Local, Secrets
from cairn_appliance.cluster.errors import LocalStateUnusable
from cairn_appliance.cluster.etcd_binary import find_etcd
from cairn_appliance.cluster.etcd_process import EtcdProcess, client_tls
from cairn_appliance.domain.cluster import Cluster
from cairn_appliance.pki.authority import utc_now
from cairn_appliance.services.housekeeping import keep_house
from cairn_appliance.services.services import Services, build
from cairn_appliance.serving import Server, listening, server
from cairn_appliance.settings import Settings
from cairn_appliance.store import keys, records
from cairn_appliance.store.etcd import EtcdStore
from cairn_appliance.store.port import Compare, Conflict, Put, Store

log = logging.getLogger(__name__)

_RENEWAL_LOOKED_AT_EVERY_S = 12 * 3600.0
# After the signal: to end in order; then to be cut off; stopping etcd comes on top (STOP_S).
_END_S = 5.0
_CUT_OFF_S = 1.0


async def run(data_dir: Path) -> None:
    """Run the appliance until SIGTERM or SIGINT; raise CairnError where it can't.

    It ends within ten seconds of the signal, whatever hangs: the store, a client, etcd.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    local = bootstrap.load(data_dir)
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
    await etcd.start()
    async with asyncio.TaskGroup() as outer:
        supervising = outer.create_task(etcd.supervise(), name="supervise etcd")
        store = EtcdStore([local.etcd_endpoint], client_tls(local))
        try:
            appliance = await Appliance.load(local, store)
            await appliance.serve(stop, agent_sockets, ops_sockets)
        finally:
            await store.close()
            supervising.cancel()  # it stops etcd


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

    def __init__(self, local: Local, secrets: Secrets, services: Services) -> None:
        self._local = local
        self._secrets = secrets
        self._services = services
        self._context = server_context(
            local.pki("api.pem"), local.pki("api-key.pem"), local.pki("ca.pem")
        )

    @classmethod
    async def load(cls, local: Local, store: Store) -> Appliance:
        """Return the appliance as its disk and the store describe it."""
        secrets = await bootstrap.load_secrets(store, local)
        cluster = await current_cluster(store, local.settings)
        if bootstrap.renew_api_certificate(local, secrets.authority, utc_now()):
            log.info("certificate of the APIs renewed")
        services = build(
            store=store,
            cluster=cluster,
            authority=secrets.authority,
            sealer=local.sealer,
            sign=secrets.map_key.sign,
            replica=local.member,
            certificate_days=local.settings.agent_certificate_s / 86_400,
        )
        return cls(local, secrets, services)

    async def serve(
        self, stop: asyncio.Event, agent_sockets: list[socket], ops_sockets: list[socket]
    ) -> None:
        """Serve both APIs until `stop`; streams are told to go elsewhere first."""
        services = self._services
        async with asyncio.TaskGroup() as background:
            work = [
                background.create_task(services.streams.run(), name="serve netmaps"),
                background.create_task(services.presence.share(), name="share presence"),
                background.create_task(self._keep_house(), name="keep house"),
                background.create_task(self._renew_certificates(), name="renew certificates"),
            ]
            async with asyncio.TaskGroup() as servers:
                servers.create_task(self._agent_server().run_until(stop, agent_sockets))
                servers.create_task(self._ops_server().run_until(stop, ops_sockets))
                log.info(
                    "appliance serves cluster=%s agent_port=%d ops_port=%d",
                    services.cluster.id,
                    self._local.settings.agent_port,
                    self._local.settings.ops_port,
                )
                await stop.wait()
                log.info("appliance ends streams=%d", services.streams.count)
                services.streams.close()
            for task in work:
                task.cancel()

    def _agent_server(self) -> Server:
        answers = agent_api.Answers(map_key=self._secrets.map_key.public)
        app = agent_api.create_app(self._services, answers)
        return server(app, self._context, CertificateProtocol, lifespan=False)

    def _ops_server(self) -> Server:
        ca = self._secrets.authority.certificate.decode()
        app = ops_api.create_app(self._services, ca=ca)
        return server(app, self._context, CertificateProtocol, lifespan=True)

    async def _keep_house(self) -> None:
        services = self._services
        await keep_house(services.vsubnets, services.nodes, services.tokens, services.events)

    async def _renew_certificates(self) -> None:
        """Renew what this appliance shows; new connections get the new certificate."""
        while True:
            await asyncio.sleep(_RENEWAL_LOOKED_AT_EVERY_S)
            try:
                bootstrap.renew_etcd_certificates(self._local, utc_now())
                authority = self._secrets.authority
                if bootstrap.renew_api_certificate(self._local, authority, utc_now()):
                    paths = self._local.pki("api.pem"), self._local.pki("api-key.pem")
                    self._context.load_cert_chain(*paths)
            except LocalStateUnusable as error:
                log.error("certificates were not renewed reason=%s", error)  # noqa: TRY400


async def current_cluster(store: Store, settings: Settings) -> Cluster:
    """Return the cluster, after this appliance's settings were written into it if they changed.

    Ends because each conflict means that another replica has written its own.
    """
    while True:
        item = await store.get(keys.CLUSTER_INFO)
        if item is None:
            raise LocalStateUnusable(
                "the store has no cluster", remedy="restore the data directory from a backup"
            )
        cluster = records.clusters.decode(item)
        wanted = Cluster(
            cluster.id, cluster.incarnation, settings.appliances(), settings.heartbeat_s
        )
        if wanted == cluster:
            return cluster
        try:
            put = Put(item.key, records.clusters.encode(wanted))
            await store.commit([Compare(item.key, item.revision)], [put])
        except Conflict:
            continue
        return wanted
