"""`cairn-appliance restore`: a cluster of one from a backup, whole or not at all.

It is another incarnation (incarnating.py), at revisions above all that there were, so agents
and watchers notice; its etcd has a CA of its own, so members of before can't reach it.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from cairn_appliance import incarnating
from cairn_appliance import settings as settings_file
from cairn_appliance.cluster import bootstrap
from cairn_appliance.cluster.bootstrap import Local
from cairn_appliance.cluster.disk import warn_if_slow
from cairn_appliance.cluster.errors import EnvironmentLacks, LocalStateUnusable
from cairn_appliance.cluster.etcd_binary import EtcdBinary, find_etcd, find_etcdutl
from cairn_appliance.cluster.etcd_process import EtcdProcess, client_tls
from cairn_appliance.cluster.files import cannot
from cairn_appliance.domain.backup import Contents, Head
from cairn_appliance.domain.errors import Invalid
from cairn_appliance.domain.event import Severity
from cairn_appliance.domain.identity import SYSTEM
from cairn_appliance.domain.restored import ABSORB_S, Restored
from cairn_appliance.incarnating import Base
from cairn_appliance.initialising import cluster_address_of, with_free_etcd_ports
from cairn_appliance.pki.authority import utc_now
from cairn_appliance.pki.backup_file import BackupReader
from cairn_appliance.pki.errors import PkiError
from cairn_appliance.pki.recovery_key import RecoveryKey
from cairn_appliance.recovering import check_others_are_lost
from cairn_appliance.services.events import Journal
from cairn_appliance.settings import Settings
from cairn_appliance.store import keys
from cairn_appliance.store.etcd import EtcdStore
from cairn_appliance.store.port import Put, Store

log = logging.getLogger(__name__)

BUMP_REVISION = 1_000_000_000  # above whatever was written after the backup
_RESTORE_WITHIN_S = 900.0  # of etcdutl; 2 GiB on a slow disk
_LENGTH_OCTETS = 4
_CONTENTS_MAX_OCTETS = 1 << 20


@dataclass(frozen=True, slots=True)
class Asked:
    """What is restored, and as what."""

    file: Path
    key: RecoveryKey
    addresses: tuple[str, ...] = ()  # none: those of the appliance that made the backup
    cluster_address: str = ""
    set_aside: bool = False  # what is in the data directory already
    absorb_s: float = ABSORB_S


@dataclass(frozen=True, slots=True)
class Restoration:
    """What the one who restored the cluster is told."""

    cluster_id: str
    name: str
    incarnation: int
    backup_made_at: float  # seconds since 1970
    backup_revision: int
    ops_url: str
    kept: str  # where what was in the data directory is now; empty: nothing was


async def restore(data_dir: Path, asked: Asked) -> Restoration:
    """Make a cluster of one from a backup; raise CairnError and leave all as it was.

    The whole file is opened and checked before anything is made of it.
    """
    binary = find_etcd()
    util = find_etcdutl(binary)
    aside = _aside(data_dir, asked)
    if aside is not None and (data_dir / settings_file.FILE_NAME).exists():
        await check_others_are_lost(bootstrap.load(data_dir))
    with bootstrap.drafting(data_dir, aside=aside) as draft:
        snapshot = draft.path / "snapshot.db"
        head, contents = await asyncio.to_thread(_open, asked, snapshot)
        settings = _settings(contents, asked)
        warn_if_slow(draft.path)
        local = bootstrap.revive(
            draft.path,
            settings,
            kek=base64.b64decode(contents.kek),
            cluster_id=head.cluster_id,
            name=f"m{contents.last_number + 1}",
            now=utc_now(),
        )
        await _fill_etcd(util, snapshot, local)
        snapshot.unlink()
        etcd = EtcdProcess(local, binary)
        await etcd.start()
        try:
            store = EtcdStore([local.etcd_endpoint], client_tls(local))
            try:
                keyring = await bootstrap.load_secrets(store, local)
                bootstrap.adopt_authority(local, keyring, utc_now())
                restored = await begin_again(store, local.member, head, asked.absorb_s)
            finally:
                await store.close()
        finally:
            await etcd.stop()
        draft.publish()
    return Restoration(
        cluster_id=head.cluster_id,
        name=local.member,
        incarnation=restored.incarnation,
        backup_made_at=head.made_at,
        backup_revision=head.revision,
        ops_url=f"https://{settings.operations()[0]}",
        kept=str(aside) if aside else "",
    )


async def begin_again(store: Store, member: str, head: Head, absorb_s: float) -> Restored:
    """Begin the incarnation from what the backup has; raise Refused."""
    made = datetime.fromtimestamp(head.made_at, UTC).isoformat(timespec="seconds")

    def tell(restored: Restored) -> Put:
        return Journal().entry(
            "cluster_restored",
            f"the cluster was restored on {member} from a backup of {made}: incarnation "
            f"{restored.incarnation}; enrolment tokens, join strings, sessions and API tokens "
            "of before are void",
            SYSTEM,
            severity=Severity.ALARM,
            appliance=member,
            backup_made_at=made,
            backup_revision=str(head.revision),
        )

    how = "restored from a backup"
    base = Base(how, head.incarnation, head.revision, head.made_at, absorb_s)
    named = Put(keys.LAST_NAME, member.removeprefix("m").encode())
    return await incarnating.begin_again(store, member, base, tell, [named])


def _aside(data_dir: Path, asked: Asked) -> Path | None:
    """Return where what is in the data directory goes; None where there is nothing."""
    if not data_dir.exists() or not any(data_dir.iterdir()):
        return None
    if not asked.set_aside:
        raise LocalStateUnusable(
            f"{data_dir} is in use already",
            remedy="if what is there may be given up, add --set-aside: it is moved, not deleted",
        )
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    return data_dir.absolute().with_name(f"{data_dir.name}.before-restore-{stamp}")


def _open(asked: Asked, snapshot: Path) -> tuple[Head, Contents]:
    """Open the backup and write its snapshot down; raise Invalid, LocalStateUnusable."""
    try:
        with asked.file.open("rb") as file:
            reader = BackupReader(file, str(asked.file))
            octets = bytearray()
            pieces = reader.pieces(asked.key)
            while len(octets) < _LENGTH_OCTETS or len(octets) < _end_of_contents(octets):
                piece = next(pieces, b"")
                if not piece:
                    raise Invalid(f"{asked.file}: the backup has nothing in it")
                octets += piece
            end = _end_of_contents(octets)
            contents = msgspec.json.decode(octets[_LENGTH_OCTETS:end], type=Contents)
            descriptor = os.open(snapshot, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as out:
                out.write(octets[end:])
                for piece in pieces:
                    out.write(piece)
    except OSError as error:
        path = Path(error.filename) if error.filename else snapshot
        raise cannot("read" if path == asked.file else "write", path, error) from error
    except PkiError as error:
        raise Invalid(
            str(error), "use the whole file and its recovery key", code="backup_not_opened"
        ) from error
    except msgspec.MsgspecError as error:
        raise Invalid(
            f"{asked.file}: its content is of another version: {error}",
            "use the version of Cairn that made it, or a newer one",
        ) from error
    log.info("backup opened file=%s revision=%d", asked.file, reader.head.revision)
    return reader.head, contents


def _end_of_contents(octets: bytes | bytearray) -> int:
    length = int.from_bytes(octets[:_LENGTH_OCTETS])
    if length > _CONTENTS_MAX_OCTETS:
        raise Invalid("the backup's content is of another version")
    return _LENGTH_OCTETS + length


def _settings(contents: Contents, asked: Asked) -> Settings:
    """Return those of the backup with this machine's addresses where they were given."""
    settings = settings_file.parse(contents.settings, str(asked.file))
    if asked.addresses:
        settings = msgspec.structs.replace(settings, addresses=list(asked.addresses))
    if asked.addresses or asked.cluster_address:
        own = cluster_address_of(settings.addresses, asked.cluster_address)
        settings = msgspec.structs.replace(settings, cluster_address=own)
    settings_file.check(settings)
    return with_free_etcd_ports(settings)


async def _fill_etcd(util: EtcdBinary, snapshot: Path, local: Local) -> None:
    """Make etcd's data of a snapshot; raise LocalStateUnusable."""
    peer = local.settings.peer_url
    local.etcd_dir.rmdir()  # etcdutl wants to make it
    options = {
        "data-dir": local.etcd_dir,
        "name": local.member,
        "initial-cluster": f"{local.member}={peer}",
        # Another cluster for etcd: what members of before still have is foreign to it.
        "initial-cluster-token": f"{local.cluster_id}/{os.getrandom(8).hex()}",
        "initial-advertise-peer-urls": peer,
        "bump-revision": BUMP_REVISION,
        "mark-compacted": "true",
    }
    command = [str(util.path), "snapshot", "restore", str(snapshot)]
    command += [f"--{name}={value}" for name, value in options.items()]
    environment = {name: v for name, v in os.environ.items() if not name.startswith("ETCD")}
    try:
        child = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=environment,
        )
    except OSError as error:
        raise EnvironmentLacks(
            f"{util.path} can't be run: {error.strerror}", remedy="run tools/get-etcd again"
        ) from error
    try:
        async with asyncio.timeout(_RESTORE_WITHIN_S):
            output, _ = await child.communicate()
    except BaseException:
        if child.returncode is None:
            child.kill()
            await child.wait()
        raise
    if child.returncode != 0:
        last = output.decode(errors="replace").strip().splitlines()[-1:]
        raise LocalStateUnusable(
            f"etcd's data could not be made from the backup: {' '.join(last)[-300:]}",
            remedy="check the free space of the disk; then try an older backup",
        )
    local.etcd_dir.chmod(0o700)
