"""Asks another appliance whether the stream of a node that is open there still lives."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Final

import httpx
import msgspec

from cairn_appliance.cluster.appliance_client import ApplianceClient
from cairn_appliance.domain.cluster import Appliance
from cairn_appliance.domain.node import SHARED_STREAM
from cairn_appliance.pki.authority import utc_now
from cairn_appliance.pki.keyring import Keyring

log = logging.getLogger(__name__)

# The other one takes 1.5 s itself to find a machine dead (cairn_appliance.services.streams).
ANSWER_S: Final = 4.0
_TIMEOUT: Final = httpx.Timeout(2.5, connect=1.0)  # of one address
_ANSWER_MAX_OCTETS: Final = 1024


class _Answer(msgspec.Struct, frozen=True):
    answers: bool


class StreamQuestions:
    """Asks by HTTPS, at one address of the other appliance after the other."""

    def __init__(
        self,
        keyring: Keyring,
        appliances: Callable[[], list[Appliance]],
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._client = ApplianceClient(keyring, now)
        self._appliances = appliances
        self._turn = asyncio.Lock()  # one makes the client, the others use it

    async def answers(self, appliance: str, node: str) -> bool | None:
        """Return what the appliance says; None where it says nothing within `ANSWER_S`."""
        places = next((each.agents for each in self._appliances() if each.name == appliance), ())
        async with self._turn:
            client = await self._client.connected()
        with suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_S):
                for place in places:
                    if (said := await _asked(client, place, node)) is not None:
                        return said
        log.info("appliance=%s doesn't say whether node=%s is linked to it", appliance, node)
        return None

    async def close(self) -> None:
        """Close its connections."""
        await self._client.close()


async def _asked(client: httpx.AsyncClient, place: str, node: str) -> bool | None:
    url = f"https://{place}{SHARED_STREAM}"
    try:
        answer = await client.get(url, params={"node": node}, timeout=_TIMEOUT)
        if answer.status_code != 200 or len(answer.content) > _ANSWER_MAX_OCTETS:
            return None
        return msgspec.json.decode(answer.content, type=_Answer).answers
    except (httpx.HTTPError, msgspec.MsgspecError, ssl.SSLError) as error:
        log.debug("no answer from place=%s reason=%s", place, error)
        return None
