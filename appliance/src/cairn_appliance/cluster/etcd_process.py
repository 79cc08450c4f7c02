"""The embedded etcd: one member of the cluster, a supervised child of the appliance.

The child ends with its parent, even where the parent is killed. Alone it listens on loopback
or on the appliance's own address; the members of a cluster find each other by the latter.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import random
import shutil
import socket
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from cairn_appliance.cluster.bootstrap import Local
from cairn_appliance.cluster.errors import (
    EnvironmentLacks,
    LocalStateUnusable,
    RemovedFromCluster,
)
from cairn_appliance.cluster.etcd_binary import EtcdBinary
from cairn_appliance.cluster.files import cannot, write_whole
from cairn_appliance.domain.alarm import Alarm, Sign
from cairn_appliance.domain.errors import CairnError
from cairn_appliance.settings import Settings
from cairn_appliance.store.connection import Tls

log = logging.getLogger(__name__)

READY_S = 30.0
STOP_S = 3.0  # it takes 0.1 s; what is killed recovers from its log
_HOST = "127.0.0.1"
_POLL_S = 0.1
_BACKOFF_FIRST_S = 0.5
_BACKOFF_LAST_S = 15.0
_STEADY_S = 60.0  # having run for so long, a child is restarted without a long wait
_LOG_MAX_OCTETS = 16 << 20  # then it begins anew; one before it is kept
_LOG_LOOKED_AT_EVERY_S = 60.0
_LOG_TAIL_OCTETS = 16 << 10
_HEALTH_OCTETS = 4096
_ENDS_KEPT = 16


@dataclass(frozen=True, slots=True)
class _Failure:
    sign: str  # what etcd or the kernel writes
    cause: str
    remedy: str
    kind: type[CairnError]
    alarm: Alarm = Alarm.ETCD_FAILS


_FAILURES = (
    _Failure(
        "removed from the cluster",
        "this appliance was removed from the cluster",
        "delete {data} and join again with a new join string, if it is to be part of it",
        RemovedFromCluster,
    ),
    _Failure(
        "address already in use",
        "a port of etcd is in use",
        "stop what uses it, or choose other etcd_*_port in {settings}",
        EnvironmentLacks,
    ),
    _Failure(
        "cannot assign requested address",
        "this machine doesn't have the cluster_address of its settings",
        "correct cluster_address in {settings}, or give the address to the machine",
        EnvironmentLacks,
    ),
    _Failure(
        "no space left on device",
        "the disk is full",
        "free space on the file system of {directory}; etcd wants 1 GiB",
        LocalStateUnusable,
        Alarm.DISK_FULL,
    ),
    _Failure(
        "permission denied",
        "etcd may not use its data directory",
        "give {directory} to the user that runs the appliance",
        LocalStateUnusable,
    ),
    _Failure(
        "cannot open database",
        "etcd's database is in use by another process, or damaged",
        "stop the other appliance on {directory}, or restore it from a backup",
        LocalStateUnusable,
    ),
    *(
        _Failure(
            sign,
            "etcd's data are damaged",
            "run `cairn-appliance rebuild --data-dir {data}` here if other appliances run; else "
            "restore a backup: `cairn-appliance restore FILE --data-dir {data} --others-are-lost "
            "--set-aside`",
            LocalStateUnusable,
            Alarm.MEMBER_CORRUPT,
        )
        for sign in (
            "found data inconsistency with peers",
            "crc mismatch",
            "failed to recover",
            "unexpected fault address",
            "invalid page type",
            "assertion failed",
            "failed to read WAL",
            "invalid database",
            "checksum error",
        )
    ),
)


class EtcdProcess:
    """One etcd child, started again whenever it ends by itself."""

    def __init__(self, local: Local, binary: EtcdBinary) -> None:
        self.restarts = 0
        self.removed = asyncio.Event()  # the cluster has removed this member: it is over
        self.failed: Sign | None = None  # why it ended last
        self.ended_at: deque[float] = deque(maxlen=_ENDS_KEPT)  # by itself; monotonic clock
        self._local = local
        self._binary = binary
        self._child: asyncio.subprocess.Process | None = None
        self._log_begin = 0  # where this child's part of the log begins

    @property
    def pid(self) -> int | None:
        """The child's process ID while there is one."""
        return self._child.pid if self._child and self._child.returncode is None else None

    async def begin(self, *options: str) -> None:
        """Start it without waiting for anything; raise CairnError with the remedy.

        Call it once, before `supervise`. One of several members can't be healthy before
        enough of the others are.
        """
        self._check_environment()
        await self._spawn(*options)

    async def start(self, *options: str, timeout_s: float = READY_S) -> None:
        """Return once etcd answers as healthy; raise CairnError with the remedy.

        Call it once, before `supervise`.
        """
        await self.begin(*options)
        try:
            async with asyncio.timeout(timeout_s):
                await self._until_healthy()
        except TimeoutError as error:
            await self.stop()
            raise LocalStateUnusable(
                f"etcd was not healthy after {timeout_s:.0f} s",
                remedy=f"look into {self._local.etcd_log}; the disk may be too slow",
            ) from error
        except BaseException:
            await self.stop()
            raise
        log.info("etcd runs pid=%s version=%s endpoint=%s", self.pid,
                 ".".join(map(str, self._binary.version)), self._local.etcd_endpoint)  # fmt: skip

    async def supervise(self) -> None:
        """Start it again whenever it ends, until cancelled; then stop it cleanly."""
        loop = asyncio.get_running_loop()
        wait_s = _BACKOFF_FIRST_S
        try:
            while True:
                begun = loop.time()
                code = await self._ended()
                if loop.time() - begun > _STEADY_S:
                    wait_s = _BACKOFF_FIRST_S
                failure = self._failure()
                if isinstance(failure, RemovedFromCluster):
                    log.error("etcd ended: %s", failure)
                    self.removed.set()
                    return
                self._note(failure)
                log.error("etcd ended code=%s cause=%s; what to do: %s; started again in %.1f s",
                          code, failure, failure.remedy, wait_s)  # fmt: skip
                await asyncio.sleep(wait_s * random.uniform(0.8, 1.2))
                wait_s = min(wait_s * 2, _BACKOFF_LAST_S)
                self.restarts += 1
                with contextlib.suppress(LocalStateUnusable, EnvironmentLacks):
                    await self._spawn()  # its failure is seen, and told, in the next turn
        finally:
            await asyncio.shield(asyncio.create_task(self.stop(), name="stop etcd"))

    async def stop(self) -> None:
        """End it: politely first, by force after `STOP_S`."""
        child = self._child
        if child is None or child.returncode is not None:
            return
        child.terminate()
        try:
            async with asyncio.timeout(STOP_S):
                await child.wait()
        except TimeoutError:
            log.warning("etcd did not stop and is killed pid=%d", child.pid)
            child.kill()
            await child.wait()

    def _check_environment(self) -> None:
        settings = self._local.settings
        for host, name in listened(settings):
            _check_port_is_free(host, getattr(settings, name), name, self._local.data_dir)
        try:
            self._local.etcd_dir.mkdir(mode=0o700, exist_ok=True)
            self._local.etcd_dir.chmod(0o700)
        except OSError as error:
            raise cannot("use", self._local.etcd_dir, error) from error

    async def _spawn(self, *options: str) -> None:
        path = self._local.etcd_log
        try:
            self._rotate()
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            self._log_begin = os.fstat(descriptor).st_size
        except OSError as error:
            raise cannot("write", path, error) from error
        try:
            self._child = await asyncio.create_subprocess_exec(
                *_ends_with_parent(),
                *arguments(self._local, self._binary),
                *options,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                env=_environment(),
                start_new_session=True,  # Ctrl-C is for us: we stop it when we have ended
            )
        except OSError as error:
            raise EnvironmentLacks(
                f"{self._binary.path} can't be started: {error.strerror}",
                remedy="run tools/get-etcd again, or name a working etcd in CAIRN_ETCD",
            ) from error
        finally:
            os.close(descriptor)

    async def _ended(self) -> int:
        """Return the child's exit status when it ends; its log stays small meanwhile."""
        if self._child is None:
            return -1
        while True:
            try:
                async with asyncio.timeout(_LOG_LOOKED_AT_EVERY_S):
                    return await self._child.wait()
            except TimeoutError:
                try:
                    await asyncio.to_thread(self._rotate)
                except OSError as error:
                    log.warning("etcd's log can't be cut reason=%s", error)

    def _rotate(self) -> None:
        """Let a log that is too long begin anew, its end kept beside it; raise OSError.

        The child writes on into the same file, at its end (O_APPEND): so it is copied and cut.
        """
        path = self._local.etcd_log
        if not path.exists() or path.stat().st_size <= _LOG_MAX_OCTETS:
            return
        with path.open("rb") as file:
            file.seek(-_LOG_MAX_OCTETS, os.SEEK_END)
            end = file.read(_LOG_MAX_OCTETS)
        try:
            write_whole(path.with_suffix(".log.1"), end)
        except LocalStateUnusable as error:  # no room, mostly: it must not take what is left
            log.warning("the end of etcd's log can't be kept reason=%s", error)
        os.truncate(path, 0)
        self._log_begin = 0

    async def _until_healthy(self) -> None:
        assert self._child is not None
        while not await self._is_healthy():
            if self._child.returncode is not None:
                raise self._failure()
            await asyncio.sleep(_POLL_S)

    async def _is_healthy(self) -> bool:
        """Ask the plain health page on loopback; true means: it has a leader and can write."""
        port = self._local.settings.etcd_metrics_port
        try:
            async with asyncio.timeout(2), _connection(port) as (reader, writer):
                writer.write(b"GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n")
                await writer.drain()
                answer = await reader.read(_HEALTH_OCTETS)
        except (OSError, TimeoutError):
            return False
        return b'"health":"true"' in answer

    def _note(self, failure: CairnError) -> None:
        alarm = next((each.alarm for each in _FAILURES if each.cause == failure.cause), None)
        name = alarm or Alarm.ETCD_FAILS
        self.failed = Sign(name, f"its etcd does not run: {failure.cause}", is_urgent=True)
        self.ended_at.append(time.monotonic())

    def _failure(self) -> CairnError:
        """Tell from the end of the log why etcd ended."""
        tail = _tail(self._local.etcd_log, self._log_begin)
        places = {
            "settings": self._local.data_dir / "settings.toml",
            "directory": self._local.etcd_dir,
            "data": self._local.data_dir,
        }
        for failure in _FAILURES:
            if failure.sign in tail:
                return failure.kind(failure.cause, remedy=failure.remedy.format(**places))
        return LocalStateUnusable(
            "etcd ended by itself", remedy=f"look at the end of {self._local.etcd_log}"
        )


def client_tls(local: Local) -> Tls:
    """Return what the store needs to speak with the embedded etcd."""
    return Tls(
        ca=local.pki("etcd-ca.pem"),
        certificate=local.pki("etcd-client.pem"),
        key=local.pki("etcd-client-key.pem"),
    )


def arguments(local: Local, binary: EtcdBinary) -> list[str]:
    """Return etcd's command line; it holds no secret."""
    settings = local.settings
    client, peer = settings.client_url, settings.peer_url
    own_client = f"https://{_HOST}:{settings.etcd_client_port}"
    options = {
        "name": local.member,
        "data-dir": local.etcd_dir,
        "listen-client-urls": ",".join(dict.fromkeys((own_client, client))),
        "advertise-client-urls": client,
        "listen-peer-urls": peer,
        "initial-advertise-peer-urls": peer,
        # etcd heeds these three where it has no data yet.
        "initial-cluster": local.initial_cluster or f"{local.member}={peer}",
        "initial-cluster-token": local.cluster_id,
        "initial-cluster-state": "existing" if local.initial_cluster else "new",
        "listen-metrics-urls": f"http://{_HOST}:{settings.etcd_metrics_port}",
        "cert-file": local.pki("etcd-server.pem"),
        "key-file": local.pki("etcd-server-key.pem"),
        "trusted-ca-file": local.pki("etcd-ca.pem"),
        "client-cert-auth": "true",
        "peer-cert-file": local.pki("etcd-peer.pem"),
        "peer-key-file": local.pki("etcd-peer-key.pem"),
        "peer-trusted-ca-file": local.pki("etcd-ca.pem"),
        "peer-client-cert-auth": "true",
        **_checked_at_start(binary),
        "auto-compaction-mode": "periodic",
        "auto-compaction-retention": "1h",
        "quota-backend-bytes": settings.etcd_quota_mib << 20,
        "heartbeat-interval": 100,
        "election-timeout": 1000,
        "log-level": "warn",
    }
    return [str(binary.path), *(f"--{name}={value}" for name, value in options.items())]


def _checked_at_start(binary: EtcdBinary) -> dict[str, object]:
    """Let etcd compare its data with the others' before it answers anybody.

    Its checks at run time are not used: they answer a difference by an alarm that ends all
    reading and writing at every member. `services.upkeep` compares, and takes out the one.
    """
    if binary.version >= (3, 6, 0):
        return {"feature-gates": "InitialCorruptCheck=true"}
    return {"experimental-initial-corrupt-check": "true"}


def listened(settings: Settings) -> list[tuple[str, str]]:
    """Return on which address and by the name of which port etcd listens."""
    client, peer, metrics = "etcd_client_port", "etcd_peer_port", "etcd_metrics_port"
    pairs = [(_HOST, client), (settings.cluster_address, client), (settings.cluster_address, peer)]
    return list(dict.fromkeys([*pairs, (_HOST, metrics)]))


def can_listen(host: str, port: int) -> OSError | None:
    """Return why etcd could not listen there, None where it could."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            # As etcd does: a closed connection that lingers doesn't make a port in use.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        return error
    return None


def _check_port_is_free(host: str, port: int, name: str, data_dir: Path) -> None:
    error = can_listen(host, port)
    if error is None:
        return
    remedy = f"stop what uses it, or choose another {name} in {data_dir}/settings.toml"
    if error.errno == errno.EADDRNOTAVAIL:
        remedy = f"correct cluster_address in {data_dir}/settings.toml: it is none of this machine"
    raise EnvironmentLacks(
        f"port {port} on {host} can't be used: {error.strerror}", remedy=remedy
    ) from error


def _ends_with_parent() -> list[str]:
    """Let the kernel end the child when we are killed (setpriv is in util-linux)."""
    setpriv = shutil.which("setpriv", path="/usr/bin:/bin:/usr/sbin:/sbin")
    return [setpriv, "--pdeathsig", "TERM", "--"] if setpriv else []


def _environment() -> dict[str, str]:
    """Pass nothing on by which etcd could be configured beside its command line."""
    return {name: value for name, value in os.environ.items() if not name.startswith("ETCD_")}


def _tail(path: Path, begin: int) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(begin, path.stat().st_size - _LOG_TAIL_OCTETS))
            return file.read().decode(errors="replace")
    except OSError as error:
        return str(error)


@contextlib.asynccontextmanager
async def _connection(
    port: int,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(_HOST, port)
    try:
        yield reader, writer
    finally:
        writer.close()
