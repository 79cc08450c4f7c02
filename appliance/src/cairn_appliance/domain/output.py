"""Who outside gets told of events, and how far each has been told."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, replace
from enum import StrEnum

from cairn_appliance.domain.alarm import Alarm
from cairn_appliance.domain.event import Event, Severity
from cairn_appliance.domain.problem import Problem

RECEIVERS_MAX = 16
# A receiver that is restarted is no problem yet.
FAILS_AFTER_S = 60.0
# An event that a receiver refuses so often, and for so long, holds up those after it no more.
REFUSALS_TO_SKIP, SKIPPED_AFTER_S = 10, 600.0
SKIPPED_TOLD_S = 24 * 3600.0
_ORDER = tuple(Severity)


class Transport(StrEnum):
    """How syslog is sent: RFC 5426, RFC 6587 (octets counted), RFC 5425."""

    UDP = "udp"
    TCP = "tcp"
    TLS = "tls"


@dataclass(frozen=True, slots=True)
class Syslog:
    """A syslog server."""

    id: str
    host: str
    port: int
    transport: Transport
    min_severity: Severity = Severity.INFO
    ca: str = ""  # PEM; empty: the authorities that the system trusts

    @property
    def place(self) -> str:
        """Where it is, for people."""
        return f"syslog {self.host} port {self.port}/{self.transport}"


@dataclass(frozen=True, slots=True)
class Webhook:
    """A place that events are posted to."""

    id: str
    url: str
    secret: str  # base64, sealed
    min_severity: Severity = Severity.INFO
    ca: str = ""  # PEM; empty: the authorities that the system trusts

    @property
    def place(self) -> str:
        """Where it is, for people; the path may be a secret of the receiver's."""
        scheme, _, rest = self.url.partition("://")
        return f"webhook {scheme}://{rest.partition('/')[0].partition('?')[0]}"


Receiver = Syslog | Webhook


@dataclass(frozen=True, slots=True)
class Receivers:
    """All receivers of the cluster."""

    syslog: tuple[Syslog, ...] = ()
    webhooks: tuple[Webhook, ...] = ()

    @property
    def all(self) -> tuple[Receiver, ...]:
        """Both kinds."""
        return (*self.syslog, *self.webhooks)


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """The place of an event in the order of events: those of one change share a sequence."""

    sequence: int
    event: str = ""

    @classmethod
    def of(cls, event: Event) -> Position:
        """Return the place of an event."""
        return cls(event.sequence, event.id)


@dataclass(frozen=True, slots=True)
class Delivery:
    """How far a receiver has been told; `position` has been, or was not for it."""

    receiver: str
    position: Position
    last_ok_at: float = 0.0  # seconds since 1970; 0: never
    failing_since: float = 0.0  # 0: it isn't
    last_error: str = ""
    is_told: bool = False  # that it fails, as an event
    skipped: int = 0  # events that it always refused, ever
    skipped_at: float = 0.0  # the last of them
    skipped_why: str = ""

    def went(self, now: float) -> Delivery:
        """Return it after something was taken by the receiver."""
        return replace(self, last_ok_at=now, failing_since=0.0, last_error="", is_told=False)

    def failed(self, now: float, error: str) -> Delivery:
        """Return it after a try that failed."""
        return replace(self, failing_since=self.failing_since or now, last_error=error[:300])

    def left_out(self, now: float, event: Event, error: str) -> Delivery:
        """Return it after an event was given up that the receiver always refused."""
        return replace(
            self,
            failing_since=0.0,
            last_error="",
            is_told=False,
            skipped=self.skipped + 1,
            skipped_at=now,
            skipped_why=f"{event.kind} {event.id}: {error}"[:300],
        )

    def leaves_out(self, now: float) -> bool:
        """Return whether an event was left out of late."""
        return bool(self.skipped) and now - self.skipped_at < SKIPPED_TOLD_S

    def fails(self, now: float) -> bool:
        """Return whether it fails for so long that someone has to look."""
        return bool(self.failing_since) and now - self.failing_since >= FAILS_AFTER_S


def wants(receiver: Receiver, event: Event) -> bool:
    """Return whether the event is severe enough for the receiver."""
    return _ORDER.index(event.severity) >= _ORDER.index(receiver.min_severity)


def problem_of(receiver: Receiver, delivery: Delivery) -> Problem:
    """Return what is wrong with a receiver that fails, or has refused an event for good."""
    told = f"{delivery.skipped} left out so far, the last: {delivery.skipped_why}"
    if not delivery.failing_since:
        return Problem(
            Alarm.RECEIVER_FAILS,
            f"{receiver.place} ({receiver.id}) refuses some events: {told}",
            "look at the receiver's log for why it refuses them; they are in `cairn event list`. "
            "This is told for a day",
        )
    more = f"; {told}" if delivery.skipped else ""
    return Problem(
        Alarm.RECEIVER_FAILS,
        f"events don't reach {receiver.place} ({receiver.id}): {delivery.last_error}{more}",
        f"put the receiver right and try `cairn event-output test {receiver.id}`; what waits is "
        f"sent then. If it is no more: `cairn event-output delete {receiver.id}`",
    )


def signature(secret: bytes, at: int, body: bytes) -> str:
    """Return the value of the header Cairn-Signature."""
    signed = hmac.new(secret, f"{at}.".encode() + body, hashlib.sha256)
    return f"t={at},v1={signed.hexdigest()}"
