"""What a seed says: how a machine is set up with nobody at its console.

It is the file `user-data` of a NoCloud medium: a first line `#cairn-appliance`, then TOML.
Every field is known and checked before anything is done; docs/install.md describes them.
"""

from __future__ import annotations

import ipaddress
import re
import tomllib
from collections.abc import Mapping
from typing import Literal

import argon2
import msgspec

from cairn_appliance.domain.errors import CairnError
from cairn_appliance.domain.joining import decode as decode_join_string
from cairn_appliance.image.places import OPS_PORT
from cairn_appliance.settings import Settings
from cairn_appliance.settings import check as check_settings

HEADER = "#cairn-appliance"
MOST_OCTETS = 64 * 1024
# What one login may cost an appliance: the hash comes with its own parameters.
_MOST_HASH_KIB = 256 * 1024
_MOST_HASH_PASSES = 10

_HOST_NAME = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)")
_MAC = re.compile(r"([0-9a-f]{2}:){5}[0-9a-f]{2}")


class SeedError(CairnError):
    """The seed can't be used; nothing of it was applied."""

    code = "seed"
    remedy = "correct `user-data` on the medium, then start the machine again"
    exit_code = 2


class Network(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the machine is reached; by DHCP and router advertisements unless it has addresses."""

    mac: str = ""  # of the interface that is meant; all wired ones unless given
    addresses: list[str] = []  # with prefix length
    gateways: list[str] = []
    dns: list[str] = []
    ntp: list[str] = []  # names or addresses

    def hosts(self) -> list[str]:
        """Return the addresses without prefix length."""
        return [str(ipaddress.ip_interface(each).ip) for each in self.addresses]


class System(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What belongs to the machine and is rendered at each boot."""

    hostname: str = "cairn"
    network: Network = msgspec.field(default_factory=Network)


class Cluster(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which cluster it is of; has secrets."""

    action: Literal["create", "join"]
    addresses: list[str] = []  # HOST[:PORT] for nodes; those of the machine unless given
    cluster_address: str = ""
    admin_password_hash: str = ""  # create: of `cairn-appliance hash-password`
    join_string: str = ""  # join: of `cairn cluster join-string`

    def __repr__(self) -> str:
        return f"Cluster(action={self.action!r}, addresses={self.addresses!r})"


class Install(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which disk the installer writes to; the installed system has no use for it."""

    disk: str  # serial number, model or path, with * and ? for what isn't known
    min_gib: int = 0
    max_gib: int = 0
    wipe: bool = False  # also where the disk isn't empty
    then: Literal["poweroff", "restart"] = "poweroff"


class Seed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that a seed may say."""

    schema: Literal[1]
    hostname: str = "cairn"
    network: Network = msgspec.field(default_factory=Network)
    cluster: Cluster | None = None
    install: Install | None = None

    @property
    def system(self) -> System:
        """What is kept of it."""
        return System(self.hostname, self.network)


def parse(text: str) -> Seed:
    """Return what the text of a seed says; raise SeedError for what can't be meant."""
    first, _, rest = text.partition("\n")
    if first.strip() != HEADER:
        hint = " (cloud-init's language is not read)" if first.startswith("#cloud-config") else ""
        raise SeedError(f"the seed's first line is not {HEADER}{hint}")
    try:
        # An empty line in the place of the first, so that positions told are those of the file.
        return convert(tomllib.loads("\n" + rest))
    except tomllib.TOMLDecodeError as error:
        raise SeedError(f"the seed is no TOML: {error}") from error


def convert(document: Mapping[str, object]) -> Seed:
    """Return what a document says; raise SeedError for what can't be meant."""
    try:
        seed = msgspec.convert(document, Seed)
    except msgspec.ValidationError as error:
        raise SeedError(f"the seed: {error}") from error
    check(seed)
    return seed


def check(seed: Seed) -> None:
    """Raise SeedError for values that can't work."""
    if not _HOST_NAME.fullmatch(seed.hostname):
        raise SeedError(f"hostname = {seed.hostname!r} is none: a to z, 0 to 9 and - inside")
    check_network(seed.network)
    if seed.cluster is not None:
        _check_cluster(seed.cluster, seed.network)
    if seed.install is not None and not seed.install.disk.strip():
        raise SeedError("install.disk is empty", 'name the disk, or "*" for the only one')


def check_network(network: Network) -> None:
    """Raise SeedError for a network that would leave the machine unreachable."""
    if network.mac and not _MAC.fullmatch(network.mac):
        raise SeedError(f"network.mac = {network.mac!r} is none", "write it as 52:54:00:12:34:56")
    networks = [_interface(each).network for each in network.addresses]
    for each in network.gateways:
        gateway = _address(each, "network.gateways")
        if not networks:
            raise SeedError("network.gateways without network.addresses", "give both, or neither")
        on_link = any(
            gateway in own for own in networks if own.version == gateway.version
        ) or getattr(gateway, "is_link_local", False)
        if not on_link:
            raise SeedError(f"network.gateways: {each} is in no network of network.addresses")
    for each in network.dns:
        _address(each, "network.dns")
    for each in network.ntp:
        if not re.fullmatch(r"[A-Za-z0-9.:-]{1,253}", each):
            raise SeedError(f"network.ntp: {each!r} is neither a name nor an address")


def settings_for(cluster: Cluster, hosts: list[str]) -> Settings:
    """Return the appliance's settings, at these addresses unless the seed names others."""
    settings = Settings(addresses=cluster.addresses or hosts, ops_port=OPS_PORT)
    if cluster.cluster_address:
        settings = msgspec.structs.replace(settings, cluster_address=cluster.cluster_address)
    return settings


def _check_cluster(cluster: Cluster, network: Network) -> None:
    try:
        check_settings(settings_for(cluster, network.hosts() or ["192.0.2.1"]))
        if cluster.join_string:
            decode_join_string(cluster.join_string)
    except CairnError as error:
        raise SeedError(f"cluster: {error.cause}", error.remedy) from error
    wanted, unwanted = ("admin_password_hash", "join_string")
    if cluster.action == "join":
        wanted, unwanted = unwanted, wanted
    if not getattr(cluster, wanted):
        raise SeedError(f'cluster.action = "{cluster.action}" without cluster.{wanted}')
    if getattr(cluster, unwanted):
        raise SeedError(f'cluster.{unwanted} does not go with cluster.action = "{cluster.action}"')
    if cluster.admin_password_hash:
        check_hash(cluster.admin_password_hash)


def check_hash(text: str) -> None:
    """Raise SeedError unless it is an argon2id string that a login can afford."""
    remedy = "make it with `cairn-appliance hash-password`"
    try:
        asked = argon2.extract_parameters(text)
    except argon2.exceptions.InvalidHash as error:
        raise SeedError("cluster.admin_password_hash is no argon2 hash", remedy) from error
    if asked.type is not argon2.Type.ID:
        raise SeedError("cluster.admin_password_hash is not of the kind argon2id", remedy)
    if asked.memory_cost > _MOST_HASH_KIB or asked.time_cost > _MOST_HASH_PASSES:
        raise SeedError("cluster.admin_password_hash costs more than a login may", remedy)


def _interface(text: str) -> ipaddress.IPv4Interface | ipaddress.IPv6Interface:
    try:
        if "/" not in text:
            raise ValueError("no prefix length")
        return ipaddress.ip_interface(text)
    except ValueError as error:
        raise SeedError(
            f"network.addresses: {text!r} is no address with a prefix length",
            "write it as 192.0.2.10/24",
        ) from error


def _address(text: str, field: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.ip_address(text)
    except ValueError as error:
        raise SeedError(f"{field}: {text!r} is no IP address") from error
