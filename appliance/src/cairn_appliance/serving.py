"""Sockets and HTTP servers of the two APIs."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from cairn_appliance.cluster.errors import EnvironmentLacks

BACKLOG = 4096
KEEP_ALIVE_S = 65  # longer than any client of ours keeps an idle connection
GRACE_S = 3
# What is sent and not acknowledged for so long belongs to a node that is no longer there.
UNACKNOWLEDGED_MS = 20_000
# An idle link is asked whether it lives: 20 s after the last word it is known to be dead,
# and a node that comes back from another host is not taken for a clone of itself.
KEEPALIVE = {socket.TCP_KEEPIDLE: 10, socket.TCP_KEEPINTVL: 5, socket.TCP_KEEPCNT: 2}


class Server(uvicorn.Server):
    """A server that leaves the signals to the process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield

    async def run_until(self, stop: asyncio.Event, sockets: list[socket.socket]) -> None:
        """Serve until `stop`, then end what is under way within some seconds."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.serve(sockets), name="serve")
            await stop.wait()
            self.should_exit = True


def server(
    app: ASGIApp, context: ssl.SSLContext, protocol: type[HttpToolsProtocol], *, lifespan: bool
) -> Server:
    """Return a server that is not running yet."""
    config = uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        lifespan="on" if lifespan else "off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
        ssl_context_factory=lambda _config, _default: context,
    )
    return Server(config)


def shared(sockets: list[socket.socket]) -> list[socket.socket]:
    """Return the same sockets for a server that is to end before another takes them over."""
    return [each.dup() for each in sockets]


def listening(port: int, what: str) -> list[socket.socket]:
    """Return sockets on all IPv4 and, where there is IPv6, all IPv6 addresses.

    Two sockets, so that a client's address is never an IPv4 address in IPv6 clothes.
    """
    sockets = [_bound(socket.AF_INET, "0.0.0.0", port, what)]
    if socket.has_ipv6:
        with contextlib.suppress(_NoIpv6):
            sockets.append(_bound(socket.AF_INET6, "::", port, what))
    return sockets


class _NoIpv6(Exception):
    """The machine has no IPv6."""


def _bound(family: socket.AddressFamily, host: str, port: int, what: str) -> socket.socket:
    try:
        bound = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise _NoIpv6 from error
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in KEEPALIVE.items():
            bound.setsockopt(socket.IPPROTO_TCP, option, value)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        if family == socket.AF_INET6 and error.errno in _NO_ADDRESS:
            raise _NoIpv6 from error
        raise EnvironmentLacks(
            f"TCP port {port} for the {what} can't be used: {error.strerror}",
            remedy="stop what uses it (`ss -ltnp`), or choose another port in settings.toml",
        ) from error
    return bound


_NO_ADDRESS = (97, 99)  # EAFNOSUPPORT, EADDRNOTAVAIL: IPv6 is compiled in but switched off
