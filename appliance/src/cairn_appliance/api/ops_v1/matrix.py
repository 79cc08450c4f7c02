"""Who may call what: the one table that the gate decides by.

A route that is not listed here is answered to nobody; a test compares the table with the
routes of the application, both ways.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from starlette.routing import compile_path

from cairn_appliance.domain.access import Role
from cairn_appliance.pki.update_file import MOST_OCTETS

ROOT: Final = "/api/v1"
# No session is needed: what is answered is public, or opens the session.
PUBLIC: Final = None

MATRIX: Final[dict[tuple[str, str], Role | None]] = {
    ("GET", "/healthz"): PUBLIC,
    ("GET", "/readyz"): PUBLIC,
    ("GET", "/metrics"): Role.VIEWER,
    ("GET", f"{ROOT}/openapi.json"): PUBLIC,
    ("HEAD", f"{ROOT}/openapi.json"): PUBLIC,
    ("GET", f"{ROOT}/docs"): PUBLIC,
    ("GET", f"{ROOT}/ca"): PUBLIC,
    ("POST", f"{ROOT}/login"): PUBLIC,
    ("POST", f"{ROOT}/logout"): Role.VIEWER,
    ("GET", f"{ROOT}/login-methods"): PUBLIC,
    ("GET", f"{ROOT}/oidc/login"): PUBLIC,
    ("POST", f"{ROOT}/oidc/callback"): PUBLIC,  # opens a session, as a login does
    ("GET", f"{ROOT}/session"): Role.VIEWER,
    ("POST", f"{ROOT}/session/password"): Role.VIEWER,
    ("POST", f"{ROOT}/session/totp"): Role.VIEWER,
    ("POST", f"{ROOT}/session/totp/confirm"): Role.VIEWER,
    ("POST", f"{ROOT}/session/totp/remove"): Role.VIEWER,
    ("GET", f"{ROOT}/sessions"): Role.VIEWER,  # admins see all, others their own
    ("DELETE", f"{ROOT}/sessions/{{session}}"): Role.VIEWER,
    ("GET", f"{ROOT}/users"): Role.ADMIN,
    ("POST", f"{ROOT}/users"): Role.ADMIN,
    ("GET", f"{ROOT}/users/{{user}}"): Role.ADMIN,
    ("PATCH", f"{ROOT}/users/{{user}}"): Role.ADMIN,
    ("DELETE", f"{ROOT}/users/{{user}}"): Role.ADMIN,
    ("GET", f"{ROOT}/api-tokens"): Role.VIEWER,  # the same
    ("POST", f"{ROOT}/api-tokens"): Role.VIEWER,
    ("DELETE", f"{ROOT}/api-tokens/{{api_token}}"): Role.VIEWER,
    ("GET", f"{ROOT}/status"): Role.VIEWER,
    ("GET", f"{ROOT}/cluster"): Role.VIEWER,
    ("POST", f"{ROOT}/cluster/join-strings"): Role.ADMIN,
    # The join string in the body is the authority; it opens one use and nothing else.
    ("POST", f"{ROOT}/cluster/join"): PUBLIC,
    ("POST", f"{ROOT}/cluster/finish-upgrade"): Role.ADMIN,
    ("DELETE", f"{ROOT}/cluster/appliances/{{appliance}}"): Role.ADMIN,
    ("POST", f"{ROOT}/cluster/appliances/{{appliance}}/replace"): Role.ADMIN,
    ("GET", f"{ROOT}/cluster/update"): Role.VIEWER,
    ("PUT", f"{ROOT}/cluster/update/file"): Role.ADMIN,
    ("POST", f"{ROOT}/cluster/update/start"): Role.ADMIN,
    ("POST", f"{ROOT}/cluster/update/rollback"): Role.ADMIN,
    ("GET", f"{ROOT}/backups"): Role.ADMIN,
    ("POST", f"{ROOT}/backups"): Role.ADMIN,
    ("PUT", f"{ROOT}/backups/key"): Role.ADMIN,
    ("GET", f"{ROOT}/backups/{{backup}}/file"): Role.ADMIN,
    ("GET", f"{ROOT}/trust"): Role.VIEWER,
    ("POST", f"{ROOT}/trust/ca/rotate"): Role.ADMIN,
    ("POST", f"{ROOT}/trust/ca/issue"): Role.ADMIN,
    ("POST", f"{ROOT}/trust/ca/retire"): Role.ADMIN,
    ("POST", f"{ROOT}/trust/map-key/rotate"): Role.ADMIN,
    ("POST", f"{ROOT}/trust/map-key/use"): Role.ADMIN,
    ("GET", f"{ROOT}/sites"): Role.VIEWER,
    ("GET", f"{ROOT}/vsubnets"): Role.VIEWER,
    ("POST", f"{ROOT}/vsubnets"): Role.OPERATOR,
    ("GET", f"{ROOT}/vsubnets/{{vsubnet}}"): Role.VIEWER,
    ("PATCH", f"{ROOT}/vsubnets/{{vsubnet}}"): Role.OPERATOR,
    ("DELETE", f"{ROOT}/vsubnets/{{vsubnet}}"): Role.ADMIN,
    ("POST", f"{ROOT}/vsubnets/{{vsubnet}}/rotate"): Role.OPERATOR,
    ("GET", f"{ROOT}/vsubnets/{{vsubnet}}/members"): Role.VIEWER,
    ("POST", f"{ROOT}/vsubnets/{{vsubnet}}/members"): Role.OPERATOR,
    ("GET", f"{ROOT}/vsubnets/{{vsubnet}}/members/{{node}}"): Role.VIEWER,
    ("PATCH", f"{ROOT}/vsubnets/{{vsubnet}}/members/{{node}}"): Role.OPERATOR,
    ("DELETE", f"{ROOT}/vsubnets/{{vsubnet}}/members/{{node}}"): Role.OPERATOR,
    ("GET", f"{ROOT}/members"): Role.VIEWER,
    ("GET", f"{ROOT}/segments"): Role.VIEWER,
    ("POST", f"{ROOT}/segments"): Role.OPERATOR,
    ("GET", f"{ROOT}/segments/{{segment}}"): Role.VIEWER,
    ("PATCH", f"{ROOT}/segments/{{segment}}"): Role.OPERATOR,
    ("DELETE", f"{ROOT}/segments/{{segment}}"): Role.ADMIN,
    ("POST", f"{ROOT}/segments/{{segment}}/gateways"): Role.OPERATOR,
    ("DELETE", f"{ROOT}/segments/{{segment}}/gateways/{{node}}"): Role.OPERATOR,
    ("POST", f"{ROOT}/segments/{{segment}}/switch-over"): Role.OPERATOR,
    ("POST", f"{ROOT}/segments/{{segment}}/stop"): Role.OPERATOR,
    ("POST", f"{ROOT}/segments/{{segment}}/resume"): Role.OPERATOR,
    ("GET", f"{ROOT}/segments/{{segment}}/stations"): Role.VIEWER,
    ("POST", f"{ROOT}/segments/{{segment}}/stations/{{mac}}/unfreeze"): Role.OPERATOR,
    ("POST", f"{ROOT}/preflights"): Role.OPERATOR,
    ("GET", f"{ROOT}/preflights/{{task}}"): Role.VIEWER,
    ("GET", f"{ROOT}/tokens"): Role.VIEWER,
    ("POST", f"{ROOT}/tokens"): Role.OPERATOR,
    ("GET", f"{ROOT}/tokens/{{token}}"): Role.VIEWER,
    ("DELETE", f"{ROOT}/tokens/{{token}}"): Role.OPERATOR,
    ("GET", f"{ROOT}/nodes"): Role.VIEWER,
    ("GET", f"{ROOT}/nodes/{{node}}"): Role.VIEWER,
    ("DELETE", f"{ROOT}/nodes/{{node}}"): Role.OPERATOR,
    ("POST", f"{ROOT}/nodes/{{node}}/approve"): Role.OPERATOR,
    ("POST", f"{ROOT}/nodes/{{node}}/reject"): Role.OPERATOR,
    ("POST", f"{ROOT}/nodes/{{node}}/claim"): Role.OPERATOR,
    ("POST", f"{ROOT}/nodes/{{node}}/unfreeze"): Role.OPERATOR,
    ("GET", f"{ROOT}/settings/events"): Role.ADMIN,
    ("PUT", f"{ROOT}/settings/events"): Role.ADMIN,
    ("POST", f"{ROOT}/settings/events/test"): Role.ADMIN,
    ("GET", f"{ROOT}/settings/oidc"): Role.ADMIN,
    ("PUT", f"{ROOT}/settings/oidc"): Role.ADMIN,
    ("DELETE", f"{ROOT}/settings/oidc"): Role.ADMIN,
    ("POST", f"{ROOT}/settings/oidc/test"): Role.ADMIN,
    ("GET", f"{ROOT}/events"): Role.VIEWER,
    ("GET", f"{ROOT}/events/stream"): Role.VIEWER,
    ("GET", f"{ROOT}/audit"): Role.OPERATOR,
    ("GET", f"{ROOT}/audit/export"): Role.OPERATOR,
    ("GET", f"{ROOT}/audit/verify"): Role.OPERATOR,
    ("POST", f"{ROOT}/audit/accept"): Role.ADMIN,
    ("GET", f"{ROOT}/overview"): Role.VIEWER,
    ("GET", f"{ROOT}/topology"): Role.VIEWER,
    ("GET", f"{ROOT}/latency"): Role.VIEWER,
    ("GET", f"{ROOT}/latency/{{a}}/{{b}}"): Role.VIEWER,
    ("GET", f"{ROOT}/vsubnets/{{vsubnet}}/table"): Role.VIEWER,
    ("GET", f"{ROOT}/nodes/{{node}}/report"): Role.VIEWER,
    ("GET", f"{ROOT}/search"): Role.VIEWER,
    ("GET", f"{ROOT}/stream"): Role.VIEWER,
    ("GET", f"{ROOT}/enrolment"): Role.VIEWER,
}

# What only a person may, after a login: an API token must not make itself a way to stay. A join
# string lets in an appliance, which is given all secrets; a backup can be read by its key.
PERSONS_ONLY: Final = frozenset(
    entry
    for entry in MATRIX
    if entry[1].startswith(
        tuple(
            f"{ROOT}/{part}"
            for part in (
                *("session/", "sessions", "users", "api-tokens", "audit/accept"),
                *("settings/oidc", "cluster/join-strings", "backups/key"),
            )
        )
    )
    and entry[0] != "GET"
) | {("POST", f"{ROOT}/cluster/appliances/{{appliance}}/replace")}
# What is open to one whose password is known to someone else.
BEFORE_PASSWORD_CHANGE: Final = frozenset(
    (("POST", f"{ROOT}/logout"), ("GET", f"{ROOT}/session"), ("POST", f"{ROOT}/session/password"))
)
# Reading that is recorded in the audit as every change is: it takes something away.
READS_RECORDED: Final[frozenset[tuple[str, str]]] = frozenset(
    {("GET", f"{ROOT}/backups/{{backup}}/file"), ("GET", f"{ROOT}/audit/export")}
)

# What has no small body: it is taken piece by piece, and the audit doesn't look into it.
UPLOADS: Final[dict[tuple[str, str], int]] = {
    ("PUT", f"{ROOT}/cluster/update/file"): MOST_OCTETS,
}
# What may take longer than other answers, in seconds.
LONG: Final[dict[tuple[str, str], float]] = {
    ("PUT", f"{ROOT}/cluster/update/file"): 3600.0,
    ("POST", f"{ROOT}/backups"): 600.0,
    ("POST", f"{ROOT}/settings/events/test"): 20.0,
}

_PATTERNS = tuple(
    (compile_path(path)[0], method, path, needed) for (method, path), needed in MATRIX.items()
)


@dataclass(frozen=True, slots=True)
class Listed:
    """An entry of the table; `needed` None: anybody."""

    path: str
    needed: Role | None
    persons_only: bool = False
    before_password_change: bool = False


def is_recorded(method: str, path: str) -> bool:
    """Return whether a request to this entry is recorded in the audit."""
    return method not in ("GET", "HEAD") or (method, path) in READS_RECORDED


def find(method: str, path: str) -> tuple[Listed | None, frozenset[str]]:
    """Return the entry for a request, and the methods that its path does have."""
    methods: set[str] = set()
    for pattern, known, template, needed in _PATTERNS:
        if pattern.match(path):
            if known == method:
                entry = (method, template)
                is_for_persons, is_first = entry in PERSONS_ONLY, entry in BEFORE_PASSWORD_CHANGE
                return Listed(template, needed, is_for_persons, is_first), frozenset()
            methods.add(known)
    return None, frozenset(methods)
