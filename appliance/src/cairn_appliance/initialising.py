"""`cairn-appliance init`: a new cluster of one appliance, whole or not at all."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from cairn_appliance.cluster import bootstrap
from cairn_appliance.cluster.disk import warn_if_slow
from cairn_appliance.cluster.etcd_binary import find_etcd
from cairn_appliance.cluster.etcd_process import (
    EtcdProcess,
    can_listen,
    client_tls,
    listened,
)
from cairn_appliance.domain.access import Role
from cairn_appliance.domain.identity import SYSTEM
from cairn_appliance.pki.authority import utc_now
from cairn_appliance.pki.recovery_key import RecoveryKey
from cairn_appliance.services.backups import first_key
from cairn_appliance.services.passwords import new_password
from cairn_appliance.services.services import Services, build
from cairn_appliance.services.tokens import TokenOrder
from cairn_appliance.services.users import create_user
from cairn_appliance.services.vsubnets import VSubnetOrder, drafted
from cairn_appliance.settings import (
    AGENT_PORT,
    LOOPBACK,
    Settings,
    join_address,
    split_address,
)
from cairn_appliance.store.etcd import EtcdStore
from cairn_appliance.store.port import Store

ADMIN = "admin"
_ETCD_PORTS = ("etcd_client_port", "etcd_peer_port", "etcd_metrics_port")


@dataclass(frozen=True, slots=True)
class Initialised:
    """What the one who made the cluster is told, this once only."""

    cluster_id: str
    ops_url: str
    ca_pin: str  # hex SHA-256 of the cluster's CA certificate
    admin_user: str
    admin_password: str  # drawn; empty where a hash was given
    appliances: tuple[str, ...]
    recovery_key: str  # opens the backups; kept nowhere else
    token: str = ""  # pasteable, where a vSubnet was asked for


async def initialise(
    data_dir: Path,
    settings: Settings,
    first: VSubnetOrder | None = None,
    *,
    admin_password_hash: str = "",
) -> Initialised:
    """Make CA, map key, etcd data and the admin; raise CairnError and leave nothing behind.

    The admin's password is drawn unless the hash of one is given.
    """
    if first:
        drafted(first, 0.0)  # refuse nonsense before anything is started
    settings = with_free_etcd_ports(settings)
    binary = find_etcd()
    with bootstrap.drafting(data_dir) as draft:
        warn_if_slow(draft.path)
        created = bootstrap.create(draft.path, settings, utc_now())
        etcd = EtcdProcess(created.local, binary)
        await etcd.start()
        try:
            store = EtcdStore([created.local.etcd_endpoint], client_tls(created.local))
            try:
                made = await _fill(store, created, first, admin_password_hash)
            finally:
                await store.close()
        finally:
            await etcd.stop()
        draft.publish()
    return made


def with_free_etcd_ports(settings: Settings) -> Settings:
    """Return the settings with other ports for etcd where its usual ones are in use."""
    places = listened(settings)
    if all(can_listen(host, getattr(settings, name)) is None for host, name in places):
        return settings
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in _ETCD_PORTS]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return msgspec.structs.replace(settings, **dict(zip(_ETCD_PORTS, ports, strict=True)))


async def _fill(
    store: Store,
    created: bootstrap.Created,
    first: VSubnetOrder | None,
    admin_password_hash: str,
) -> Initialised:
    await store.commit(*created.first_transaction())
    password = "" if admin_password_hash else new_password()
    await create_user(store, ADMIN, password, Role.ADMIN, password_hash=admin_password_hash)
    recovery_key = RecoveryKey.create()
    compare, put = first_key(recovery_key.public, utc_now().timestamp(), SYSTEM)
    await store.commit([compare], [put])
    local = created.local
    services = build(
        store=store,
        cluster=created.cluster,
        keyring=created.secrets,
        sealer=local.sealer,
        replica=local.member,
    )
    host = split_address(local.settings.addresses[0], local.settings.agent_port)[0]
    return Initialised(
        cluster_id=created.cluster.id,
        ops_url=f"https://{join_address(host, local.settings.ops_port)}",
        ca_pin=created.secrets.authority.pin,
        admin_user=ADMIN,
        admin_password=password,
        appliances=created.cluster.appliances,
        recovery_key=recovery_key.text,
        token=await _first_token(services, first) if first else "",
    )


async def _first_token(services: Services, first: VSubnetOrder) -> str:
    vsubnet = (await services.vsubnets.create(first, SYSTEM)).value
    _, token = await services.tokens.create(TokenOrder(vsubnets=(vsubnet.id,)), SYSTEM)
    return token


def cluster_address_of(addresses: Sequence[str], given: str = "") -> str:
    """Return the address for etcd: the given one, else the first that this machine has.

    A machine that agents reach by a name or through a NAT stays on loopback until it is told.
    """
    if given:
        return given
    for address in addresses:
        host = split_address(address, AGENT_PORT)[0]
        with contextlib.suppress(ValueError):
            if can_listen(str(ipaddress.ip_address(host)), 0) is None:
                return host
    return LOOPBACK


def addresses_of(texts: Sequence[str]) -> list[str]:
    """Return the addresses once each, in order."""
    return list(dict.fromkeys(texts))
