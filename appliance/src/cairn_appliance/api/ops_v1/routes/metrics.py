"""`/metrics`: what Prometheus reads of this appliance."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Response

from cairn_appliance.api.ops_v1.context import OpsDep
from cairn_appliance.api.ops_v1.exposition import TEXT, expose

router = APIRouter(tags=["metrics"])


class MetricsResponse(Response):
    """The exposition format."""

    media_type = TEXT


@router.get("/metrics", response_class=MetricsResponse)
async def metrics(ops: OpsDep, accept: Annotated[str, Header()] = "") -> Response:
    """What this appliance measures, as Prometheus or OpenMetrics text (docs/operate.md)."""
    octets, content_type = await expose(ops, accept)
    return Response(octets, headers={"Content-Type": content_type})
