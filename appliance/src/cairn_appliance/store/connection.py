"""Which member of etcd is spoken to, and how a failed call is told apart.

One endpoint is used for as long as it works; one that failed is left alone for a while. The
first is home, the member on this machine: whoever had to leave it goes back once it is well.
Every watch and lease has a connection of its own, so that big lists can't starve it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc
import grpc.aio

from cairn_appliance.store.port import Full, LeaseLost, StoreError, Unavailable

Answer = TypeVar("Answer")
Method = Callable[..., Awaitable[Any]]

READ_S = 2.0  # one try of a read, and of connecting
# One try of a write. It isn't tried again once it was sent, so it outlasts an election (1 to 2 s)
# and a slow disk instead of leaving the caller in doubt. Where the quorum is lost, requests are
# ended before that (services/quorum.py).
WRITE_S = 4.5
# What was on its way to a leader that died is lost, and etcd says nothing of it. Once an
# answer shows that another leads, what was sent before has so long to be heard of.
SETTLED_S = 0.3
TOTAL_S = 9.5  # all tries of a call; the port promises ten seconds
BAD_S = 5.0  # an endpoint that failed is not chosen for so long, if there is another
_BACKOFF_FIRST_S = 0.05
BACKOFF_LAST_S = 1.0
_MESSAGE_MAX_OCTETS = 64 << 20
_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.use_local_subchannel_pool", 1),  # otherwise channels share one connection
    ("grpc.enable_http_proxy", 0),  # https_proxy in the environment is not meant for etcd
    ("grpc.max_receive_message_length", _MESSAGE_MAX_OCTETS),
    ("grpc.min_reconnect_backoff_ms", int(READ_S * 1000)),
]
REQUIRE_LEADER = (("hasleader", "true"),)


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files of mutual TLS; read again for each connection, so that they can be renewed."""

    ca: Path
    certificate: Path
    key: Path


class Compacted(StoreError):
    """The revision asked for is no longer kept."""


class NotConnected(Unavailable):
    """The endpoint could not be reached: nothing was sent to it."""


class LeaderChanged(Unavailable):
    """The members have another leader; the endpoint that says so is well."""


class Backoff:
    """Waits between tries: doubling, jittered, bounded."""

    def __init__(self) -> None:
        self._next_s = _BACKOFF_FIRST_S

    def reset(self) -> None:
        """Begin again with the shortest wait."""
        self._next_s = _BACKOFF_FIRST_S

    async def wait(self) -> None:
        """Sleep for 50 to 100 % of the current step."""
        await asyncio.sleep(self._next_s * random.uniform(0.5, 1.0))
        self._next_s = min(self._next_s * 2, BACKOFF_LAST_S)


class Endpoints:
    """The members' addresses (host:port), home first, and which of them failed of late."""

    def __init__(self, addresses: Sequence[str], tls: Tls | None) -> None:
        if not addresses:
            raise ValueError("etcd has at least one endpoint")
        self._addresses = list(addresses)
        self._tls = tls
        self._current = 0
        self._bad_until: dict[str, float] = {}
        self._is_home_well = False
        self._is_home_avoided = False

    @property
    def is_away(self) -> bool:
        """Whether another member than home is the current one."""
        return self._current != 0

    @property
    def tls(self) -> Tls | None:
        """The PEM files that connections use."""
        return self._tls

    def replace(self, addresses: Sequence[str]) -> None:
        """Take the members of now; the one in use stays in use while it is among them."""
        if not addresses:
            raise ValueError("etcd has at least one endpoint")
        current = self._addresses[self._current]
        self._addresses = list(dict.fromkeys(addresses))
        known = current in self._addresses
        self._current = self._addresses.index(current) if known else 0
        self._bad_until = {a: t for a, t in self._bad_until.items() if a in self._addresses}

    def pick(self) -> str:
        """Return the current one; past a failure the next one that is not bad, or was first."""
        now = asyncio.get_running_loop().time()
        count = len(self._addresses)
        in_turn = [(self._current + step) % count for step in range(count)]
        bad_until = [self._bad_until.get(address, 0.0) for address in self._addresses]
        self._current = min(in_turn, key=lambda index: max(bad_until[index], now))
        return self._addresses[self._current]

    def go_home(self) -> None:
        """Have home used from now on: somebody saw that it is well and follows a leader."""
        self._current = 0
        self._bad_until.pop(self._addresses[0], None)
        self._is_home_well, self._is_home_avoided = True, False

    def avoid_home(self) -> None:
        """Have another used for a while: home is slow."""
        self.mark_bad(self._addresses[0])
        self._is_home_avoided = True

    def is_to_leave(self, address: str) -> bool:
        """Whether a connection to this address is to be given up, for home or for a better one."""
        if address != self._addresses[0]:
            return self._is_home_well
        now = asyncio.get_running_loop().time()
        others = self._addresses[1:]
        return self._is_home_avoided and any(self._bad_until.get(o, 0.0) <= now for o in others)

    def mark_bad(self, address: str) -> None:
        """Leave it alone for a while."""
        if address == self._addresses[0]:
            self._is_home_well = False
        self._bad_until[address] = asyncio.get_running_loop().time() + BAD_S

    def open(self, address: str) -> grpc.aio.Channel:
        """Return a new connection; raise StoreError where the PEM files can't be read."""
        if self._tls is None:
            return grpc.aio.insecure_channel(address, options=_OPTIONS)
        try:
            credentials = grpc.ssl_channel_credentials(
                self._tls.ca.read_bytes(),
                self._tls.key.read_bytes(),
                self._tls.certificate.read_bytes(),
            )
        except OSError as error:
            raise StoreError(f"{error.filename} can't be read: {error.strerror}") from error
        return grpc.aio.secure_channel(address, credentials, options=_OPTIONS)


class Link:
    """One connection to one endpoint."""

    def __init__(self, address: str, channel: grpc.aio.Channel) -> None:
        self.address = address
        self.channel = channel
        self._users = 0
        self._is_dropped = False

    @contextlib.asynccontextmanager
    async def used(self) -> AsyncIterator[None]:
        """Keep it open inside the block, even where another call drops it meanwhile."""
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            await self._close_unused()

    async def drop(self) -> None:
        """Close it once nobody uses it any more; nobody new may."""
        self._is_dropped = True
        await self._close_unused()

    async def _close_unused(self) -> None:
        if self._is_dropped and self._users == 0:
            await self.channel.close(None)

    async def ready(self, timeout_s: float) -> None:
        """Return once it is connected; raise NotConnected at the first refusal."""
        try:
            async with asyncio.timeout(timeout_s):
                state = self.channel.get_state(try_to_connect=True)
                while state is not grpc.ChannelConnectivity.READY:
                    if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                        raise NotConnected(f"{self.address} refuses the connection")
                    await self.channel.wait_for_state_change(state)
                    state = self.channel.get_state(try_to_connect=True)
        except TimeoutError as error:
            raise NotConnected(f"{self.address} doesn't answer") from error


class Caller:
    """Makes single calls: bounded, on the endpoint that works."""

    def __init__(self, endpoints: Endpoints, counters: Counter[str]) -> None:
        self._endpoints = endpoints
        self._counters = counters
        self._link: Link | None = None
        self._term = 0  # of raft: each leader has another
        self._under_way: set[asyncio.Timeout] = set()  # writes

    async def read(self, method: Callable[[grpc.aio.Channel], Method], request: object) -> Any:
        """Call, again and elsewhere if need be; raise Unavailable after ten seconds."""
        return await self._call(method, request, READ_S, is_repeatable=True)

    async def write(self, method: Callable[[grpc.aio.Channel], Method], request: object) -> Any:
        """Call; again only while nothing was sent, since a sent write may have happened."""
        return await self._call(method, request, WRITE_S, is_repeatable=False)

    async def close(self) -> None:
        """Close the connection when the calls on it have ended."""
        link, self._link = self._link, None
        if link is not None:
            await link.drop()

    async def _call(
        self,
        method: Callable[[grpc.aio.Channel], Method],
        request: object,
        try_s: float,
        *,
        is_repeatable: bool,
    ) -> Any:
        loop = asyncio.get_running_loop()
        end = loop.time() + TOTAL_S
        backoff = Backoff()
        while True:
            link = await self._current()
            try:
                async with link.used():
                    await link.ready(min(READ_S, max(end - loop.time(), 0.01)))
                    timeout_s = min(try_s, max(end - loop.time(), 0.01))
                    call = method(link.channel)(request)
                    if is_repeatable:
                        answer = await bounded(call, timeout_s)
                    else:
                        answer = await self._while_it_leads(call, timeout_s)
                    self._note_term(answer.header.raft_term)
                    return answer
            except Full:
                raise
            except Unavailable as error:
                if not isinstance(error, LeaderChanged):
                    await self._drop(link)
                is_safe = is_repeatable or isinstance(error, NotConnected)
                if not is_safe or loop.time() + BACKOFF_LAST_S >= end:
                    self._counters["unavailable"] += 1
                    raise
            await backoff.wait()

    async def _while_it_leads(self, call: Awaitable[Any], timeout_s: float) -> Any:
        """Return the answer to a write; raise Unavailable soon after the leader has changed."""
        try:
            async with asyncio.timeout(None) as deadline:  # none until another leads
                self._under_way.add(deadline)
                try:
                    return await bounded(call, timeout_s)
                finally:
                    self._under_way.discard(deadline)
        except TimeoutError as error:
            raise LeaderChanged("the leader changed while it was under way") from error

    def _note_term(self, term: int) -> None:
        if term <= self._term:
            return
        is_first, self._term = self._term == 0, term
        if is_first:
            return
        latest = asyncio.get_running_loop().time() + SETTLED_S
        for deadline in self._under_way:
            when = deadline.when()
            if when is None or when > latest:
                deadline.reschedule(latest)

    async def _current(self) -> Link:
        left = self._link
        if left is not None and self._endpoints.is_to_leave(left.address):
            self._link = None  # before anything is awaited: others come here meanwhile
            await left.drop()
        if self._link is None:
            address = self._endpoints.pick()
            self._link = Link(address, self._endpoints.open(address))
        return self._link

    async def _drop(self, link: Link) -> None:
        """Use another connection from now on; calls on this one may end by themselves."""
        if self._link is not link:
            return
        self._link = None
        self._counters["failover"] += 1
        self._endpoints.mark_bad(link.address)
        await link.drop()


async def bounded(call: Awaitable[Answer], timeout_s: float) -> Answer:
    """Return the answer of a gRPC call; raise what its failure means."""
    try:
        async with asyncio.timeout(timeout_s):
            return await call
    except TimeoutError as error:
        raise Unavailable(f"no answer within {timeout_s:.1f} s") from error
    except asyncio.InvalidStateError as error:  # grpc's word for a stream that has ended meanwhile
        raise Unavailable("etcd ended the stream") from error
    except grpc.aio.AioRpcError as error:
        raise meaning(error) from error


def meaning(error: grpc.aio.AioRpcError) -> StoreError:
    """Return the store's error for one of gRPC (texts are etcd's, api/v3rpc/rpctypes)."""
    code, text = error.code(), error.details() or ""
    if code is grpc.StatusCode.OUT_OF_RANGE and "compacted" in text:
        return Compacted(text)
    if code is grpc.StatusCode.NOT_FOUND and "lease not found" in text:
        return LeaseLost(text)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "space exceeded" in text:
        return Full(text)
    if "not supported for learner" in text:
        return NotConnected(text)  # nothing happened: any other member can do it
    if "leader changed" in text:
        return LeaderChanged(text)
    if code in _FINAL:
        return StoreError(f"{code.name}: {text}")
    return Unavailable(f"{code.name}: {text}")


_FINAL = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
}
