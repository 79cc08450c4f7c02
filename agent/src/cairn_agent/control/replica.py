"""One appliance's agent API: one request at a time, no retry."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Final, Self, TypeVar, cast

import httpcore
import httpx
import msgspec

from cairn_agent.control.tls import CONNECT_TIMEOUT_S, connection_error
from cairn_agent.entropy import stir_tls
from cairn_agent.errors import Busy, NoAnswer, Refused, Unreachable
from cairn_agent.http_transport import HttpTransport
from cairn_agent.netmap.held import MAX_OCTETS
from cairn_agent.protocol import acks, gateway, reassertion, telemetry
from cairn_agent.protocol import enrolment as wire

log = logging.getLogger(__name__)

_ANSWER_TIMEOUT_S: Final = 15.0
_MAX_ANSWER_OCTETS: Final = 1024 * 1024
_KEPT_S: Final = 3.0  # idle connections; an appliance has one less to hold for each agent
_BUSY: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_READ_BY_APPLIANCES: Final = {telemetry.HEADER: telemetry.VERSION, acks.HEADER: acks.VERSION}
_SAID_WITHIN_S: Final = 5.0  # what can't be written up the stream by then is given up
_SILENT_REMEDY: Final = "nothing where there are other appliances; else look whether it runs"
_T = TypeVar("_T")


class Silent(NoAnswer):
    """The appliance has stopped speaking in the middle of a stream: paused, hung or cut off."""


class Replica:
    """The agent API of one appliance; `skew_s` is how far its clock is ahead of ours.

    `quiet_s` is for how long the netmap stream may say nothing; it may change meanwhile.
    """

    def __init__(self, address: str, context: ssl.SSLContext) -> None:
        self.address = address
        self.context = context
        self.skew_s: float | None = None
        self.quiet_s = _ANSWER_TIMEOUT_S
        self._up: Any = None  # the connection of the netmap stream, where lines may go up
        self._up_turn = asyncio.Lock()
        self._reads: frozenset[str] = frozenset()  # which lines, by the header that says so
        timeout = httpx.Timeout(_ANSWER_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        limits = httpx.Limits(max_connections=4, keepalive_expiry=_KEPT_S)
        self._client = httpx.AsyncClient(
            base_url=f"https://{address}/agent/v1",
            transport=HttpTransport(verify=context, trust_env=False, limits=limits),
            trust_env=False,
            timeout=timeout,
            follow_redirects=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._client.aclose()

    async def enrol(self, request: wire.EnrolRequest) -> wire.EnrolAnswer:
        """Show the token and become known."""
        return await self._post("enrol", request, wire.EnrolAnswer)

    async def register(self, request: wire.RegisterRequest) -> wire.RegisterAnswer:
        """Say what the node is and where it can be reached."""
        return await self._post("register", request, wire.RegisterAnswer)

    async def ack(self, request: wire.AckRequest) -> None:
        """Say what the data plane has loaded."""
        await self._send("ack", request)

    async def renew(self, request: wire.RenewRequest) -> wire.RenewAnswer:
        """Get a new certificate."""
        return await self._post("renew", request, wire.RenewAnswer)

    async def copy(self, request: wire.CopyRequest) -> wire.EnrolAnswer:
        """Become a node of its own, having been turned away as a copy of another."""
        return await self._post("copy", request, wire.EnrolAnswer)

    async def become(self, request: wire.RenewRequest) -> wire.EnrolAnswer:
        """Take up the identity that an operator gave to this machine."""
        return await self._post("become", request, wire.EnrolAnswer)

    async def reassert(self, request: reassertion.ReassertRequest) -> reassertion.ReassertAnswer:
        """Say what netmap is held, to a cluster that was restored from a backup."""
        return await self._post("reassert", request, reassertion.ReassertAnswer)

    async def reassert_vsubnet(self, held: reassertion.ReassertedVSubnet) -> None:
        """Show one document of it."""
        await self._send("reassert/vsubnet", held)

    async def leave(self, request: wire.LeaveRequest) -> None:
        """Leave for good."""
        await self._send("leave", request)

    async def gateway_beat(self, beat: gateway.GatewayBeat) -> gateway.BeatAnswer:
        """Say how the node's segments are, and hear who forwards."""
        return await self._post("gateway/beat", beat, gateway.BeatAnswer)

    async def gateway_release(self, request: gateway.ReleaseRequest) -> None:
        """Say that the gate is closed for good under this term."""
        await self._send("gateway/release", request)

    async def gateway_stations(self, report: gateway.StationReport) -> None:
        """Say which machines are on the LAN."""
        await self._send("gateway/stations", report)

    async def gateway_event(self, event: gateway.GatewayEvent) -> None:
        """Tell the operators' event log something."""
        await self._send("gateway/event", event)

    async def gateway_preflight(self, report: gateway.PreflightReport) -> None:
        """Say what a pre-flight found."""
        await self._send("gateway/preflight", report)

    async def netmap_lines(
        self, incarnation: int, revision: int, quiet_s: float, trust: str = ""
    ) -> AsyncGenerator[bytes, None]:
        """Yield the stream's lines; raise Unreachable where it ends or is quiet for too long."""
        stir_tls()
        self.quiet_s = quiet_s
        # No `read`: the answer's beginning and each of its pieces are waited for here.
        timeout = httpx.Timeout(_ANSWER_TIMEOUT_S, connect=CONNECT_TIMEOUT_S, read=None)
        query: dict[str, int | str] = {"incarnation": incarnation, "after": revision}
        if trust:
            query["trust"] = trust
        request = self._client.build_request("GET", "netmap", params=query, timeout=timeout)
        with self._explained():
            async with asyncio.timeout(_ANSWER_TIMEOUT_S):
                response = await self._client.send(request, stream=True)
            async with contextlib.aclosing(response):
                self._look_at_clock(response)
                if response.status_code != 200:
                    raise _problem(self.address, response, await _limited(response))
                self._reads = frozenset(
                    name
                    for name, version in _READ_BY_APPLIANCES.items()
                    if response.headers.get(name) == str(version)
                )
                if self._reads:
                    self._up = response.extensions.get("network_stream")
                try:
                    async with (
                        contextlib.aclosing(self._in_time(response)) as pieces,
                        contextlib.aclosing(_lines(pieces)) as lines,
                    ):
                        async for line in lines:
                            yield line
                finally:
                    self._up = None
        raise Unreachable(f"{self.address} ended the netmap stream", "")

    @property
    def takes_reports(self) -> bool:
        """True while a netmap stream is open whose appliance reads reports that come up it."""
        return self._up is not None and telemetry.HEADER in self._reads

    @property
    def takes_acks(self) -> bool:
        """True while a netmap stream is open whose appliance reads acknowledgements there."""
        return self._up is not None and acks.HEADER in self._reads

    async def report(self, line: bytes) -> bool:
        """Send a report up the netmap stream; return whether there was one that took it."""
        return self.takes_reports and await self._say_up(line)

    async def ack_up(self, ack: wire.AckRequest) -> bool:
        """As `ack`, up the netmap stream; return whether there was one that took it.

        What was taken may be lost with the stream only, and the next one begins with another.
        """
        return self.takes_acks and await self._say_up(acks.encode(ack))

    async def _say_up(self, line: bytes) -> bool:
        """Send a line up the netmap stream.

        There is no answer and no request of its own: an idle connection would have to be kept, or
        made anew each time. A stream that can't be written to ends by itself.
        """
        async with self._up_turn:
            up = self._up
            if up is None:
                return False
            try:
                await up.write(line, timeout=_SAID_WITHIN_S)
            except (httpcore.NetworkError, httpcore.TimeoutException, OSError) as error:
                log.debug("nothing can be sent up appliance=%s: %s", self.address, error)
                self._up = None
                return False
        return True

    async def _in_time(self, response: httpx.Response) -> AsyncGenerator[bytes, None]:
        """Yield the pieces as they come; raise Silent where none comes for `quiet_s`."""
        coming = cast("AsyncGenerator[bytes, None]", response.aiter_bytes())
        async with contextlib.aclosing(coming) as pieces:
            while True:
                try:
                    async with asyncio.timeout(self.quiet_s):
                        piece = await anext(pieces)
                except StopAsyncIteration:
                    return
                except TimeoutError as error:
                    quiet = f"{self.quiet_s:.1f} s"
                    cause = f"the appliance at {self.address} has said nothing for {quiet}"
                    raise Silent(cause, _SILENT_REMEDY) from error
                yield piece

    async def _post(self, path: str, body: msgspec.Struct, answer: type[_T]) -> _T:
        octets = await self._send(path, body)
        try:
            return msgspec.json.decode(octets, type=answer)
        except msgspec.MsgspecError as error:
            raise Unreachable(
                f"{self.address} answers what is no answer to {path}: {error}",
                "check that the appliance has a version that fits this agent",
            ) from error

    async def _send(self, path: str, body: msgspec.Struct) -> bytes:
        stir_tls()
        headers = {"content-type": "application/json"}
        with self._explained():
            async with self._client.stream(
                "POST", path, content=msgspec.json.encode(body), headers=headers
            ) as response:
                self._look_at_clock(response)
                octets = await _limited(response)
        if not response.is_success:
            raise _problem(self.address, response, octets)
        return octets

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (httpx.TimeoutException, TimeoutError) as error:
            raise connection_error(self.address, TimeoutError()) from error
        except (httpx.HTTPError, ssl.SSLError) as error:  # an alert within TLS comes as it is
            raise connection_error(self.address, error) from error

    def _look_at_clock(self, response: httpx.Response) -> None:
        with contextlib.suppress(ValueError, TypeError, KeyError):
            served = parsedate_to_datetime(response.headers["date"]).timestamp()
            self.skew_s = served - time.time()


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Yield whole lines without their end; raise Unreachable for one that is too long."""
    kept = bytearray()
    async for chunk in chunks:
        searched = len(kept)
        kept += chunk
        begin = 0
        while (end := kept.find(b"\n", max(begin, searched))) >= 0:
            if end > begin:
                yield bytes(kept[begin:end])
            begin = end + 1
        del kept[:begin]
        if len(kept) > MAX_OCTETS:
            raise Unreachable(f"the appliance sent a line over {MAX_OCTETS} octets", "")
        await asyncio.sleep(0)


async def _limited(response: httpx.Response) -> bytes:
    octets = bytearray()
    async for chunk in response.aiter_bytes():
        octets += chunk
        if len(octets) > _MAX_ANSWER_OCTETS:
            raise Unreachable("the appliance sent an answer that is too long", "")
    return bytes(octets)


def _problem(address: str, response: httpx.Response, octets: bytes) -> Unreachable | Refused:
    status = response.status_code
    try:
        problem = msgspec.json.decode(octets, type=wire.Problem)
    except msgspec.MsgspecError:
        problem = wire.Problem(title=f"HTTP {status}", status=status, code=f"http_{status}")
    cause = problem.detail or problem.title
    if status in _BUSY:
        after = response.headers.get("retry-after", "")
        wait_s = min(float(after), 300.0) if after.isdecimal() else 0.0
        return Busy(f"{address}: {cause}", problem.remedy, wait_s, problem.code)
    return Refused(cause, problem.remedy, problem.code)
