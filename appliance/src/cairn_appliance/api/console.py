"""The web console's files, at `/` of the operations port.

Outermost on that port: a console whose store has no quorum still comes up and can say so.
Which files there are is known before anybody asks, so no path of a request ever reaches the
file system; what is compressed was compressed at build.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import mimetypes
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

import cairn_appliance
from cairn_appliance.api import errors

log = logging.getLogger(__name__)

INDEX = "index.html"
# First parts of the console's own addresses; a test compares them with its source.
ROUTES = frozenset(
    {
        "access",
        "audit",
        "cluster",
        "events",
        "gateways",
        "join",
        "latency",
        "nodes",
        "oidc",
        "segments",
        "settings",
        "tokens",
        "topology",
        "vsubnets",
    }
)
_OTHERS = ("/api/", "/healthz", "/readyz", "/metrics")
_ENCODINGS = (("br", ".br"), ("gzip", ".gz"))  # best first
_HASHED = "assets/"
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_NOT_BUILT = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Cairn</title></head><body>
<h1>This appliance runs, without its web console</h1>
<p>The console was not built with it. In a checkout, <code>make setup</code> builds it (it needs
Node 20 or newer, and says so if there is none); then restart the appliance.</p>
<p>The command <code>cairn</code> and the API under <code>/api/v1</code> can do all the same.</p>
</body></html>
"""


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    media_type: str
    encodings: Mapping[str, Path]
    etag: str


class Console:
    """ASGI middleware: answers for the console, passes on what is an API's."""

    def __init__(self, app: ASGIApp, directory: Path | None) -> None:
        self._app = app
        self._directory = directory
        self._files = _files(directory) if directory else {}
        self._built_at = _built_at(directory)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a file, the first page for an address of the console, or pass it on."""
        if scope["type"] != "http" or scope["path"].startswith(_OTHERS):
            await self._app(scope, receive, send)
            return
        await (await self._answer(scope))(scope, receive, send)

    async def _answer(self, scope: Scope) -> Response:
        name = self._name(scope["path"])
        if name is None:
            return errors.answer_http(404, f"there is no {scope['path'][:200]}")
        if scope["method"] not in ("GET", "HEAD"):
            allow = {"Allow": "GET, HEAD"}
            return errors.answer_http(405, f"{scope['method']} is not possible here", allow)
        if name == INDEX:
            await asyncio.to_thread(self._look_again)
        file = self._files.get(name)
        if file is None:
            return self._without(name, scope["path"])
        return await _read(file, Headers(scope=scope), is_hashed=name.startswith(_HASHED))

    def _name(self, path: str) -> str | None:
        """Return the file that is asked for; None: nothing of the console."""
        first, _, rest = path.removeprefix("/").partition("/")
        if not first or first in ROUTES:
            return INDEX if first or not rest else None
        return path.removeprefix("/")

    def _without(self, name: str, path: str) -> Response:
        if name == INDEX:
            return Response(_NOT_BUILT, 503, _headers("no-store"), media_type="text/html")
        return errors.answer_http(404, f"there is no {path[:200]}")

    def _look_again(self) -> None:
        """A console that was built anew has other files."""
        built_at = _built_at(self._directory)
        if self._directory and built_at != self._built_at:
            self._files, self._built_at = _files(self._directory), built_at


def find_console() -> Path | None:
    """Return where the built console is: beside this package, or in the checkout's build."""
    package = Path(cairn_appliance.__file__).resolve().parent
    candidates = [package / "console"]
    if len(package.parents) > 2:
        candidates.append(package.parents[2] / "build" / "console")
    return next((each for each in candidates if (each / INDEX).is_file()), None)


async def _read(file: _File, headers: Headers, *, is_hashed: bool) -> Response:
    cache = "public, max-age=31536000, immutable" if is_hashed else "no-cache"
    answer = {**_headers(cache), "ETag": file.etag, "Vary": "Accept-Encoding"}
    if file.etag in headers.get("if-none-match", ""):
        return Response(status_code=304, headers=answer)
    path = file.path
    accepted = _accepted(headers.get("accept-encoding", ""))
    for encoding, compressed in file.encodings.items():
        if encoding in accepted:
            path, answer["Content-Encoding"] = compressed, encoding
            break
    try:
        body = await asyncio.to_thread(path.read_bytes)
    except OSError as error:
        log.warning("a file of the console can't be read path=%s reason=%s", path, error)
        return errors.answer_http(404, "this file of the console is gone: reload the page")
    return Response(body, headers=answer, media_type=file.media_type)


def _accepted(header: str) -> frozenset[str]:
    """Return the encodings that a client takes; one with q=0 it does not."""
    parts = (part.strip().partition(";") for part in header.lower().split(","))
    return frozenset(
        name.strip() for name, _, quality in parts if quality.replace(" ", "") not in _NEVER
    )


_NEVER = frozenset({"q=0", "q=0.0", "q=0.00", "q=0.000"})


def _headers(cache: str) -> dict[str, str]:
    return {**_HEADERS, "Cache-Control": cache}


def _files(directory: Path) -> dict[str, _File]:
    paths = {str(path.relative_to(directory)): path for path in directory.rglob("*")}
    found = {}
    for name, path in paths.items():
        if path.is_dir() or path.suffix in (".br", ".gz"):
            continue
        encodings = {
            encoding: paths[name + suffix]
            for encoding, suffix in _ENCODINGS
            if name + suffix in paths
        }
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        etag = f'"{hashlib.sha256(path.read_bytes()).hexdigest()[:32]}"'
        found[name] = _File(path, kind, encodings, etag)
    return found


def _built_at(directory: Path | None) -> int:
    try:
        return (directory / INDEX).stat().st_mtime_ns if directory else 0
    except OSError:
        return 0
