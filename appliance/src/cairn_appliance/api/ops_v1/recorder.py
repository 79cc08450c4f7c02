"""Records what changes something: before it is carried out, and what became of it.

It stands behind the gate and before every route, so that none can be forgotten. Where nobody is
known yet (a login, an appliance that joins) the answer is held back until it is recorded:
what it gives is good for nobody who doesn't get it.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from dataclasses import replace

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cairn_appliance.api import errors
from cairn_appliance.api.ops_v1 import matrix
from cairn_appliance.domain.access import Principal
from cairn_appliance.domain.audit import Entry, Kind, Outcome, Who
from cairn_appliance.domain.errors import CairnError
from cairn_appliance.domain.identity import ActorKind
from cairn_appliance.domain.visible import without_secrets
from cairn_appliance.services.audit import Audit
from cairn_appliance.store.port import StoreError

REQUEST_ID = "X-Request-ID"
_TARGET_MAX, _VALUE_MAX, _VALUES_MAX = 300, 200, 24
_LOOKED_INTO_OCTETS = 1 << 16  # of an answer, for its code and the ID of what was made
# What of a body is told. Everything else is not: a new field has to be put here to be seen.
_HARMLESS = frozenset(
    (
        *("name", "prefixes", "reserved", "mtu", "policy", "guards", "bum_pps", "bum_burst"),
        *("ageing_s", "offline_trust_s", "shared_ips", "revoke_now", "reason", "node", "ips"),
        *("role", "vsubnets", "vsubnet", "max_uses", "life_s", "site", "needs_approval"),
        *("sources", "instances"),
        *("preference", "dhcp", "router_advertisements", "silent_hosts", "mac_limit"),
        *("source_bum_pps", "port", "vlan", "to", "listen_s", "user", "scope", "disabled"),
        *("expires_at", "min_severity", "host", "protocol", "issuer", "client_id", "scopes"),
        *("user_claim", "role_claim", "default_role", "allowed_domains", "allowed_groups"),
    )
)


class Recorder:
    """ASGI middleware between the gate and the routes."""

    def __init__(self, app: ASGIApp, audit: Audit) -> None:
        self._app = app
        self._audit = audit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, recorded where it changes something."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        listed, _ = matrix.find(scope["method"], scope["path"])
        if listed is None or not matrix.is_recorded(scope["method"], listed.path):
            await self._app(scope, receive, send)
            return
        if (scope["method"], listed.path) in matrix.UPLOADS:
            entry = replace(asked(self._audit, scope, listed.path, b""), digest="")  # not looked at
            await self._serve_known(entry, scope, receive, send)
            return
        try:
            body = await _whole(receive)
        except HTTPException as error:
            await errors.answer_http(error.status_code, str(error.detail))(scope, receive, send)
            return
        if body is None:
            return  # whoever asked has left
        entry = asked(self._audit, scope, listed.path, body)
        again = _again(body, receive)
        if listed.needed is matrix.PUBLIC:
            await self._serve_stranger(entry, scope, again, send)
        else:
            await self._serve_known(entry, scope, again, send)

    async def _serve_known(self, entry: Entry, scope: Scope, receive: Receive, send: Send) -> None:
        is_deletion = scope["method"] == "DELETE" or scope["path"].endswith("/logout")
        try:
            await self._audit.ask(entry, may_wait=is_deletion)
        except (StoreError, CairnError) as error:
            await errors.answer_error(error)(scope, receive, send)
            return
        answer = _Answer(entry.request, send)
        try:
            await self._app(scope, receive, answer.pass_on)
        finally:
            self._audit.end(answer.ended(entry, self._audit.now_ms()))

    async def _serve_stranger(
        self, entry: Entry, scope: Scope, receive: Receive, send: Send
    ) -> None:
        held: list[Message] = []

        async def hold(message: Message) -> None:
            held.append(message)

        answer = _Answer(entry.request, hold)
        await self._app(scope, receive, answer.pass_on)
        ended = answer.ended(entry, self._audit.now_ms())
        if ended.outcome == Outcome.DONE:
            who = answer.named(ended.who)
            try:
                await self._audit.record(replace(entry, who=who), replace(ended, who=who))
            except StoreError as error:
                await errors.answer_error(error)(scope, receive, send)
                return
        else:
            is_user = await self._audit.is_user(ended.who.name)
            who = ended.who if is_user else replace(ended.who, name="")
            self._audit.refused(replace(ended, kind=Kind.REFUSED, who=who))
        for message in held:
            await send(message)


def asked(audit: Audit, scope: Scope, route: str, body: bytes) -> Entry:
    """Return the record of what is asked for."""
    principal: Principal | None = scope.get("state", {}).get("principal")
    details = {} if principal is None else dict(_told(body))
    return Entry(
        Kind.ASKED,
        audit.now_ms(),
        request=secrets.token_hex(8),
        who=_who(scope, principal, body),
        action=f"{scope['method']} {route}",
        target=_clean(scope["path"], _TARGET_MAX),
        digest="" if principal is None else audit.digest(body),
        details=details,
    )


def refused(audit: Audit, scope: Scope, route: str, who: Principal, error: CairnError) -> None:
    """Record that somebody asked for what they may not."""
    if matrix.is_recorded(scope["method"], route):
        scope.setdefault("state", {})["principal"] = who
        entry = asked(audit, scope, route, b"")
        details = {"code": error.code}
        audit.refused(
            replace(entry, kind=Kind.REFUSED, outcome=Outcome.REFUSED, status=403, details=details)
        )


class _Answer:
    """What is answered, looked at on its way."""

    def __init__(self, request: str, send: Send) -> None:
        self._request = request
        self._send = send
        self._status = 0
        self._is_replayed = False
        self._is_json = False
        self._start = bytearray()

    async def pass_on(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            headers = MutableHeaders(scope=message)
            headers[REQUEST_ID] = self._request
            self._is_replayed = "idempotency-replayed" in headers
            self._is_json = "json" in Headers(scope=message).get("content-type", "")
        elif len(self._start) < _LOOKED_INTO_OCTETS and self._is_json:
            self._start += message.get("body", b"")
        await self._send(message)

    def ended(self, entry: Entry, at_ms: int) -> Entry:
        """Return the record of what became of the request."""
        return Entry(
            Kind.ENDED,
            at_ms,
            request=entry.request,
            who=entry.who,
            action=entry.action,
            target=entry.target,
            digest=entry.digest,
            outcome=self._outcome(),
            status=self._status,
            details=dict(self._details()),
        )

    def named(self, who: Who) -> Who:
        """Return who it is where only the answer says so: a login by an identity provider."""
        user = None if who.name else _object(bytes(self._start)).get("user")
        return replace(who, name=_clean(user, 64)) if isinstance(user, str) else who

    def _outcome(self) -> Outcome:
        if not self._status:
            return Outcome.UNKNOWN
        if self._status < 400:
            return Outcome.DONE
        return Outcome.REFUSED if self._status < 500 else Outcome.FAILED

    def _details(self) -> Iterator[tuple[str, str]]:
        """Yield what is told of the answer: an ID, a code, and never what was made in secret."""
        if self._is_replayed:
            yield "replayed", "true"
        body = _object(bytes(self._start)) if self._status else {}
        for name in ("id", "code"):
            if isinstance(text := body.get(name), str):
                yield name, _clean(text, _VALUE_MAX)


async def _whole(receive: Receive) -> bytes | None:
    """Return the body; None where the client leaves. The gate bounds its size and its time."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return bytes(body)


def _again(body: bytes, receive: Receive) -> Receive:
    is_given = False

    async def again() -> Message:
        nonlocal is_given
        if is_given:
            return await receive()
        is_given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _who(scope: Scope, principal: Principal | None, body: bytes) -> Who:
    address = scope["client"][0] if scope.get("client") else ""
    if principal is not None:
        return Who(ActorKind.OPERATOR, principal.name, principal.role, address)
    claimed = _object(body).get("name") if scope["path"].endswith("/login") else None
    return Who("stranger", _clean(claimed, 64) if isinstance(claimed, str) else "", "", address)


def _told(body: bytes) -> Iterator[tuple[str, str]]:
    """Yield the fields of a body that may be seen, by name."""
    count = 0
    for name, value in _object(body).items():
        if name not in _HARMLESS:
            continue
        inner = value if isinstance(value, dict) else {}
        found = ((f"{name}.{each}", inner[each]) for each in inner if each in _HARMLESS)
        for full, each in found if inner else ((name, value),):
            count += 1
            if count > _VALUES_MAX:
                return
            yield full, _text(each)


def _text(value: object) -> str:
    if isinstance(value, str):
        return _clean(value, _VALUE_MAX)
    if isinstance(value, list):
        return _clean(", ".join(each for each in value if isinstance(each, str)), _VALUE_MAX)
    return json.dumps(value)[:_VALUE_MAX] if isinstance(value, bool | int | float) else ""


def _object(body: bytes) -> dict[str, object]:
    try:
        found = json.loads(body) if body else {}
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _clean(text: str, most: int) -> str:
    return without_secrets(text)[:most].encode("utf-8", "replace").decode()
