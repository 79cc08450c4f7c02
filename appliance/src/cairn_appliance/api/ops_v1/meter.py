"""Counts and times requests by route, for `/metrics`.

It stands before the gate, so that what is refused is counted too. Labels are routes of the
matrix, never paths: a stranger who tries paths makes no series of their own.
"""

from __future__ import annotations

from collections.abc import Iterable
from time import perf_counter

from prometheus_client import Counter, Histogram
from prometheus_client.metrics_core import Metric
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cairn_appliance.api.ops_v1 import matrix

_BUCKETS = (0.005, 0.025, 0.1, 0.5, 2.5, 10.0)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"})
_LOGIN = f"{matrix.ROOT}/login"
_REFUSED = (401, 403, 429)


class Meter:
    """What was asked of this appliance since it was started."""

    def __init__(self) -> None:
        self._requests = Counter(
            "cairn_http_requests",
            "Requests to the operations API by route, method and status",
            ("route", "method", "status"),
            registry=None,
        )
        self._took = Histogram(
            "cairn_http_request_duration_seconds",
            "Until an answer began",
            ("route", "method"),
            buckets=_BUCKETS,
            registry=None,
        )
        self._refused = Counter(
            "cairn_logins_refused", "Logins that were refused or put off", registry=None
        )

    def note(self, method: str, path: str, status: int, took_s: float) -> None:
        """Count a request."""
        listed, _ = matrix.find(method, path)
        route = listed.path if listed else "other"
        method = method if method in _METHODS else "other"
        self._requests.labels(route, method, str(status)).inc()
        self._took.labels(route, method).observe(took_s)
        if path == _LOGIN and status in _REFUSED:
            self._refused.inc()

    def collect(self) -> Iterable[Metric]:
        """Yield what was counted."""
        for each in (self._requests, self._took, self._refused):
            yield from each.collect()


class Metered:
    """ASGI middleware: notes each request when its answer begins."""

    def __init__(self, app: ASGIApp, meter: Meter) -> None:
        self._app = app
        self._meter = meter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = perf_counter()

        async def send_noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                took_s = perf_counter() - began
                self._meter.note(scope["method"], scope["path"], message["status"], took_s)
            await send(message)

        await self._app(scope, receive, send_noted)
