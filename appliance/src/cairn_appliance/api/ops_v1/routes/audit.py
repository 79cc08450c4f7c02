"""The audit: who asked for what, and what became of it."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query
from fastapi.responses import StreamingResponse

from cairn_appliance.api.ops_v1.context import ActorDep, ServicesDep
from cairn_appliance.api.ops_v1.models import Page, moment
from cairn_appliance.api.ops_v1.models_audit import AuditActor, AuditOut, AuditVerifyOut, ChainOut
from cairn_appliance.api.ops_v1.paging import PagingDep
from cairn_appliance.domain.audit import ChainReport
from cairn_appliance.services.audit import Audit
from cairn_appliance.services.audit_chains import Shown, Verified

router = APIRouter(prefix="/audit", tags=["audit"])

_COLUMNS = (
    *("sequence", "appliance", "index", "at", "kind", "actor", "role", "address", "action"),
    *("target", "outcome", "status", "request_id", "details", "hash"),
)
# What a spreadsheet takes for a formula at the beginning of a cell (OWASP, CSV injection).
_FORMULAS = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which records are asked for; what is empty does not filter."""

    actor: str
    action: str
    target: str
    request: str
    since: float
    until: float

    def wants(self, shown: Shown) -> bool:
        """Return whether the record is one of them."""
        entry = shown.record.entry
        return (
            self.actor in ("", entry.who.name)
            and self.action.casefold() in entry.action.casefold()
            and self.target in entry.target
            and self.request in ("", entry.request)
            and self.since <= entry.at_ms / 1000 < self.until
        )


def _filter(
    actor: Annotated[str, Query(max_length=64, description="name")] = "",
    action: Annotated[str, Query(max_length=300, description="a part of method and route")] = "",
    target: Annotated[str, Query(max_length=300, description="a part of the path")] = "",
    request: Annotated[str, Query(max_length=64, description="ID of the request")] = "",
    since: datetime | None = None,
    until: datetime | None = None,
) -> AuditFilter:
    began = since.timestamp() if since else 0.0
    ended = until.timestamp() if until else float("inf")
    return AuditFilter(actor, action, target, request, began, ended)


FilterDep = Annotated[AuditFilter, Depends(_filter)]


@router.get("")
async def list_audit(services: ServicesDep, paging: PagingDep, which: FilterDep) -> Page[AuditOut]:
    """Requests that change something, newest first, each with what became of it."""
    found: list[Shown] = []
    for shown in await services.audit.shown():
        if which.wants(shown) and (not paging.after or _position(shown) < paging.after):
            found.append(shown)
            if len(found) > paging.limit:
                break
    page, following = paging.page(found, _position, newest_first=True)
    return Page(items=[_out(each) for each in page], next=following)


@router.get("/export", response_class=StreamingResponse)
async def export_audit(
    services: ServicesDep, format: Literal["jsonl", "csv"] = "jsonl"
) -> StreamingResponse:
    """All records in the store: jsonl to be verified without an appliance, csv to be read."""
    if format == "csv":
        return StreamingResponse(_csv(services.audit), media_type="text/csv; charset=utf-8")
    return StreamingResponse(services.audit.export(), media_type="application/jsonl")


@router.get("/verify")
async def verify_audit(services: ServicesDep) -> AuditVerifyOut:
    """Look at every record of every chain now."""
    return _verified(services.audit, await services.audit.verify())


@router.post("/accept")
async def accept_audit(services: ServicesDep, by: ActorDep) -> AuditVerifyOut:
    """Put chains that were tampered with aside, on this appliance's disk, and begin them anew."""
    await services.audit.accept(by)
    return _verified(services.audit, await services.audit.verify())


def _position(shown: Shown) -> str:
    return f"{shown.sequence:020d}/{shown.record.appliance}/{shown.record.index:012d}"


def _out(shown: Shown) -> AuditOut:
    entry, ended = shown.record.entry, shown.ended.entry if shown.ended else None
    who = entry.who
    return AuditOut(
        sequence=shown.sequence,
        appliance=shown.record.appliance,
        index=shown.record.index,
        at=moment(entry.at_ms / 1000),
        actor=AuditActor(kind=who.kind, name=who.name, role=who.role, address=who.address),
        action=entry.action,
        target=entry.target,
        outcome=shown.outcome,
        status=ended.status if ended else entry.status,
        request_id=entry.request,
        details={**entry.details, **(ended.details if ended else {})},
        hash=shown.hash,
        kind=entry.kind,
    )


def _verified(audit: Audit, found: Verified) -> AuditVerifyOut:
    return AuditVerifyOut(
        ok=found.is_ok,
        at=moment(found.at),
        cluster=audit.cluster,
        key=audit.public_key,
        chains=[_chain(each) for each in found.chains],
    )


def _chain(report: ChainReport) -> ChainOut:
    return ChainOut(
        appliance=report.appliance,
        records=report.records,
        checkpoints=report.checkpoints,
        first=report.first,
        index=report.index,
        ok=not report.problem,
        problem=report.problem,
    )


async def _csv(audit: Audit) -> AsyncIterator[str]:
    yield _line(_COLUMNS)
    for shown in await audit.shown():
        yield _line(_cells(_out(shown)))


def _cells(row: AuditOut) -> Iterator[str]:
    plain = row.model_dump(mode="json")
    plain |= {"actor": row.actor.name, "role": row.actor.role, "address": row.actor.address}
    plain["details"] = "; ".join(f"{name}={value}" for name, value in row.details.items())
    for name in _COLUMNS:
        yield _harmless(str(plain[name]))


def _harmless(text: str) -> str:
    """Return a cell that no spreadsheet computes, with what draws nothing written out."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return f"'{text}" if text.lstrip().startswith(_FORMULAS) else text


def _line(cells: Iterable[str]) -> str:
    out = io.StringIO()
    csv.writer(out, quoting=csv.QUOTE_ALL).writerow(cells)
    return out.getvalue()
