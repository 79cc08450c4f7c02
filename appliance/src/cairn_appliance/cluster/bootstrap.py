"""Makes the keys and files of a new cluster, or of an appliance that joins one; loads them again.

Everything is made in a draft directory beside the data directory, which takes its place by
one rename at the end: an `init` that is interrupted leaves nothing that looks like a cluster.

    settings.toml              for people to edit
    member.json                cluster ID, name of this etcd member, with whom it began
    others.json                where the other members' etcds are, as of late
    kek                        opens what is sealed in the store; 0600, never in etcd
    pki/ca.pem                 the cluster's authorities: the one that issues (its key is sealed
                               in the store) first, then those that clients may come with
    pki/api.pem, api-key.pem   what both APIs show; api.pem ends in the authorities
    pki/etcd-*.pem             etcd's own authority, server, peer and client certificates
    pki/etcd-ca-key.sealed     sealed under the KEK: renews the above before etcd runs
    etcd/, etcd.log            etcd's data directory, 0700
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import msgspec
from cryptography import x509

from cairn_appliance import settings as settings_file
from cairn_appliance.cluster.errors import LocalStateUnusable
from cairn_appliance.cluster.files import PUBLIC, cannot, read_whole, sync_directory, write_whole
from cairn_appliance.domain.cluster import FORMAT, Cluster
from cairn_appliance.domain.errors import Invalid
from cairn_appliance.domain.joining import ClusterKeys, Handover
from cairn_appliance.pki.authority import (
    Authority,
    KeyPair,
    Purpose,
    is_past_half_life,
    issued_by,
)
from cairn_appliance.pki.errors import PkiError, SealBroken
from cairn_appliance.pki.keyring import SECRET_CA, SECRET_MAP_KEY, Keyring, as_secrets
from cairn_appliance.pki.map_key import MapKey
from cairn_appliance.pki.sealing import Sealer, new_kek
from cairn_appliance.settings import Settings
from cairn_appliance.store import keys, records
from cairn_appliance.store.port import Compare, Put, Store

LOOPBACK = ("localhost", "127.0.0.1", "::1")
FIRST_MEMBER = "m1"

_LOCK_NAME = ".lock"
_BEGIN = b"-----BEGIN CERTIFICATE-----"
_ETCD_PURPOSES: dict[str, Purpose] = {
    "etcd-server": "peer",  # etcd dials its own server with this one: client usage is wanted too
    "etcd-peer": "peer",
    "etcd-client": "client",
}


class _MemberFile(msgspec.Struct, frozen=True):
    cluster_id: str
    name: str
    initial_cluster: str = ""  # name=URL,...: the members it began with; empty: alone
    v: int = 1


@dataclass(frozen=True, slots=True)
class Local:
    """What one appliance has on its own disk."""

    data_dir: Path
    cluster_id: str
    member: str
    settings: Settings
    sealer: Sealer
    initial_cluster: str = ""  # name=URL,... of the cluster that it joined; empty: its own
    without_backup: bool = False  # this once a new version may begin where none can be made

    @property
    def etcd_dir(self) -> Path:
        """etcd's data directory."""
        return self.data_dir / "etcd"

    @property
    def etcd_log(self) -> Path:
        """etcd's log file."""
        return self.data_dir / "etcd.log"

    @property
    def etcd_endpoint(self) -> str:
        """host:port of the embedded etcd."""
        return f"127.0.0.1:{self.settings.etcd_client_port}"

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Its own etcd, then those of the other members as far as they were known of late."""
        return (self.etcd_endpoint, *self.others())

    def others(self) -> tuple[str, ...]:
        """host:port of the other members' etcds; a lost or damaged list is read again soon."""
        try:
            return msgspec.json.decode(read_whole(self._others), type=tuple[str, ...])
        except (LocalStateUnusable, msgspec.MsgspecError):
            return ()

    def keep_others(self, endpoints: tuple[str, ...]) -> None:
        """Write down where the other members' etcds are; raise LocalStateUnusable."""
        write_whole(self._others, msgspec.json.encode(endpoints), PUBLIC)

    @property
    def _others(self) -> Path:
        return self.data_dir / "others.json"

    def pki(self, name: str) -> Path:
        """Return the path of a file below pki/."""
        return self.data_dir / "pki" / name


@dataclass(frozen=True, slots=True)
class Created:
    """A new cluster, not in any store yet."""

    local: Local
    secrets: Keyring
    cluster: Cluster

    def first_transaction(self) -> tuple[list[Compare], list[Put]]:
        """Return what puts the cluster into an empty store, its secrets sealed."""
        ring = self.secrets
        writes = [
            Put(keys.CLUSTER_INFO, records.clusters.encode(self.cluster)),
            *as_secrets(self.local.sealer, ring.authority, ring.map_key),
            Put(keys.CLUSTER_FORMAT, str(FORMAT).encode()),
        ]
        return [Compare(write.key, 0) for write in writes], writes


class Draft:
    """A data directory in the making."""

    def __init__(self, path: Path, data_dir: Path, aside: Path | None) -> None:
        self.path = path
        self._data_dir = data_dir
        self._aside = aside

    def publish(self) -> None:
        """Make the draft the data directory, at once and durably; raise LocalStateUnusable."""
        try:
            (self.path / _LOCK_NAME).unlink()
            for directory, _, _ in os.walk(self.path):
                sync_directory(Path(directory))
            if self._aside is not None:
                self._data_dir.rename(self._aside)
            self.path.rename(self._data_dir)  # replaces an empty directory, nothing else
            sync_directory(self._data_dir.parent)
        except OSError as error:
            raise cannot("create", self._data_dir, error) from error


@contextlib.contextmanager
def drafting(data_dir: Path, *, aside: Path | None = None) -> Iterator[Draft]:
    """Yield a draft of a new data directory; without `publish` nothing stays behind.

    Raises LocalStateUnusable where the data directory has something in it already, unless
    it is said where that goes when the draft takes its place.
    """
    data_dir = data_dir.absolute()
    if aside is None:
        check_unused(data_dir)
    try:
        data_dir.parent.mkdir(parents=True, exist_ok=True)
        _remove_left_drafts(data_dir)
        path = Path(tempfile.mkdtemp(prefix=_draft_prefix(data_dir), dir=data_dir.parent))
        lock = _locked(path / _LOCK_NAME)
    except OSError as error:
        raise cannot("create", data_dir, error) from error
    try:
        yield Draft(path, data_dir, aside)
    finally:
        os.close(lock)
        shutil.rmtree(path, ignore_errors=True)  # gone already where it was published


def check_unused(data_dir: Path) -> None:
    """Raise LocalStateUnusable unless a cluster can be made there."""
    try:
        is_used = data_dir.exists() and any(data_dir.iterdir())
    except OSError as error:
        raise cannot("use", data_dir, error) from error
    if is_used:
        raise LocalStateUnusable(
            f"{data_dir} is in use already",
            remedy="run `cairn-appliance run` with it, or choose another --data-dir",
        )


def create(directory: Path, settings: Settings, now: datetime) -> Created:
    """Make the keys, certificates and files of a new cluster in a draft's directory."""
    settings_file.check(settings)
    kek = new_kek()
    cluster_id = str(uuid.UUID(bytes=os.getrandom(16), version=4))
    local = Local(directory, cluster_id, FIRST_MEMBER, settings, Sealer(kek))
    authority = Authority.create(f"Cairn cluster {cluster_id}", now)
    etcd_authority = Authority.create(f"Cairn etcd {cluster_id}", now)

    sealed = local.sealer.seal("etcd-ca-key", etcd_authority.private_key)
    keyring = Keyring(local.sealer, authority, MapKey.create())
    _lay_out(local, kek, etcd_authority, sealed, now)
    _write_api(local, keyring, now)

    cluster = Cluster(
        id=cluster_id,
        incarnation=1,
        appliances=settings.appliances(),
        heartbeat_s=settings.heartbeat_s,
    )
    return Created(local, keyring, cluster)


def adopt(directory: Path, settings: Settings, handed: Handover, now: datetime) -> Local:
    """Make the files of an appliance that joins in a draft's directory.

    Its own keys are made here; what is handed over is what every appliance of a cluster has.
    The pair of the APIs is missing until `adopt_authority`. Raises Invalid, LocalStateUnusable.
    """
    settings_file.check(settings)
    try:
        sealer = Sealer(handed.keys.kek)
        key = sealer.open("etcd-ca-key", handed.keys.etcd_ca_key)
        etcd_authority = Authority.load(KeyPair(handed.keys.etcd_ca, key))
    except PkiError as error:
        raise Invalid(f"what the cluster handed over can't be used: {error}") from error
    local = Local(
        directory, handed.cluster_id, handed.name, settings, sealer, handed.initial_cluster
    )
    _lay_out(local, handed.keys.kek, etcd_authority, handed.keys.etcd_ca_key, now)
    local.keep_others(handed.endpoints)
    return local


def revive(
    directory: Path, settings: Settings, *, kek: bytes, cluster_id: str, name: str, now: datetime
) -> Local:
    """Make the files of a cluster that comes back from a backup, in a draft's directory.

    etcd gets a new authority: members of before can't reach it. The pair of the APIs is
    missing until `adopt_authority`. Raises Invalid.
    """
    try:
        local = Local(directory, cluster_id, name, settings, Sealer(kek))
    except PkiError as error:
        raise Invalid(f"the keys of the backup can't be used: {error}") from error
    etcd_authority = Authority.create(f"Cairn etcd {cluster_id}", now)
    sealed = local.sealer.seal("etcd-ca-key", etcd_authority.private_key)
    _lay_out(local, kek, etcd_authority, sealed, now)
    return local


def adopt_authority(local: Local, keyring: Keyring, now: datetime) -> None:
    """Write the cluster's CA and the pair of the APIs, which is signed by it."""
    _write_api(local, keyring, now)


def begin_anew(local: Local, initial_cluster: str) -> Local:
    """Write down with whom this appliance's etcd begins the next time, with no data."""
    member = _MemberFile(local.cluster_id, local.member, initial_cluster)
    write_whole(local.data_dir / "member.json", msgspec.json.encode(member), PUBLIC)
    return replace(local, initial_cluster=initial_cluster)


def shared_keys(local: Local) -> ClusterKeys:
    """Return what every appliance of the cluster has, to give to one that joins."""
    return ClusterKeys(
        kek=read_whole(local.data_dir / "kek"),
        etcd_ca=read_whole(local.pki("etcd-ca.pem")),
        etcd_ca_key=read_whole(local.pki("etcd-ca-key.sealed")),
    )


def load(data_dir: Path) -> Local:
    """Return what `create` left there; raise SettingsError or LocalStateUnusable."""
    data_dir = data_dir.absolute()
    settings = settings_file.read(data_dir)
    path = data_dir / "member.json"
    try:
        member = msgspec.json.decode(read_whole(path), type=_MemberFile)
    except msgspec.MsgspecError as error:
        raise _corrupt(path, str(error)) from error
    path = data_dir / "kek"
    try:
        sealer = Sealer(read_whole(path))
    except PkiError as error:
        raise _corrupt(path, str(error)) from error
    return Local(data_dir, member.cluster_id, member.name, settings, sealer, member.initial_cluster)


async def load_secrets(store: Store, local: Local) -> Keyring:
    """Return the cluster's keys from the store; raise LocalStateUnusable, StoreError."""
    trust = await store.get(keys.TRUST)
    try:
        if trust is not None:
            return Keyring.of_trust(local.sealer, records.trust.decode(trust))
        octets = {}
        for key in (SECRET_CA, SECRET_MAP_KEY):
            item = await store.get(key)
            if item is None:
                raise _corrupt(local.etcd_dir, f"the store has no {key}")
            octets[key] = item.value
        return Keyring.of_secrets(local.sealer, octets[SECRET_CA], octets[SECRET_MAP_KEY])
    except SealBroken as error:
        raise _corrupt(local.data_dir / "kek", str(error)) from error
    except PkiError as error:
        raise _corrupt(local.etcd_dir, f"the cluster's keys can't be read: {error}") from error


def renew_api_certificate(local: Local, keyring: Keyring, now: datetime) -> bool:
    """Renew what the APIs show past half of its life, or when something in it changed.

    That is an address, the authority that issues, or one that goes along with it.
    """
    pem = read_whole(local.pki("api.pem"))
    try:
        is_due = _is_due(pem, read_whole(local.pki("ca.pem")), now)
        is_good = not is_due and _names(pem) == set(_api_names(local))
    except ValueError:
        is_good = False  # a broken certificate is replaced, too
    chain = keyring.chain.encode()
    is_good = is_good and pem.endswith(chain) and pem.count(_BEGIN) == chain.count(_BEGIN) + 1
    is_good = is_good and issued_by(pem, keyring.authority)
    if not is_good:
        _write_api(local, keyring, now)
    return not is_good


def renew_etcd_certificates(local: Local, now: datetime) -> bool:
    """Renew etcd's certificates past half of their life, or when the address changed.

    etcd reads them at each handshake.
    """
    if not any(_wants_renewal(local, name, now) for name in _ETCD_PURPOSES):
        return False
    sealed = local.pki("etcd-ca-key.sealed")
    try:
        key = local.sealer.open("etcd-ca-key", read_whole(sealed))
        authority = Authority.load(KeyPair(read_whole(local.pki("etcd-ca.pem")), key))
    except PkiError as error:
        raise _corrupt(sealed, str(error)) from error
    _write_etcd_pairs(local, authority, now)
    return True


def _wants_renewal(local: Local, name: str, now: datetime) -> bool:
    pem = read_whole(local.pki(f"{name}.pem"))
    try:
        is_due = _is_due(pem, read_whole(local.pki("etcd-ca.pem")), now)
        return is_due or _names(pem) != set(_etcd_names(local, name))
    except ValueError:
        return True


def _is_due(pem: bytes, authority_pem: bytes, now: datetime) -> bool:
    """Return whether to renew: past half life, or made while the clock was ahead.

    Before the authority's own beginning the clock is wrong, and whatever is made by it too.
    """
    begin = x509.load_pem_x509_certificate(pem).not_valid_before_utc
    if now < x509.load_pem_x509_certificate(authority_pem).not_valid_before_utc:
        return False
    return now < begin or is_past_half_life(pem, now)


def _lay_out(
    local: Local, kek: bytes, etcd_authority: Authority, sealed_etcd_key: bytes, now: datetime
) -> None:
    """Write everything that an appliance has but what the cluster's CA signs."""
    directory = local.data_dir
    for path in (directory / "pki", local.etcd_dir):
        path.mkdir(mode=0o700)
    write_whole(directory / "kek", kek)
    member = _MemberFile(local.cluster_id, local.member, local.initial_cluster)
    write_whole(directory / "member.json", msgspec.json.encode(member), PUBLIC)
    text = settings_file.to_toml(local.settings).encode()
    write_whole(directory / settings_file.FILE_NAME, text, PUBLIC)
    write_whole(local.pki("etcd-ca.pem"), etcd_authority.certificate, PUBLIC)
    write_whole(local.pki("etcd-ca-key.sealed"), sealed_etcd_key)
    _write_etcd_pairs(local, etcd_authority, now)


def _write_api(local: Local, keyring: Keyring, now: datetime) -> None:
    write_whole(local.pki("ca.pem"), keyring.clients.encode(), PUBLIC)
    authority = keyring.authority
    pair = authority.issue_pair("cairn-appliance", "server", _api_names(local), now)
    # The authority goes with it: an agent that has only the pin sees the chain end there.
    chained = KeyPair(pair.certificate + keyring.chain.encode(), pair.private_key)
    _write_pair(local, "api", chained)


def _write_etcd_pairs(local: Local, authority: Authority, now: datetime) -> None:
    for name, purpose in _ETCD_PURPOSES.items():
        names = _etcd_names(local, name)
        _write_pair(local, name, authority.issue_pair(name, purpose, names, now))


def _etcd_names(local: Local, name: str) -> tuple[str, ...]:
    """Return whom a certificate of etcd is for; a client's is for nobody who is dialled."""
    if _ETCD_PURPOSES[name] == "client":
        return ()
    return tuple(dict.fromkeys((*LOOPBACK, _canonical(local.settings.cluster_address))))


def _write_pair(local: Local, name: str, pair: KeyPair) -> None:
    write_whole(local.pki(f"{name}-key.pem"), pair.private_key)
    write_whole(local.pki(f"{name}.pem"), pair.certificate, PUBLIC)


def _api_names(local: Local) -> tuple[str, ...]:
    return tuple(_canonical(host) for host in (*local.settings.hosts(), *LOOPBACK))


def _canonical(host: str) -> str:
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host


def _names(pem: bytes) -> set[str]:
    certificate = x509.load_pem_x509_certificate(pem)
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    addresses = {str(address) for address in found.get_values_for_type(x509.IPAddress)}
    return addresses | set(found.get_values_for_type(x509.DNSName))


def _corrupt(path: Path, reason: str) -> LocalStateUnusable:
    return LocalStateUnusable(f"{path} can't be used: {reason}", remedy="restore it from a backup")


def _draft_prefix(data_dir: Path) -> str:
    return f".{data_dir.name}.init-"


def _locked(path: Path) -> int:
    """Hold a lock for as long as the draft's process lives."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor


def _remove_left_drafts(data_dir: Path) -> None:
    """Remove drafts whose process was killed; those of a living one are locked."""
    for path in data_dir.parent.glob(f"{_draft_prefix(data_dir)}*"):
        try:
            lock = _locked(path / _LOCK_NAME)
        except OSError:
            continue
        os.close(lock)
        shutil.rmtree(path, ignore_errors=True)
