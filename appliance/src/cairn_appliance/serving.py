"""Sockets and HTTP servers of the two APIs.

Connections are taken in by an accept loop of our own, a bounded number at a time: after an
outage all agents come at once, and a server that begins ten thousand handshakes together
ends none of them before the clients' patience does. Those who wait stand in a line here, for
as long as leaves time for a handshake; who has no turn by then is told that the server is busy,
before any work, and comes again soon. In the kernel's queue nobody could be told anything.
Those who gave up meanwhile are closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import logging
import resource
import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from cairn_appliance.api.client_certificate import CertificateProtocol
from cairn_appliance.api.limits import source_of
from cairn_appliance.api.secure_transport import SecureTransport
from cairn_appliance.cluster.errors import EnvironmentLacks

log = logging.getLogger(__name__)

BACKLOG = 1024  # until the loop comes by, which empties it
ACCEPTED_AT_ONCE = 128  # then others have their turn
AT_ONCE = 64  # connections between their first octet and the answer to their first request
IN_LINE = 4096  # connections that wait for that; each takes an open file
OF_ONE_SOURCE = 3 / 4  # of both, at most: who holds all that it gets leaves room for others
IN_TIME_S = 4.5  # with a handshake; agents wait 5 s
RECKONED_S = 1.5  # for a handshake at least; twice what they took of late
COUNTED_S = 3.0  # who takes longer than this no longer keeps others out
HANDSHAKE_S = 10.0
NOT_ACCEPTED_S = 0.5
GIVE_BACK_EVERY_S = 30.0
COLLECTED_EVERY = 10_000  # objects that are more than before; Python's own is 700
MAPPED_OCTETS = 128 * 1024  # glibc's own limit before it raises it
UNSENT_OCTETS = 64 * 1024  # in the kernel for one connection; beyond it the reader is slow
KEEP_ALIVE_S = 10  # longer than any client of ours keeps an idle connection (agents: 3 s)
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

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._is_ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start without listening: connections come through the door."""
        await super().startup(sockets=[])
        self._is_ready.set()

    async def run_until(self, stop: asyncio.Event, sockets: list[socket.socket]) -> None:
        """Serve until `stop`, then end what is under way within some seconds."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.serve([]), name="serve")
            giving_back = tasks.create_task(_give_back_memory(), name="give back memory")
            await self._is_ready.wait()
            door = Door(self._protocol, self.config.ssl)
            accepting = [
                tasks.create_task(door.accept(listening), name="accept") for listening in sockets
            ]
            await stop.wait()
            for task in (*accepting, giving_back):
                task.cancel()
            await asyncio.wait(accepting)
            for listening in sockets:
                listening.close()
            self.should_exit = True

    def _protocol(self) -> CertificateProtocol:
        return CertificateProtocol(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )


class Door:
    """Takes connections in and through their handshakes, a bounded number at a time.

    A place is taken from the first octet of the handshake to the first answer, since that is
    when a newcomer costs most; but for some seconds at most, so that nobody blocks the door by
    being slow, and not at all by who says nothing. One source has not all of them: a whole fleet
    may come from behind one NAT, but so may one who means ill.
    """

    def __init__(
        self, protocol: Callable[[], CertificateProtocol], context: ssl.SSLContext | None
    ) -> None:
        self._protocol = protocol
        self._context = context
        self._places = asyncio.Semaphore(AT_ONCE)
        self._in_line = 0
        self._sources: dict[str, _Source] = {}
        self._handshake_s = 0.0  # what one took of late

    async def accept(self, listening: socket.socket) -> None:
        """Accept until cancelled."""
        listening.setblocking(False)
        listening.listen(BACKLOG)
        async with asyncio.TaskGroup() as newcomers:
            while True:
                await _readable(listening)
                try:
                    for accepted in _accepted(listening):
                        newcomers.create_task(self._take_in(accepted), name="take in")
                except OSError as error:
                    log.warning("a connection could not be accepted reason=%s", error)
                    await asyncio.sleep(NOT_ACCEPTED_S)  # open files may be used up
                await asyncio.sleep(0)

    async def _take_in(self, accepted: socket.socket) -> None:
        """Let one in and return after its first answer, or close its connection."""
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                await _readable(accepted)
            source = source_of(accepted.getpeername()[0])
        except BaseException as error:
            accepted.close()
            if isinstance(error, OSError):
                return
            raise
        with self._newcomer_of(source) as one:
            try:
                has_turn = await self._has_turn(accepted, one)
            except BaseException:
                accepted.close()
                raise
            if has_turn:
                await self._take_place(accepted, one)
            else:
                self._turn_away(accepted)

    async def _take_place(self, accepted: socket.socket, source: _Source) -> None:
        """Let one in that has a place, and free it after the first answer."""
        place = _Place(self._places, source.places)
        in_time = asyncio.get_running_loop().call_later(COUNTED_S, place.free)
        try:
            await self._shake_hands(accepted)
        finally:
            in_time.cancel()
            place.free()

    @contextlib.contextmanager
    def _newcomer_of(self, name: str) -> Iterator[_Source]:
        """Count one among those of its source for as long as it is at the door."""
        source = self._sources.setdefault(name, _Source())
        source.newcomers += 1
        try:
            yield source
        finally:
            source.newcomers -= 1
            if not source.newcomers:
                del self._sources[name]

    async def _has_turn(self, accepted: socket.socket, source: _Source) -> bool:
        """Take a place; return False where there is none in time, or the line is too long."""
        if self._in_line >= IN_LINE or source.in_line >= IN_LINE * OF_ONE_SOURCE:
            return False
        self._in_line += 1
        source.in_line += 1
        try:
            async with asyncio.timeout(self._line_s() - _waited_s(accepted)):
                await _acquire(source.places, self._places)
        except TimeoutError:
            return False
        finally:
            self._in_line -= 1
            source.in_line -= 1
        return True

    def _line_s(self) -> float:
        """Return how long somebody may wait that there is time for a handshake then."""
        return IN_TIME_S - max(RECKONED_S, 2 * self._handshake_s)

    def _turn_away(self, accepted: socket.socket) -> None:
        """Say that the server is busy, and close the connection."""
        with accepted, contextlib.suppress(OSError):
            accepted.recv(_HELLO_OCTETS)  # else it would be reset, and the alert be lost
            if self._context is not None:
                accepted.send(_BUSY)

    async def _shake_hands(self, accepted: socket.socket) -> None:
        if _has_left(accepted):
            accepted.close()
            return
        loop = asyncio.get_running_loop()
        begun = loop.time()
        protocol = self._protocol()
        try:
            await self._connected(accepted, protocol)
            self._handshake_s += (loop.time() - begun - self._handshake_s) * _NEWEST
            await protocol.settled()
        except OSError as error:
            log.debug("no TLS with a client reason=%s", error)
        except Exception:  # what one client brings about must not end the service
            log.warning("a client could not be let in", exc_info=True)

    async def _connected(self, accepted: socket.socket, protocol: CertificateProtocol) -> None:
        """Give the connection to the protocol, once hands are shaken."""
        loop = asyncio.get_running_loop()
        secure = None if self._context is None else SecureTransport(self._context, protocol)
        try:
            await loop.connect_accepted_socket(lambda: secure or protocol, accepted)
        except BaseException:
            accepted.close()
            raise
        if secure is not None:
            try:
                async with asyncio.timeout(HANDSHAKE_S):
                    await secure.shaken()
            except BaseException:
                secure.abort()
                raise


@dataclass(slots=True)
class _Source:
    """Those at the door who come from one address, or one IPv6 /64."""

    places: asyncio.Semaphore = field(
        default_factory=lambda: asyncio.Semaphore(int(AT_ONCE * OF_ONE_SOURCE))
    )
    newcomers: int = 0
    in_line: int = 0


async def _acquire(*semaphores: asyncio.Semaphore) -> None:
    """Acquire all of them, one after the other, or none."""
    with contextlib.ExitStack() as acquired:
        for semaphore in semaphores:
            await semaphore.acquire()
            acquired.callback(semaphore.release)
        acquired.pop_all()


class _Place:
    """A place at the door, freed once."""

    def __init__(self, *places: asyncio.Semaphore) -> None:
        self._places = places

    def free(self) -> None:
        places, self._places = self._places, ()
        for each in places:
            each.release()


def _accepted(listening: socket.socket) -> Iterator[socket.socket]:
    """Yield the connections that are there, but for those that are worth no handshake."""
    for _ in range(ACCEPTED_AT_ONCE):
        try:
            accepted, _ = listening.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        accepted.setblocking(False)
        if _has_left(accepted):
            accepted.close()
        else:
            yield accepted


def _has_left(accepted: socket.socket) -> bool:
    """True where the client lost its patience while it waited for its turn."""
    state = accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
    return state[0] != _ESTABLISHED


def _waited_s(accepted: socket.socket) -> float:
    """Return how long ago the client said its first word, in the kernel's queue included."""
    info = accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_OCTETS)
    return float(struct.unpack_from("=I", info, _LAST_DATA_AT)[0]) / 1000


async def _readable(waiting: socket.socket) -> None:
    """Return once a client has said something or has left, or somebody wants to connect."""
    loop = asyncio.get_running_loop()
    is_there = loop.create_future()
    loop.add_reader(waiting, _fulfil, is_there)
    try:
        await is_there
    finally:
        loop.remove_reader(waiting)


def _fulfil(is_there: asyncio.Future[None]) -> None:
    if not is_there.done():
        is_there.set_result(None)


async def _give_back_memory() -> None:
    """Return now and then to the system what is no longer used, until cancelled.

    After a storm of connections a third of what they took stays with the process otherwise:
    free, but scattered between what is in use. It takes a millisecond or two.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
    while trim is not None:
        await asyncio.sleep(GIVE_BACK_EVERY_S)
        trim(0)


def map_large_buffers() -> None:
    """Let each large buffer be a mapping of its own, which goes back to the system once freed.

    glibc maps such a buffer, as the line of a whole vSubnet is, until one was freed; from then on
    it cuts them out of what others have used, all of which stays in memory.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # of glibc
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, MAPPED_OCTETS)


def collect_seldom() -> None:
    """Let Python's collector pass over the program itself, and look at the rest less often.

    In a storm of arrivals it took a fifth of the CPU: what each newcomer brings is there to stay,
    and made it look again and again at everything that there was.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECTED_EVERY)


def use_all_files() -> None:
    """Allow this process as many open files as it may have: each agent takes one or two."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


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
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_OCTETS)
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


_ESTABLISHED = 1  # linux/tcp_states.h
_TCP_INFO_OCTETS = 56  # of Linux's struct tcp_info
_LAST_DATA_AT = 52  # tcpi_last_data_recv, milliseconds
_NEWEST = 1 / 8  # its share in what they took of late
_HELLO_OCTETS = 16 * 1024  # a record of TLS
_BUSY = b"\x15\x03\x03\x00\x02\x02\x50"  # TLS alert: fatal, internal_error (RFC 8446, 6)
_M_MMAP_THRESHOLD = -3  # malloc.h
_NO_ADDRESS = (97, 99)  # EAFNOSUPPORT, EADDRNOTAVAIL: IPv6 is compiled in but switched off
