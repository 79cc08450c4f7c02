"""`cairn-appliance join`: makes this machine an appliance of a cluster, whole or not at all.

The string's secret is sent only to who has proved, by a certificate that the pinned CA
signed, to be an appliance of the cluster. What comes back opens only with that secret.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import os
import random
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import msgspec
from cairn_agent.http_transport import HttpTransport
from cairn_agent.protocol.enrolment import Problem

from cairn_appliance.cluster import bootstrap
from cairn_appliance.cluster.disk import warn_if_slow
from cairn_appliance.cluster.errors import EnvironmentLacks
from cairn_appliance.cluster.etcd_binary import find_etcd
from cairn_appliance.cluster.etcd_process import EtcdProcess, client_tls
from cairn_appliance.domain.errors import CairnError, JoinRefused, Unavailable
from cairn_appliance.domain.joining import Handover, JoinString
from cairn_appliance.initialising import with_free_etcd_ports
from cairn_appliance.pki.authority import split_pem, utc_now
from cairn_appliance.pki.errors import PkiError
from cairn_appliance.pki.sealing import exchange_sealer
from cairn_appliance.settings import Settings
from cairn_appliance.store.etcd import EtcdStore
from cairn_appliance.store.port import StoreError

_WITHIN_S = 60.0  # all tries to be admitted
_ANSWER_S = 15.0
_CONNECT_S = 5.0
_SYNCED_WITHIN_S = 120.0  # a store of 2 GiB over 200 Mbit/s
_NONCE_OCTETS = 16
_BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Joined:
    """What the one who let it join is told."""

    cluster_id: str
    name: str
    appliances: tuple[str, ...]  # the others' etcds


async def join(data_dir: Path, settings: Settings, string: JoinString) -> Joined:
    """Join as a member that has no vote yet; raise CairnError and leave nothing behind here.

    What stays at the cluster of an attempt that broke off is undone by the next one with
    the same string, or by the next appliance that joins.
    """
    settings = with_free_etcd_ports(settings)
    binary = find_etcd()
    with bootstrap.drafting(data_dir) as draft:
        warn_if_slow(draft.path)
        handed = await _admitted(string, settings)
        own = msgspec.structs.replace(settings, heartbeat_s=handed.heartbeat_s)
        local = bootstrap.adopt(draft.path, own, handed, utc_now())
        await _take_authority(local)
        etcd = EtcdProcess(local, binary)
        try:
            await etcd.start(timeout_s=_SYNCED_WITHIN_S)
        finally:
            await etcd.stop()
        draft.publish()
    return Joined(handed.cluster_id, handed.name, handed.endpoints)


async def _take_authority(local: bootstrap.Local) -> None:
    """Read the cluster's keys at the other members: the own etcd has nothing yet."""
    store = EtcdStore(local.others(), client_tls(local))
    try:
        keyring = await bootstrap.load_secrets(store, local)
    except StoreError as error:
        raise EnvironmentLacks(
            f"the etcds of the other appliances can't be reached: {error}",
            f"let TCP 2379 and 2380 pass between the appliances ({', '.join(local.others())})",
        ) from error
    finally:
        await store.close()
    bootstrap.adopt_authority(local, keyring, utc_now())


async def _admitted(string: JoinString, settings: Settings) -> Handover:
    """Ask the string's appliances in turn, again while they are busy, for up to a minute."""
    loop = asyncio.get_running_loop()
    end = loop.time() + _WITHIN_S
    places = random.sample(string.operations, len(string.operations))
    while True:
        last: CairnError | None = None
        for place in places:
            try:
                return await _admitted_at(place, string, settings)
            except Unavailable as error:
                last = error
        assert last is not None
        wait_s = random.uniform(0.5, 2.0)
        if loop.time() + wait_s > end:
            raise last
        await asyncio.sleep(wait_s)


async def _admitted_at(place: str, string: JoinString, settings: Settings) -> Handover:
    nonce = os.getrandom(_NONCE_OCTETS)
    asked = {
        "id": string.id,
        "secret": string.secret,
        "nonce": base64.b64encode(nonce).decode(),
        "peer_url": settings.peer_url,
    }
    context = _trusting(await _pinned_authority(place, string.pin))
    async with _client(place, context) as client:
        answer = await client.post("/api/v1/cluster/join", json=asked)
    if not answer.is_success:
        raise _problem(place, answer)
    try:
        sealed = base64.b64decode(answer.json()["sealed"])
        octets = exchange_sealer(string.secret, nonce).open(string.id, sealed)
        return msgspec.json.decode(octets, type=Handover)
    except (ValueError, LookupError, TypeError, PkiError) as error:
        raise JoinRefused(f"the answer of {place} can't be used: {error}") from error


async def _pinned_authority(place: str, pin: str) -> str:
    """Return the PEM of the CA with this pin; nothing but a public question is sent.

    While the cluster's CA is being replaced there are two.
    """
    blind = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    blind.check_hostname = False
    blind.verify_mode = ssl.CERT_NONE
    async with _client(place, blind) as client:
        answer = await client.get("/api/v1/ca")
    try:
        ders = [ssl.PEM_cert_to_DER_cert(pem.strip()) for pem in split_pem(answer.text)]
    except ValueError as error:
        raise Unavailable(f"what answers at {place} is no Cairn appliance") from error
    if not ders:
        raise Unavailable(f"what answers at {place} is no Cairn appliance")
    for der in ders:
        if hmac.compare_digest(hashlib.sha256(der).hexdigest(), pin):
            return ssl.DER_cert_to_PEM_cert(der)
    raise JoinRefused(
        f"the appliance at {place} is not of the cluster that the string is for, or the "
        "cluster's CA was changed since the string was made",
        "make a new string; check the address, someone may be in between: nothing secret was sent",
        code="foreign_pin",
    )


def _trusting(ca: str) -> ssl.SSLContext:
    """Trust this CA only; names aren't compared: it signs for appliances only."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.load_verify_locations(cadata=ca)
    return context


@asynccontextmanager
async def _client(place: str, context: ssl.SSLContext) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client of one appliance; raise Unavailable where it can't be reached."""
    timeout = httpx.Timeout(_ANSWER_S, connect=_CONNECT_S)
    try:
        async with httpx.AsyncClient(
            base_url=f"https://{place}",
            transport=HttpTransport(verify=context, trust_env=False),
            timeout=timeout,
            trust_env=False,
        ) as client:
            yield client
    except httpx.HTTPError as error:
        port = place.rpartition(":")[2]
        raise Unavailable(
            f"the appliance at {place} {_reason(error)}",
            f"check the address, and that TCP {port} passes between the appliances",
        ) from error


def _reason(error: httpx.HTTPError) -> str:
    if isinstance(error, httpx.TimeoutException):
        return "gives no answer in time"
    return f"can't be reached: {str(error) or type(error).__name__}"


def _problem(place: str, answer: httpx.Response) -> CairnError:
    try:
        problem = msgspec.json.decode(answer.content, type=Problem)
    except msgspec.MsgspecError:
        return Unavailable(f"what answers at {place} is no Cairn appliance")
    cause = problem.detail or problem.title
    kind = Unavailable if answer.status_code in _BUSY else JoinRefused
    return kind(cause, problem.remedy or None, code=problem.code)
