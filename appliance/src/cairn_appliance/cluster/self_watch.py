"""What an appliance notices of itself: disk, clock, certificates, names, its etcd.

It looks by itself and writes nothing; what it finds is told to the others with its
announcement. So a sign's text changes seldom: no figure that moves all the time is in it.
"""

from __future__ import annotations

import asyncio
import logging
import random
import shutil
import socket
import ssl
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx
from cairn_agent.http_transport import HttpTransport
from cryptography import x509

from cairn_appliance.cluster import metrics
from cairn_appliance.cluster.bootstrap import Local
from cairn_appliance.cluster.etcd_process import EtcdProcess
from cairn_appliance.cluster.kernel_clock import is_synchronised
from cairn_appliance.domain.alarm import Alarm, Sign
from cairn_appliance.domain.cluster import Appliance
from cairn_appliance.domain.figures import OwnFigures
from cairn_appliance.pki.authority import utc_now

log = logging.getLogger(__name__)

LOOKED_AT_EVERY_S = 5.0
FAR_LOOKED_AT_EVERY_S = 20.0  # the others' clocks, and names at the DNS
WARNED_BEFORE = timedelta(days=14)
CLOCK_OFF_S = 10.0
UNSYNCHRONISED_S = 600.0  # a machine that starts has no time yet
LOW_SHARE, LOW_OCTETS = 0.05, 256 << 20  # of the disk: a warning below either
NOTHING_OCTETS = 32 << 20  # etcd can't go on for long
# One in ten writes of the log takes longer (10 ms is what a good disk takes for all but one in a
# hundred): a disk that has neighbours does so now and then, and it is slow for a while or not.
SLOW_S = 0.064
FIGURES_WINDOW_S = 120.0  # for who reads them each minute
SLOW_WINDOW_S, SLOW_AT_LEAST, SLOW_STAYS_S = 30.0, 10, 60.0
# Or slow ones take a quarter of the time: with a second for each there is one of ten only once the
# many quick ones of before are out of the window.
STUCK_WINDOW_S, STUCK_AT_LEAST, STUCK_SHARE = 10.0, 2, 0.25
UNSTEADY, UNSTEADY_WINDOW_S = 4, 300.0  # changes of the leader; a restart of all makes one or two
FLAPS, FLAPS_WINDOW_S = 3, 600.0
_DOWN_S = 40.0  # longer than the longest pause before etcd is started again
_ANSWER_S = 3.0
_NO_CHECK_TIME = ssl.VerifyFlags(0x200000)  # X509_V_FLAG_NO_CHECK_TIME: clocks are in question


class SelfWatch:
    """Looks after the appliance's own surroundings; `signs` is what it has found last."""

    def __init__(
        self, local: Local, etcd: EtcdProcess, appliances: Callable[[], Iterable[Appliance]]
    ) -> None:
        self._local = local
        self._etcd = etcd
        self._appliances = appliances
        self._history = metrics.History(max(SLOW_WINDOW_S, UNSTEADY_WINDOW_S))
        self._far: tuple[Sign, ...] = ()
        self.signs: tuple[Sign, ...] = ()
        self.is_slow = False
        self._slow_until = 0.0
        self._kept_at = time.monotonic()  # when something kept the clock last

    def figures(self) -> OwnFigures:
        """Return what is measured here; reads the certificates, a few small files."""
        return OwnFigures(
            self._history.fsync_p99_s(FIGURES_WINDOW_S, SLOW_AT_LEAST),
            self._history.leader_changes_seen,
            tuple(certificate_ends(_certificates(self._local))),
        )

    async def run(self) -> None:
        """Look until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._look_near(), name="look at disk, etcd and certificates")
            tasks.create_task(self._look_far(), name="look at the others' clocks and at names")

    async def _look_near(self) -> None:
        while True:
            sample = await metrics.read(self._local.settings.etcd_metrics_port, time.monotonic())
            if sample is not None:
                self._history.add(sample)
            found = (*self._near(), *self._far)
            if found != self.signs:
                log.warning("signs=%s", "; ".join(f"{s.name}: {s.detail}" for s in found) or "none")
            self.signs = found
            await asyncio.sleep(LOOKED_AT_EVERY_S * random.uniform(0.8, 1.0))

    async def _look_far(self) -> None:
        while True:
            others = [each for each in self._appliances() if each.name != self._local.member]
            offsets = await self._offsets(others)
            self._far = (*clock_signs(offsets), *await self._name_signs())
            await asyncio.sleep(FAR_LOOKED_AT_EVERY_S * random.uniform(0.8, 1.2))

    def _near(self) -> Iterator[Sign]:
        yield from disk_signs(self._local.data_dir)
        yield from certificate_signs(_certificates(self._local), utc_now())
        yield from etcd_signs(self._etcd, time.monotonic())
        yield from self._measured()
        yield from self._clock_kept(time.monotonic())

    def _clock_kept(self, now: float) -> Iterator[Sign]:
        """Say that nothing keeps the clock; where the kernel doesn't know, nothing is said."""
        if is_synchronised() is not False:
            self._kept_at = now
        elif now - self._kept_at >= UNSYNCHRONISED_S:
            yield Sign(Alarm.CLOCK_UNSYNCHRONISED, "nothing keeps its clock right")

    def _measured(self) -> Iterator[Sign]:
        now = time.monotonic()
        if is_disk_slow(self._history):
            self._slow_until = now + SLOW_STAYS_S
        self.is_slow = now < self._slow_until
        if self.is_slow:
            yield Sign(
                Alarm.SLOW_DISK,
                f"its disk takes over {SLOW_S * 1000:.0f} ms for a write of etcd's log "
                "(one in ten, or for a quarter of the time)",
            )
        if self._history.leader_changes(UNSTEADY_WINDOW_S) >= UNSTEADY:
            yield Sign(
                Alarm.LEADER_UNSTEADY,
                f"the leader of etcd has changed {UNSTEADY} times or more within "
                f"{UNSTEADY_WINDOW_S / 60:.0f} minutes",
            )

    async def _offsets(self, others: Iterable[Appliance]) -> list[float]:
        """Return how far each other appliance that answers is behind this one, in seconds."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False  # the CA signs for appliances only
        context.verify_flags |= _NO_CHECK_TIME
        try:
            context.load_verify_locations(cafile=self._local.pki("ca.pem"))
        except OSError as error:
            log.info("the others' clocks can't be asked for reason=%s", error)
            return []
        transport = HttpTransport(verify=context, trust_env=False)
        async with httpx.AsyncClient(
            transport=transport, trust_env=False, timeout=_ANSWER_S
        ) as client:
            found = [await _offset(client, each.operations) for each in others]
        return [offset for offset in found if offset is not None]

    async def _name_signs(self) -> list[Sign]:
        loop = asyncio.get_running_loop()
        signs = []
        for host in self._local.settings.hosts():
            try:
                async with asyncio.timeout(_ANSWER_S):
                    await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            except (OSError, TimeoutError):
                signs.append(
                    Sign(Alarm.ADDRESS_UNKNOWN, f"{host}, at which nodes reach it, is not known")
                )
        return signs


def is_disk_slow(history: metrics.History) -> bool:
    """Say whether etcd's writes take too long, by their number or by the time they take."""
    p90_s = history.fsync_p90_s(SLOW_WINDOW_S, SLOW_AT_LEAST) or 0.0
    share = history.slow_share(SLOW_S, STUCK_WINDOW_S, STUCK_AT_LEAST)
    return p90_s > SLOW_S or share >= STUCK_SHARE


def disk_signs(directory: Path) -> Iterator[Sign]:
    """Say whether the disk is full, or soon will be."""
    try:
        usage = shutil.disk_usage(directory)
    except OSError as error:
        yield Sign(Alarm.DISK_FULL, f"its data directory can't be used: {error.strerror}", True)
        return
    if usage.free < NOTHING_OCTETS:
        yield Sign(Alarm.DISK_FULL, f"the disk of {directory} is full", is_urgent=True)
    elif usage.free < max(LOW_SHARE * usage.total, min(LOW_OCTETS, usage.total / 4)):
        yield Sign(Alarm.DISK_FULL, f"the disk of {directory} is nearly full")


def certificate_signs(pems: Iterable[tuple[str, bytes]], now: datetime) -> Iterator[Sign]:
    """Name each certificate that ends within two weeks; it was to be renewed long before."""
    for name, pem in pems:
        try:
            end = x509.load_pem_x509_certificate(pem).not_valid_after_utc
        except ValueError:
            yield Sign(Alarm.CERTIFICATE_EXPIRES, f"{name} can't be read", is_urgent=True)
            continue
        if end <= now:
            yield Sign(Alarm.CERTIFICATE_EXPIRES, f"{name} ended on {end:%Y-%m-%d}", is_urgent=True)
        elif end - now < WARNED_BEFORE:
            yield Sign(Alarm.CERTIFICATE_EXPIRES, f"{name} ends on {end:%Y-%m-%d}")


def certificate_ends(pems: Iterable[tuple[str, bytes]]) -> Iterator[tuple[str, float]]:
    """Yield when each certificate ends; one that can't be read is a sign already."""
    for name, pem in pems:
        try:
            yield name, x509.load_pem_x509_certificate(pem).not_valid_after_utc.timestamp()
        except ValueError:
            log.debug("not a certificate file=%s", name)


def etcd_signs(etcd: EtcdProcess, now: float) -> Iterator[Sign]:
    """Say why etcd does not run, and whether it keeps ending."""
    ends = [at for at in etcd.ended_at if now - at < FLAPS_WINDOW_S]
    if etcd.failed is not None and ends and (etcd.pid is None or now - ends[-1] < _DOWN_S):
        yield etcd.failed
    if len(ends) >= FLAPS:
        minutes = FLAPS_WINDOW_S / 60
        yield Sign(
            Alarm.MEMBER_FLAPS, f"its etcd has ended {FLAPS} times or more in {minutes:.0f} minutes"
        )


def clock_signs(behind_s: list[float]) -> Iterator[Sign]:
    """Say how far the clock is off, given by how much each other one is behind it.

    Of three the two that agree are right; of two nobody knows which.
    """
    if not behind_s:
        return
    off_s = statistics.median([0.0, *behind_s]) if len(behind_s) > 1 else behind_s[0]
    if abs(off_s) < CLOCK_OFF_S:
        return
    way = "ahead of" if off_s > 0 else "behind"
    whose = "the other appliances'" if len(behind_s) > 1 else "the other appliance's"
    yield Sign(Alarm.CLOCK_OFF, f"its clock is {_rounded(abs(off_s))} {way} {whose}")


def _rounded(seconds: float) -> str:
    """Return it for people, coarse: a text that changes is written anew."""
    for unit, name in ((365 * 86_400, "years"), (86_400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{round(seconds, -1):.0f} s"


async def _offset(client: httpx.AsyncClient, places: tuple[str, ...]) -> float | None:
    for place in places:
        try:
            async with asyncio.timeout(_ANSWER_S):
                answer = await client.get(f"https://{place}/healthz")
            return time.time() - parsedate_to_datetime(answer.headers["date"]).timestamp()
        except (httpx.HTTPError, TimeoutError, KeyError, ValueError, TypeError) as error:
            log.debug("the clock at %s is not known reason=%s", place, error)
    return None


def _certificates(local: Local) -> Iterator[tuple[str, bytes]]:
    for path in sorted((local.data_dir / "pki").glob("*.pem")):
        if not path.stem.endswith("-key"):
            try:
                yield f"pki/{path.name}", path.read_bytes()
            except OSError:
                yield f"pki/{path.name}", b""
