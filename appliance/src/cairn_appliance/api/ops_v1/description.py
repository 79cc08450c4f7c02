"""Completes the API's own description: examples of requests, headers that a POST takes."""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from cairn_appliance.api.ops_v1.idempotent import IdempotentRoute
from cairn_appliance.api.ops_v1.matrix import ROOT
from cairn_appliance.services.idempotency import KEY_MAX_CHARACTERS, KEY_MIN_CHARACTERS

Description = dict[str, Any]

# By method and path below the root. A test validates each against its model.
EXAMPLES: Final[dict[tuple[str, str], Description]] = {
    ("POST", "/login"): {"name": "admin", "password": "a long old password", "code": "123456"},
    ("POST", "/session/password"): {"old": "a long old password", "new": "a long new password"},
    ("POST", "/session/totp/confirm"): {"code": "123456"},
    ("POST", "/session/totp/remove"): {"password": "a long old password"},
    ("POST", "/users"): {"name": "bob", "role": "operator"},
    ("PATCH", "/users/{user}"): {"role": "viewer", "disabled": False},
    ("POST", "/api-tokens"): {"name": "nightly", "scope": "viewer", "life_s": 7_776_000},
    ("POST", "/cluster/join-strings"): {"life_s": 3600},
    ("POST", "/cluster/update/start"): {"version": "0.1.0-2"},
    ("POST", "/cluster/join"): {
        "id": "3f8a1c5e9b7d2046",
        "secret": "qL3v1mZk0Yc5w8eRt2uXoAqL3v1mZk0Yc5w8eRt2uXo",
        "nonce": "sZRqySSS0jR8YjW00mERhA==",
        "peer_url": "https://192.0.2.2:2380",
    },
    ("PUT", "/backups/key"): {"public_key": "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="},
    ("POST", "/vsubnets"): {
        "name": "office",
        "prefixes": ["10.7.0.0/24"],
        "reserved": ["10.7.0.1-10.7.0.9"],
    },
    ("PATCH", "/vsubnets/{vsubnet}"): {"mtu": 1400, "policy": {"ageing_s": 300}},
    ("POST", "/vsubnets/{vsubnet}/rotate"): {"revoke_now": False},
    ("POST", "/vsubnets/{vsubnet}/members"): {"node": "web-1", "ips": ["10.7.0.20"]},
    ("PATCH", "/vsubnets/{vsubnet}/members/{node}"): {"ips": ["10.7.0.21"]},
    ("POST", "/segments"): {"name": "hall-2", "vsubnet": "office", "preference": "safety"},
    ("PATCH", "/segments/{segment}"): {"guards": {"mac_limit": 2000}},
    ("POST", "/segments/{segment}/gateways"): {"node": "gw-1", "port": "eth1", "vlan": 120},
    ("POST", "/segments/{segment}/switch-over"): {"to": "gw-2"},
    ("POST", "/preflights"): {"node": "gw-1", "port": "eth1", "vsubnet": "office"},
    ("POST", "/tokens"): {
        "vsubnets": ["office"],
        "max_uses": 20,
        "life_s": 86_400,
        "site": "north",
    },
    ("POST", "/nodes/{node}/reject"): {"reason": "nobody knows it"},
    ("PUT", "/settings/events"): {
        "syslog": [{"host": "192.0.2.9", "port": 6514, "protocol": "tls"}],
        "webhooks": [
            {
                "url": "https://alerts.example/cairn",
                "min_severity": "warning",
                "secret": "a secret that both know",
            }
        ],
    },
    ("POST", "/settings/events/test"): {"id": "log-1"},
    ("PUT", "/settings/oidc"): {
        "name": "the office login",
        "issuer": "https://login.example/realms/office",
        "client_id": "cairn",
        "client_secret": "as the provider shows it",
        "roles": {"cairn-admins": "admin", "cairn-operators": "operator"},
        "default_role": "viewer",
    },
    ("POST", "/oidc/callback"): {"state": "as it came back", "code": "as it came back"},
}

_IDEMPOTENCY_KEY: Final[Description] = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "16 to 128 visible characters, drawn by the client: the same request with the "
    "same key is carried out once and answered as often as it is sent, for a day.",
    "schema": {
        "type": "string",
        "pattern": f"^[!-~]{{{KEY_MIN_CHARACTERS},{KEY_MAX_CHARACTERS}}}$",
    },
}


def complete(app: FastAPI) -> None:
    """Let the application describe itself with examples and headers."""
    plain = app.openapi

    def openapi() -> Description:
        if app.openapi_schema is None:
            _complete(plain(), _idempotent(app))
        return plain()

    app.openapi = openapi  # type: ignore[method-assign]


def _complete(description: Description, idempotent: set[str]) -> None:
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            example = EXAMPLES.get((method.upper(), path.removeprefix(ROOT)))
            for body in operation.get("requestBody", {}).get("content", {}).values():
                if example is not None:
                    body["example"] = example
            if method == "post" and path in idempotent:
                operation.setdefault("parameters", []).append(_IDEMPOTENCY_KEY)


def _idempotent(app: FastAPI) -> set[str]:
    return {
        context.path or ""
        for context in iter_route_contexts(app.routes)
        if isinstance(context.route, IdempotentRoute)
    }
