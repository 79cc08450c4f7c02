"""Reads what nodes report to the other appliances, while anybody looks (docs/adr/0013).

Nothing is asked while nobody looks.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

import httpx
import msgspec

from cairn_appliance.cluster.appliance_client import ApplianceClient
from cairn_appliance.domain.cluster import Appliance
from cairn_appliance.domain.telemetry import SHARED_REPORTS, Shared, decoded_shared
from cairn_appliance.pki.authority import utc_now
from cairn_appliance.pki.keyring import Keyring

log = logging.getLogger(__name__)

EVERY_S: Final = 2.0
ANSWER_S: Final = 3.0
ANSWER_MAX_OCTETS: Final = 64 << 20  # of 10,000 nodes with twenty sessions each, twice over
_LOOKED_AT_EVERY_S: Final = 0.5


class Board(Protocol):
    """Where what is read goes: cairn_appliance.services.telemetry.TelemetryBoard."""

    refresh: Callable[[], Awaitable[None]] | None

    @property
    def is_watched(self) -> bool:
        """True while anybody looks."""

    def merge(self, appliance: str, shared: Shared, *, is_anew: bool) -> None:
        """Take over what another appliance has."""

    def forget_others(self, present: Iterable[str]) -> None:
        """Forget what came from appliances that are no more."""


@dataclass
class _Position:
    """How far another appliance's board has been read."""

    instance: str = ""
    version: int = 0


class TelemetryExchange:
    """Keeps the board's part of the others fresh while it is looked at."""

    def __init__(
        self,
        board: Board,
        keyring: Keyring,
        own: str,
        appliances: Callable[[], list[Appliance]],
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._board = board
        self._own = own
        self._appliances = appliances
        self._positions: dict[str, _Position] = {}
        self._turn = asyncio.Lock()
        self._client = ApplianceClient(keyring, now)
        board.refresh = self.refresh

    async def run(self) -> None:
        """Read again and again while anybody looks, until cancelled."""
        try:
            while True:
                if self._board.is_watched:
                    await self.refresh()
                    await asyncio.sleep(EVERY_S * random.uniform(0.8, 1.2))
                else:
                    await self._client.close()
                    await asyncio.sleep(_LOOKED_AT_EVERY_S)
        finally:
            await self._client.close()

    async def refresh(self) -> None:
        """Read once from all others; one that gives no answer is left as it was."""
        async with self._turn:
            others = [each for each in self._appliances() if each.name != self._own]
            self._board.forget_others(each.name for each in others)
            if others:
                client = await self._client.connected()
                await asyncio.gather(*(self._read(client, each) for each in others))

    async def _read(self, client: httpx.AsyncClient, other: Appliance) -> None:
        position = self._positions.setdefault(other.name, _Position())
        for place in other.agents:
            try:
                async with asyncio.timeout(ANSWER_S):
                    octets = await _answer(client, place, position)
                shared = decoded_shared(octets)
            except (httpx.HTTPError, TimeoutError, msgspec.MsgspecError, ssl.SSLError) as error:
                log.debug("reports of appliance=%s are not known reason=%s", other.name, error)
                continue
            is_anew = shared.instance != position.instance
            self._board.merge(other.name, shared, is_anew=is_anew)
            position.instance, position.version = shared.instance, shared.version
            return


async def _answer(client: httpx.AsyncClient, place: str, position: _Position) -> bytes:
    query: dict[str, str | int] = {"instance": position.instance, "after": position.version}
    url = f"https://{place}{SHARED_REPORTS}"
    async with client.stream("GET", url, params=query) as answer:
        if answer.status_code != 200:
            raise httpx.HTTPError(f"HTTP {answer.status_code}")
        octets = bytearray()
        async for piece in answer.aiter_bytes():
            octets += piece
            if len(octets) > ANSWER_MAX_OCTETS:
                raise httpx.HTTPError("the answer is too long")
    return bytes(octets)
