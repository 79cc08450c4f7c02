"""What the operations API takes and gives of receivers of events."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, Field, StringConstraints

from cairn_appliance.api.ops_v1.models import Asked

SeverityName = Literal["info", "warning", "alarm"]
# Empty: a new receiver, the appliance makes one.
ReceiverId = Annotated[str, StringConstraints(max_length=32, pattern=r"^([a-z0-9][a-z0-9-]*)?$")]
Host = Annotated[
    str, StringConstraints(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9._:-]+$")
]
Pem = Annotated[str, StringConstraints(max_length=16_384)]
CA = Field("", description="PEM of the CA to believe; empty: whom the appliance's system believes")
SECRET = Field(
    "",
    description="to sign with, 16 characters or more; never told. Empty: the one that it has",
    json_schema_extra={"writeOnly": True},
)


class SyslogAsked(Asked):
    """A syslog server (RFC 5424)."""

    id: ReceiverId = ""
    host: Host
    port: int = Field(514, ge=1, le=65_535)
    protocol: Literal["udp", "tcp", "tls"] = "udp"
    min_severity: SeverityName = "info"
    ca: Pem = CA


class WebhookAsked(Asked):
    """A place that events are posted to as JSON, signed."""

    id: ReceiverId = ""
    url: Annotated[str, StringConstraints(min_length=1, max_length=1024)]
    min_severity: SeverityName = "info"
    secret: Annotated[str, StringConstraints(max_length=256)] = SECRET
    ca: Pem = CA


class OutputsAsked(Asked):
    """All receivers; one that is left out is forgotten."""

    syslog: tuple[SyslogAsked, ...] = Field((), max_length=16)
    webhooks: tuple[WebhookAsked, ...] = Field((), max_length=16)


class DeliveryOut(BaseModel):
    """How far a receiver has been told."""

    last_ok_at: datetime | None = None
    failing_since: datetime | None = None
    last_error: str = ""
    skipped: int = 0  # events that it always refused, and that were left out


class SyslogOut(DeliveryOut):
    """A syslog server."""

    id: str
    host: str
    port: int
    protocol: str
    min_severity: str
    ca: str


class WebhookOut(DeliveryOut):
    """A webhook; its secret is never told."""

    id: str
    url: str
    min_severity: str
    ca: str


class OutputsOut(BaseModel):
    """All receivers."""

    syslog: list[SyslogOut]
    webhooks: list[WebhookOut]


class OutputTestAsked(Asked):
    """Which receiver to test; empty: all."""

    id: ReceiverId = ""


class TriedOut(BaseModel):
    """How a test went."""

    id: str
    ok: bool
    error: str = ""


class OutputTestOut(BaseModel):
    """How the tests went, from the appliance that was asked."""

    results: list[TriedOut]
