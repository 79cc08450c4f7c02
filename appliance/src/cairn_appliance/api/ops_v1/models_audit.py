"""What the audit's routes answer."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, Field


class AuditActor(BaseModel):
    """Who asked, as the gate knew it then."""

    kind: str = Field(description="operator, stranger (nobody was logged in) or system")
    name: str
    role: str
    address: str


class AuditOut(BaseModel):
    """What was asked for, and what became of it."""

    sequence: int = Field(description="order over all appliances")
    appliance: str = Field(description="whose chain it is in")
    index: int = Field(description="its place in that chain")
    at: datetime
    actor: AuditActor
    action: str = Field(description="method and route")
    target: str = Field(description="the path that was asked for")
    outcome: str = Field(
        description="done, refused, failed; unknown: it runs, or it was cut off and has to be "
        "looked for; empty: it is no request"
    )
    status: int = Field(description="HTTP; 0: none is known")
    request_id: str = Field(description="as X-Request-ID of the answer")
    details: dict[str, str]
    hash: str = Field(description="SHA-256 of its line in the export")
    kind: str = Field(description="began, asked, ended or refused")


class ChainOut(BaseModel):
    """What a look at one chain found."""

    appliance: str
    records: int
    checkpoints: int
    first: int = Field(description="index of the oldest record in the store")
    index: int = Field(description="of the newest")
    ok: bool
    problem: str = Field(description="empty: it is whole")


class AuditVerifyOut(BaseModel):
    """What a look at all chains found."""

    ok: bool
    at: datetime
    cluster: str = Field(description="ID, which signatures are bound to")
    key: str = Field(description="public key, base64: an exported file is verified with it")
    chains: list[ChainOut]
