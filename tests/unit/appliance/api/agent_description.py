"""The agent API as OpenAPI, made from its messages: to make requests from, to judge answers by."""

from __future__ import annotations

from typing import Any

import msgspec
from cairn_agent.protocol import enrolment as wire
from cairn_agent.protocol import gateway, reassertion

ROOT = "/agent/v1"
REFUSALS = (400, 401, 403, 404, 408, 409, 413, 422, 429, 503)
# Path -> what is asked, what is answered (None: nothing).
CALLS: dict[str, tuple[type[msgspec.Struct], type[msgspec.Struct] | None]] = {
    f"{ROOT}/enrol": (wire.EnrolRequest, wire.EnrolAnswer),
    f"{ROOT}/register": (wire.RegisterRequest, wire.RegisterAnswer),
    f"{ROOT}/ack": (wire.AckRequest, None),
    f"{ROOT}/renew": (wire.RenewRequest, wire.RenewAnswer),
    f"{ROOT}/copy": (wire.CopyRequest, wire.EnrolAnswer),
    f"{ROOT}/become": (wire.RenewRequest, wire.EnrolAnswer),
    f"{ROOT}/leave": (wire.LeaveRequest, None),
    f"{ROOT}/reassert": (reassertion.ReassertRequest, reassertion.ReassertAnswer),
    f"{ROOT}/gateway/beat": (gateway.GatewayBeat, gateway.BeatAnswer),
    f"{ROOT}/gateway/release": (gateway.ReleaseRequest, None),
    f"{ROOT}/gateway/event": (gateway.GatewayEvent, None),
    f"{ROOT}/gateway/stations": (gateway.StationReport, None),
    f"{ROOT}/gateway/preflight": (gateway.PreflightReport, None),
    f"{ROOT}/reassert/vsubnet": (reassertion.ReassertedVSubnet, None),
}
NETMAP = f"{ROOT}/netmap"


def described() -> dict[str, Any]:
    """Return the OpenAPI document; the netmap's stream, which has no end, is not in it."""
    messages = {each for call in CALLS.values() for each in call if each} | {wire.Problem}
    kinds = sorted(messages, key=lambda each: each.__name__)
    references, components = msgspec.json.schema_components(
        kinds, ref_template="#/components/schemas/{name}"
    )
    by_kind = dict(zip(kinds, references, strict=True))
    refusal = {
        "description": "refused",
        "content": {"application/problem+json": {"schema": by_kind[wire.Problem]}},
    }
    refusals = {str(status): refusal for status in REFUSALS}
    paths = {
        path: {
            "post": {
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": by_kind[asked]}},
                },
                "responses": refusals | _answered(by_kind[answered] if answered else None),
            }
        }
        for path, (asked, answered) in CALLS.items()
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "Cairn agent API", "version": str(wire.PROTOCOL)},
        "paths": paths,
        "components": {"schemas": components},
    }


def _answered(schema: dict[str, Any] | None) -> dict[str, Any]:
    if schema is None:
        return {"204": {"description": "done"}}
    return {"200": {"description": "done", "content": {"application/json": {"schema": schema}}}}
