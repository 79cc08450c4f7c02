"""The settings file of one appliance: `settings.toml` in its data directory.

Written once by `init`; a person may edit it. What is shared by the cluster is in the store.
"""

from __future__ import annotations

import ipaddress
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from cairn_appliance.domain.errors import CairnError

FILE_NAME = "settings.toml"
AGENT_PORT = 8002
OPS_PORT = 8443
LOOPBACK = "127.0.0.1"
AGENT_CERTIFICATE_S = 30 * 86_400.0

_HOST_NAME = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9-]{1,63}(?<!-))*")


class SettingsError(CairnError):
    """The settings can't be used."""

    code = "settings"


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one appliance is told by its settings file."""

    addresses: list[str]  # host or host:port at which agents reach this appliance
    agent_port: int = AGENT_PORT  # TCP, all interfaces
    ops_port: int = OPS_PORT  # TCP, all interfaces
    heartbeat_s: float = 15.0
    cluster_address: str = LOOPBACK  # IP at which the other appliances reach this one's etcd
    etcd_client_port: int = 2379  # on 127.0.0.1 and the cluster address
    etcd_peer_port: int = 2380  # on the cluster address
    etcd_metrics_port: int = 2381  # on 127.0.0.1
    agent_certificate_s: float = AGENT_CERTIFICATE_S  # life of what nodes are given
    etcd_quota_mib: int = 2048  # of the store; the same at each appliance
    backup_every_s: float = 180.0  # where something happened; 0: only when asked for
    backup_dir: str = ""  # where backups are written; empty: backups/ in the data directory
    packages_dir: str = "/usr/share/cairn/packages"  # of the agent, for new nodes; may be missing
    backups_kept: int = 72  # on this appliance at most (domain/backup.py)

    def appliances(self) -> tuple[str, ...]:
        """Return the addresses as host:port, for tokens and netmaps."""
        pairs = (split_address(address, self.agent_port) for address in self.addresses)
        return tuple(join_address(host, port) for host, port in pairs)

    def operations(self) -> tuple[str, ...]:
        """Return host:port of the operations API at each address."""
        return tuple(join_address(host, self.ops_port) for host in self.hosts())

    @property
    def peer_url(self) -> str:
        """Where the etcds of the other appliances reach this one's."""
        return f"https://{join_address(self.cluster_address, self.etcd_peer_port)}"

    @property
    def client_url(self) -> str:
        """Where the other appliances reach this one's etcd as clients."""
        return f"https://{join_address(self.cluster_address, self.etcd_client_port)}"

    def hosts(self) -> tuple[str, ...]:
        """Return the addresses without port, for certificates."""
        return tuple(split_address(address, self.agent_port)[0] for address in self.addresses)


def split_address(text: str, default_port: int) -> tuple[str, int]:
    """Return host and port of `192.0.2.1`, `192.0.2.1:9`, `2001:db8::1`, `[2001:db8::1]:9`
    or `name:9`; raise SettingsError.
    """
    bracketed = re.fullmatch(r"\[([^\]]+)\](?::(\d{1,5}))?", text)
    plain = re.fullmatch(r"([^:\[\]]+)(?::(\d{1,5}))?", text)
    match = bracketed or plain
    host = match[1] if match else text
    port = int(match[2]) if match and match[2] else default_port
    if not 0 < port < 65536 or not _is_host(host) or (bracketed and ":" not in host):
        raise SettingsError(
            f"{text!r} is not an address",
            remedy="give HOST or HOST:PORT; an IPv6 address with a port goes in brackets",
        )
    return host, port


def join_address(host: str, port: int) -> str:
    """Return host:port, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def read(data_dir: Path) -> Settings:
    """Return the settings of a data directory; raise SettingsError."""
    path = data_dir / FILE_NAME
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError as error:
        raise SettingsError(
            f"{data_dir} is not the data directory of an appliance: it has no {FILE_NAME}",
            remedy="run `cairn-appliance init --data-dir DIR --address HOST` first",
        ) from error
    except OSError as error:
        raise SettingsError(
            f"{path} can't be read: {error.strerror}",
            remedy="run as the user that owns the data directory, or correct its permissions",
        ) from error
    except ValueError as error:
        raise SettingsError(f"{path}: {error}", remedy=f"correct {path}") from error
    settings = parse(text, str(path))
    check(settings)
    return settings


def parse(text: str, place: str) -> Settings:
    """Return what the text of a settings file says, not checked; raise SettingsError."""
    try:
        return msgspec.convert(tomllib.loads(text), Settings)
    except (ValueError, msgspec.ValidationError) as error:
        raise SettingsError(f"{place}: {error}", remedy=f"correct {place}") from error


def check(settings: Settings) -> None:
    """Raise SettingsError for values that can't work."""
    if not settings.addresses:
        raise SettingsError("no address is given", remedy="name at least one in `addresses`")
    settings.appliances()
    _check_cluster_address(settings.cluster_address)
    ports = dict(_ports(settings))
    for name, port in ports.items():
        if not 0 < port < 65536:
            raise SettingsError(f"{name} = {port} is no port", remedy="use 1 to 65535")
    if len(set(ports.values())) != len(ports):
        raise SettingsError("two ports are the same", remedy="give each *_port its own")
    if not 0.1 <= settings.heartbeat_s <= 3600:
        raise SettingsError(
            f"heartbeat_s = {settings.heartbeat_s} is out of range", remedy="use 0.1 to 3600"
        )
    if not 16 <= settings.etcd_quota_mib <= 8192:
        raise SettingsError(
            f"etcd_quota_mib = {settings.etcd_quota_mib} is out of range", remedy="use 16 to 8192"
        )
    if not 10 <= settings.agent_certificate_s <= 366 * 86_400:
        raise SettingsError(
            f"agent_certificate_s = {settings.agent_certificate_s} is out of range",
            remedy="use 10 seconds to a year (31622400); a day (86400) and more is sensible",
        )
    if not Path(settings.packages_dir).is_absolute():
        raise SettingsError(
            f"packages_dir = {settings.packages_dir!r} is no absolute path",
            remedy="write it from / on",
        )
    _check_backups(settings)


def _check_backups(settings: Settings) -> None:
    if settings.backup_every_s and not 60 <= settings.backup_every_s <= 31 * 86_400:
        raise SettingsError(
            f"backup_every_s = {settings.backup_every_s} is out of range",
            remedy="use 60 seconds to 31 days (2678400), or 0 for none by themselves",
        )
    if settings.backups_kept < 2:
        raise SettingsError(
            f"backups_kept = {settings.backups_kept} is too few", remedy="keep 2 or more"
        )
    if settings.backup_dir and not Path(settings.backup_dir).is_absolute():
        raise SettingsError(
            f"backup_dir = {settings.backup_dir!r} is no absolute path",
            remedy="write it from / on, or leave it empty",
        )


def _check_cluster_address(text: str) -> None:
    """An address, not a name: etcd listens on it, and certificates are made for it."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError as error:
        raise SettingsError(
            f"cluster_address = {text!r} is no IP address",
            remedy="give the IP address of this machine at which the other appliances reach it",
        ) from error
    if address.is_unspecified or address.is_multicast or getattr(address, "scope_id", None):
        raise SettingsError(
            f"cluster_address = {text!r} can't be reached by others",
            remedy="give one address of this machine, without a zone",
        )


def to_toml(settings: Settings) -> str:
    """Return the text of the file."""
    lines = ["# Settings of this Cairn appliance; restart it after a change."]
    for name, value in msgspec.structs.asdict(settings).items():
        # A JSON string, number or list of strings is the same in TOML.
        lines.append(f"{name} = {msgspec.json.encode(value).decode()}")
    return "\n".join(lines) + "\n"


def _ports(settings: Settings) -> Iterator[tuple[str, int]]:
    for name, value in msgspec.structs.asdict(settings).items():
        if name.endswith("_port"):
            yield name, value


def _is_host(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return bool(_HOST_NAME.fullmatch(host)) and not re.fullmatch(r"[0-9.]+", host)
    return True
