"""What a new node installs: the agent's packages, and the script that fetches and joins.

Strangers may have them, so they get little of the appliance: few downloads at once, few from
one source, each within a bound of time, and only the files that `make packages` has listed.
A node then needs nothing but this appliance's TCP port.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import re
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from cairn_appliance.api.limits import source_of
from cairn_appliance.domain.errors import NotFound, TooMany
from cairn_appliance.services.clock import Clock

AT_ONCE = 16  # downloads; a roll-out's next ones are told when to come back
AT_ONCE_PER_SOURCE = 4
PER_MINUTE = 60  # requests of one source; an installation makes four
DOWNLOAD_WITHIN_S = 600.0
_WINDOW_S = 60.0
_SOURCES_REMEMBERED = 10_000
_CHUNK_OCTETS = 64 * 1024
_LIST_MAX_OCTETS = 64 * 1024
_SCRIPT_MAX_OCTETS = 256 * 1024
_LISTED = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9][A-Za-z0-9._+~-]{0,127})")
_LIST = ("SHA256SUMS", "SHA256SUMS.sig")
_SCRIPT = "install.sh"


@dataclass(frozen=True, slots=True)
class Packages:
    """Where the packages are, and what a script that is served has to know of this appliance."""

    directory: Path
    appliances: Sequence[str]  # host:port of this appliance's agent API
    certificate: Callable[[], bytes]  # PEM of what TLS shows now

    def command(self) -> str:
        """Return the shell command that installs the agent, short of the token to join with;
        empty where there is nothing to install."""
        if not (self.directory / _SCRIPT).is_file():
            return ""
        url = f"https://{self.appliances[0]}/{_SCRIPT}"
        return f"curl -fsS -k --pinnedpubkey '{self._pin()}' {url} | sh -s --"

    def script(self) -> bytes:
        """Return the script, which finds and knows this appliance again; raise NotFound."""
        text = self._read(_SCRIPT, _SCRIPT_MAX_OCTETS).decode()
        bases = " ".join(f"https://{each}" for each in self.appliances)
        return text.replace("@BASES@", bases).replace("@PIN@", self._pin()).encode()

    def listed(self) -> dict[str, str]:
        """Return SHA-256 by name of what may be fetched; raise NotFound."""
        lines = self._read(_LIST[0], _LIST_MAX_OCTETS).decode(errors="replace").splitlines()
        found = (match for line in lines if (match := _LISTED.fullmatch(line)))
        return {match[2]: match[1] for match in found}

    def file(self, name: str) -> Path:
        """Return the path of a file that is listed, or of the list; raise NotFound."""
        path = self.directory / name
        if (name not in _LIST and name not in self.listed()) or not path.is_file():
            raise NotFound("there is no such package here", "GET /packages/ lists what there is")
        return path

    def _read(self, name: str, most: int) -> bytes:
        try:
            with (self.directory / name).open("rb") as file:
                return file.read(most)
        except OSError as error:
            raise NotFound(
                "this appliance has no packages of the agent",
                "an operator puts what `make packages` built into packages_dir of settings.toml",
            ) from error

    def _pin(self) -> str:
        """Return what curl and wget compare the server's key with."""
        key = x509.load_pem_x509_certificate(self.certificate()).public_key()
        octets = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return "sha256//" + base64.b64encode(hashlib.sha256(octets).digest()).decode()


class PackageRoutes:
    """The endpoints; they need no certificate and no quorum."""

    def __init__(self, packages: Packages) -> None:
        self._packages = packages
        self._limit = DownloadLimit()

    async def script(self, request: Request) -> Response:
        """The script that installs and joins."""
        async with self._limit.download(_address(request)):
            text = await asyncio.to_thread(self._packages.script)
        return Response(text, media_type="text/x-shellscript")

    async def index(self, request: Request) -> Response:
        """Names and digests of what there is."""
        async with self._limit.download(_address(request)):
            listed = await asyncio.to_thread(self._packages.listed)
        return JSONResponse({"sha256": listed})

    async def file(self, request: Request, name: str) -> Response:
        """One file."""
        path = await asyncio.to_thread(self._packages.file, name)
        return _Download(path, self._limit, _address(request))


class DownloadLimit:
    """So many at once, so many of one source, so many a minute of one source; then 429."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._running: Counter[str] = Counter()
        self._asked: OrderedDict[str, tuple[float, int]] = OrderedDict()

    @asynccontextmanager
    async def download(self, address: str) -> AsyncIterator[None]:
        """Count one while the block runs; raise TooMany."""
        source = source_of(address)
        self._count(source)
        if self._running.total() >= AT_ONCE or self._running[source] >= AT_ONCE_PER_SOURCE:
            raise TooMany("too many fetch packages at once", retry_after_s=5.0)
        self._running[source] += 1
        try:
            yield
        finally:
            self._running[source] -= 1
            if not self._running[source]:
                del self._running[source]

    def _count(self, source: str) -> None:
        now = self._clock()
        since, count = self._asked.get(source, (now, 0))
        if now - since >= _WINDOW_S:
            since, count = now, 0
        if count >= PER_MINUTE:
            raise TooMany(
                "too many requests for packages from this address",
                retry_after_s=max(1.0, _WINDOW_S - (now - since)),
            )
        self._asked[source] = since, count + 1
        self._asked.move_to_end(source)
        while len(self._asked) > _SOURCES_REMEMBERED:
            self._asked.popitem(last=False)


class _Download(Response):
    """A file, piece by piece as the reader takes it, while its place among few is held."""

    def __init__(self, path: Path, limit: DownloadLimit, address: str) -> None:
        self._path, self._limit, self._address = path, limit, address
        super().__init__(media_type="application/octet-stream")
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it; a reader that is too slow loses the connection."""
        async with self._limit.download(self._address):
            file = await asyncio.to_thread(self._path.open, "rb")
            with file:
                self.headers["content-length"] = str(os.fstat(file.fileno()).st_size)
                start = {"status": 200, "headers": self.raw_headers}
                async with asyncio.timeout(DOWNLOAD_WITHIN_S):
                    await send({"type": "http.response.start", **start})
                    while chunk := await asyncio.to_thread(file.read, _CHUNK_OCTETS):
                        await send({"type": "http.response.body", "body": chunk, "more_body": True})
                    await send({"type": "http.response.body", "body": b""})


def _address(request: Request) -> str:
    return request.client.host if request.client else ""
