"""Events: what happened, and what happens."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query
from fastapi.sse import EventSourceResponse, ServerSentEvent

from cairn_appliance.api.ops_v1.context import ServicesDep
from cairn_appliance.api.ops_v1.models import EventOut, Page
from cairn_appliance.api.ops_v1.paging import PagingDep
from cairn_appliance.api.ops_v1.shown import all_names, event_out
from cairn_appliance.domain.errors import Invalid
from cairn_appliance.domain.event import Event, Severity
from cairn_appliance.services.events import KEPT

router = APIRouter(prefix="/events", tags=["events"])

_EVENT_ID = re.compile(r"(\d{1,19})/([0-9A-Za-z-]{1,64})")
Reference = Annotated[str, Query(max_length=128, description="ID")]
Severities = Annotated[list[Severity], Query(description="one or more")]


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events are asked for; what is empty does not filter."""

    kind: str
    severities: tuple[Severity, ...]
    node: str
    vsubnet: str
    since: float
    until: float

    def wants(self, event: Event) -> bool:
        """Return whether the event is one of them."""
        return (
            self.kind in ("", event.kind)
            and (not self.severities or event.severity in self.severities)
            and self.node in ("", event.node)
            and self.vsubnet in ("", event.vsubnet)
            and self.since <= event.at < self.until
        )


def _filter(
    kind: Annotated[str, Query(max_length=64)] = "",
    severity: Severities = [],  # noqa: B006 - FastAPI copies it
    node: Reference = "",
    vsubnet: Reference = "",
    since: datetime | None = None,
    until: datetime | None = None,
) -> EventFilter:
    began = since.timestamp() if since else 0.0
    ended = until.timestamp() if until else float("inf")
    return EventFilter(kind, tuple(severity), node, vsubnet, began, ended)


def resume_after(last_event_id: Annotated[str | None, Header()] = None) -> tuple[int, str] | None:
    """Return the position that a client has seen last; None: it starts now."""
    if last_event_id is None:
        return None
    match = _EVENT_ID.fullmatch(last_event_id)
    if match is None:
        raise Invalid(
            "Last-Event-ID is none of ours",
            "send the `id` of the last event that was received, or leave it out",
            code="invalid_event_id",
        )
    return int(match[1]), match[2]


FilterDep = Annotated[EventFilter, Depends(_filter)]
ResumeDep = Annotated[tuple[int, str] | None, Depends(resume_after)]


@router.get("")
async def list_events(services: ServicesDep, paging: PagingDep, which: FilterDep) -> Page[EventOut]:
    """Events, newest first."""
    events = [event for event in await services.events.latest(KEPT) if which.wants(event)]
    page, following = paging.page(events, _position, newest_first=True)
    names = await all_names(services)
    return Page(items=[event_out(each, names) for each in page], next=following)


@router.get("/stream", response_class=EventSourceResponse)
async def stream_events(
    services: ServicesDep, which: FilterDep, resume: ResumeDep
) -> AsyncIterator[ServerSentEvent]:
    """Events as they happen; Last-Event-ID resumes after that one."""
    after = None if resume is None else resume[0] - 1
    async with aclosing(services.events.follow(after)) as events:
        async for event in events:
            if which.wants(event) and is_new(event, resume):
                shown = event_out(event, await all_names(services))
                event_id = f"{event.sequence}/{event.id}"
                yield ServerSentEvent(data=shown, event="event", id=event_id)


def is_new(event: Event, resume: tuple[int, str] | None) -> bool:
    """Events of one change share its sequence: some of them may have been seen."""
    return resume is None or (event.sequence, event.id) > resume


def _position(event: Event) -> str:
    return f"{event.sequence:020d}/{event.id}"
