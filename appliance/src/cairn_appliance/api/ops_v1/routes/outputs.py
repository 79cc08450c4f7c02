"""Who outside is told of events: syslog servers and webhooks."""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Response

from cairn_appliance.api.ops_v1.context import (
    ActorDep,
    RequiredDep,
    ServicesDep,
    tagged,
)
from cairn_appliance.api.ops_v1.models import moment_or_none
from cairn_appliance.api.ops_v1.models_outputs import (
    OutputsAsked,
    OutputsOut,
    OutputTestAsked,
    OutputTestOut,
    SyslogAsked,
    SyslogOut,
    TriedOut,
    WebhookAsked,
    WebhookOut,
)
from cairn_appliance.domain.errors import Invalid
from cairn_appliance.domain.event import Severity
from cairn_appliance.domain.output import Delivery, Receivers, Syslog, Transport, Webhook
from cairn_appliance.services.receivers import trusting
from cairn_appliance.services.services import Services
from cairn_appliance.services.stored import Stored

router = APIRouter(prefix="/settings/events", tags=["settings"])

_ID_OCTETS = 4
SECRET_MIN = 16


@router.get("")
async def get_outputs(response: Response, services: ServicesDep) -> OutputsOut:
    """All receivers of events, and whether they take them."""
    return await _out(services, await services.outputs.get(), response)


@router.put("")
async def set_outputs(
    asked: OutputsAsked,
    response: Response,
    services: ServicesDep,
    by: ActorDep,
    expected: RequiredDep,
) -> OutputsOut:
    """Replace all receivers; If-Match is required. A new one is told from now on."""
    webhooks = [(each.id or _new_id(), each) for each in asked.webhooks]
    wanted = Receivers(
        tuple(_syslog(each) for each in asked.syslog),
        tuple(_webhook(receiver_id, each) for receiver_id, each in webhooks),
    )
    given = {receiver_id: each.secret for receiver_id, each in webhooks if each.secret}
    if any(len(secret) < SECRET_MIN for secret in given.values()):
        raise Invalid(f"the secret of a webhook has {SECRET_MIN} characters or more")
    stored = await services.outputs.set(wanted, given, by, expected=expected)
    return await _out(services, stored, response)


@router.post("/test")
async def test_outputs(
    asked: OutputTestAsked, services: ServicesDep, by: ActorDep
) -> OutputTestOut:
    """Send a test from the appliance that is asked, now; it is no event and is not repeated."""
    tried = await services.outputs.test(asked.id, by)
    return OutputTestOut(
        results=[TriedOut(id=each.receiver, ok=not each.error, error=each.error) for each in tried]
    )


def _syslog(asked: SyslogAsked) -> Syslog:
    _check_ca(asked.ca)
    return Syslog(
        asked.id or _new_id(),
        asked.host,
        asked.port,
        Transport(asked.protocol),
        Severity(asked.min_severity),
        asked.ca,
    )


def _webhook(receiver_id: str, asked: WebhookAsked) -> Webhook:
    _check_ca(asked.ca)
    return Webhook(receiver_id, _checked_url(asked.url), "", Severity(asked.min_severity), asked.ca)


def _checked_url(url: str) -> str:
    """Return the URL of a webhook: nothing goes out in the clear but to this machine itself."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        host = ""
    if not host or not url.isascii() or not url.isprintable() or " " in url:
        raise Invalid(f"{url[:80]!r} is no URL", "write https://HOST/PATH")
    if parts.username is not None or parts.password is not None:
        raise Invalid("a URL with a password in it would be shown", "use the secret instead")
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_loopback(host)):
        raise Invalid(
            "events are posted by https only",
            "use https://, with `ca` where its certificate is from a CA of your own",
        )
    return url


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_ca(ca: str) -> None:
    if not ca:
        return
    try:
        trusting(ca)
    except ValueError as error:
        raise Invalid(str(error), "give the file that begins with BEGIN CERTIFICATE") from error


def _new_id() -> str:
    return secrets.token_hex(_ID_OCTETS)


async def _out(services: Services, stored: Stored[Receivers], response: Response) -> OutputsOut:
    tagged(response, stored.revision)
    deliveries = await services.outputs.deliveries()
    return OutputsOut(
        syslog=[
            SyslogOut(
                id=each.id,
                host=each.host,
                port=each.port,
                protocol=each.transport,
                min_severity=each.min_severity,
                ca=each.ca,
                **_delivery(deliveries, each.id),
            )
            for each in stored.value.syslog
        ],
        webhooks=[
            WebhookOut(
                id=each.id,
                url=each.url,
                min_severity=each.min_severity,
                ca=each.ca,
                **_delivery(deliveries, each.id),
            )
            for each in stored.value.webhooks
        ],
    )


def _delivery(deliveries: Mapping[str, Delivery], receiver_id: str) -> dict[str, Any]:
    known = deliveries.get(receiver_id)
    return {
        "last_ok_at": moment_or_none(known.last_ok_at if known else 0.0),
        "failing_since": moment_or_none(known.failing_since if known else 0.0),
        "last_error": known.last_error if known else "",
        "skipped": known.skipped if known else 0,
    }
