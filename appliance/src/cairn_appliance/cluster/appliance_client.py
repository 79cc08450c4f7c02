"""HTTPS to the other appliances, on the agents' port.

Mutual TLS: each appliance signs itself a client certificate with the cluster's CA, in memory,
under a name that no node can have.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Callable
from datetime import datetime
from typing import Final

import httpx
from cairn_agent.http_transport import HttpTransport

from cairn_appliance.domain.telemetry import APPLIANCE
from cairn_appliance.pki.authority import utc_now
from cairn_appliance.pki.keyring import Keyring

_ANSWER_S: Final = 3.0
_CERTIFICATE_DAYS: Final = 2
_RENEWED_AFTER_S: Final = 86_400.0 / 2


class ApplianceClient:
    """A client that follows the cluster's keys."""

    def __init__(self, keyring: Keyring, now: Callable[[], datetime] = utc_now) -> None:
        self._keyring = keyring
        self._now = now
        self._client: httpx.AsyncClient | None = None
        self._client_of: tuple[str, float] = ("", 0.0)  # issuer, and since when

    async def connected(self) -> httpx.AsyncClient:
        """Return a client whose certificate is of who issues now, and not old."""
        loop_s = asyncio.get_running_loop().time()
        issuer, since = self._client_of
        is_good = issuer == self._keyring.authority.key_id and loop_s - since < _RENEWED_AFTER_S
        if self._client is None or not is_good:
            await self.close()
            self._client = httpx.AsyncClient(
                transport=HttpTransport(verify=self._context(), trust_env=False),
                trust_env=False,
                timeout=_ANSWER_S,
            )
            self._client_of = (self._keyring.authority.key_id, loop_s)
        return self._client

    async def close(self) -> None:
        """Close its connections; the next use opens new ones."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    def _context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False  # the CA signs servers' certificates for appliances only
        context.load_verify_locations(cadata=self._keyring.clients)
        authority = self._keyring.authority
        pair = authority.issue_pair(APPLIANCE, "client", (), self._now(), _CERTIFICATE_DAYS)
        descriptor = os.memfd_create("certificate")
        try:
            os.write(descriptor, pair.certificate + pair.private_key)
            context.load_cert_chain(f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)
        return context
