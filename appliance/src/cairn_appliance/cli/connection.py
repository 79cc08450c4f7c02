"""HTTPS to the operations API: one CA is believed, errors are sentences, waits are bounded."""

from __future__ import annotations

import hashlib
import random
import re
import ssl
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, BinaryIO, TypeVar
from urllib.parse import quote, urlsplit

import httpx
import msgspec

from cairn_appliance import __version__
from cairn_appliance.cli.errors import ApiProblem, CommandError, Exit
from cairn_appliance.cli.replies import Problem, Reply
from cairn_appliance.cli.session import Session

T = TypeVar("T")
Query = Mapping[str, str | int | list[str]]

OPS_PORT = 8443
API = "/api/v1"
_CONNECT_S = 5.0
# The appliance answers or says 503 within 12 s.
_READ_S = 15.0
# A stream sends at least a comment each 15 s.
_STREAM_READ_S = 40.0
# An appliance that is busy says 503 at once, one without a quorum after 10 s.
_REPEAT_WITHIN_S = 8.0
_WAIT_MAX_S = 3.0
_PAGE = 500
_UPLOADED_AT_ONCE_OCTETS = 1 << 18
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----\n?")


def base_url(text: str) -> str:
    """Return the URL of an appliance given as URL, host, or host:port; raise CommandError."""
    is_bare = "://" not in text
    try:
        parts = urlsplit(f"https://{_bracketed(text)}" if is_bare else text)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise _no_address(text) from error
    if parts.scheme != "https" or not host or parts.path.strip("/") or parts.query:
        raise _no_address(text)
    return f"https://{_bracketed(host)}:{port or (OPS_PORT if is_bare else 443)}"


def _no_address(text: str) -> CommandError:
    return CommandError(
        Exit.BAD_INPUT,
        f"{text!r} is not the address of an appliance",
        f"write it as https://HOST:{OPS_PORT}, as `cairn-appliance init` printed it",
    )


def fingerprint_of(pem: str) -> str:
    """Return the hex SHA-256 of a PEM certificate; raise CommandError if it is none."""
    try:
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem.strip())).hexdigest()
    except ValueError as error:
        raise CommandError(
            Exit.UNREACHABLE,
            "what answers there is no Cairn appliance: it sends no certificate of a cluster's CA",
            "check the address; the operations API is on TCP 8443",
        ) from error


def fetch_cas(url: str) -> list[str]:
    """Return the CA (PEM) that the appliance claims; nothing else of it is believed yet.

    While the CA is being replaced there are two, the one that issues first.
    """
    with (
        _reported(url),
        httpx.Client(base_url=url, verify=False, timeout=_timeout(_READ_S)) as client,
    ):
        answer = _when_not_busy(lambda: client.get(f"{API}/ca"), _REPEAT_WITHIN_S)
        if answer.status_code == 503:
            raise _problem(answer)
        return _certificates(answer.text) if answer.status_code == 200 else [""]


def _certificates(text: str) -> list[str]:
    return _CERTIFICATE.findall(text) or [text]


def path_of(*parts: str) -> str:
    """Return the path below the API's root, each part quoted."""
    return API + "".join("/" + quote(part, safe="") for part in parts)


class Connection:
    """Requests to one appliance, with the session if there is one. A context manager."""

    def __init__(self, session: Session) -> None:
        self._url = session.url
        headers = {"User-Agent": f"cairn/{__version__}"}
        if session.token:
            headers["Authorization"] = f"Bearer {session.token}"
        self._client = httpx.Client(
            base_url=session.url,
            verify=_trusting(session.ca),
            timeout=_timeout(_READ_S),
            headers=headers,
        )

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.close()

    @property
    def url(self) -> str:
        """Where the appliance is."""
        return self._url

    def get(self, path: str, kind: type[T], query: Query | None = None) -> Reply[T]:
        """Return one object."""
        return _reply(self._send("GET", path, query=query), kind)

    def ca(self) -> str:
        """Return the CA (PEM) that issues now, by the word of the one that is believed."""
        return _certificates(self._send("GET", path_of("ca")).text)[0]

    def post(
        self, path: str, kind: type[T], body: object = None, *, wait_s: float = _READ_S
    ) -> Reply[T]:
        """Create or do something, once even if it has to be sent twice."""
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        answer = self._send("POST", path, body=body, headers=headers, wait_s=wait_s)
        return _reply(answer, kind)

    def put(self, path: str, kind: type[T], body: object, etag: str = "") -> Reply[T]:
        """Set something, whatever it was, or if it is still as it was read."""
        headers = {"If-Match": etag} if etag else {}
        return _reply(self._send("PUT", path, body=body, headers=headers), kind)

    def patch(self, path: str, kind: type[T], body: object, etag: str) -> Reply[T]:
        """Change an object if it is still as it was read."""
        return _reply(self._send("PATCH", path, body=body, headers={"If-Match": etag}), kind)

    def delete(self, path: str, etag: str = "", query: Query | None = None) -> None:
        """Delete an object if it is still as it was read."""
        self._send("DELETE", path, query=query, headers={"If-Match": etag} if etag else {})

    def pages(self, path: str, kind: type[T], query: Query | None = None) -> Iterator[Reply[T]]:
        """Yield every item of a list, page by page."""
        cursor = ""
        while True:
            asked: dict[str, str | int | list[str]] = {"limit": _PAGE, **(query or {})}
            if cursor:
                asked["cursor"] = cursor
            page = _decoded(self._send("GET", path, query=asked), dict[str, Any])
            for item in page.get("items", []):
                yield Reply(msgspec.convert(item, kind), item)
            cursor = page.get("next") or ""
            if not cursor:
                return

    def stream(
        self, path: str, kind: type[T], query: Query | None = None, last_id: str = ""
    ) -> Iterator[tuple[str, Reply[T]]]:
        """Yield (ID, event) of a server-sent stream until it ends."""
        headers = {"Accept": "text/event-stream"}
        if last_id:
            headers["Last-Event-ID"] = last_id
        timeout = _timeout(_STREAM_READ_S)
        params = dict(query or {})
        with (
            _reported(self._url),
            self._client.stream(
                "GET", path, params=params, headers=headers, timeout=timeout
            ) as answer,
        ):
            if answer.status_code != 200:
                answer.read()
                raise _problem(answer)
            for event_id, data in _server_sent(answer.iter_lines()):
                yield event_id, _reply_of(data.encode(), kind)

    def download(self, path: str, file: BinaryIO, came: Callable[[int], None]) -> None:
        """Write what an answer has into a file; raise CommandError, also where it breaks off.

        `came` is told how many octets there are more.
        """
        with _reported(self._url), self._client.stream("GET", path) as answer:
            if answer.status_code != 200:
                answer.read()
                raise _problem(answer)
            for octets in answer.iter_raw():
                file.write(octets)
                came(len(octets))

    def upload(
        self,
        path: str,
        kind: type[T],
        file: BinaryIO,
        octets: int,
        went: Callable[[int], None],
        *,
        wait_s: float,
    ) -> Reply[T]:
        """Put a file; `went` is told how many octets have gone more. Raise CommandError."""

        def chunks() -> Iterator[bytes]:
            while chunk := file.read(_UPLOADED_AT_ONCE_OCTETS):
                yield chunk
                went(len(chunk))

        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(octets)}
        with _reported(self._url):
            answer = self._client.put(
                path, content=chunks(), headers=headers, timeout=_timeout(wait_s)
            )
        if not answer.is_success:
            raise _problem(answer)
        return _reply(answer, kind)

    def _send(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        wait_s: float = _READ_S,
    ) -> httpx.Response:
        """Send; a request that can do no harm twice is repeated when the appliance is busy."""
        may_repeat = method == "GET" or "Idempotency-Key" in (headers or {})
        answer = _when_not_busy(
            lambda: self._send_once(method, path, query, body, headers, wait_s),
            _REPEAT_WITHIN_S if may_repeat else 0.0,
        )
        if not answer.is_success:
            raise _problem(answer)
        return answer

    def _send_once(
        self,
        method: str,
        path: str,
        query: Query | None,
        body: object,
        headers: Mapping[str, str] | None,
        wait_s: float,
    ) -> httpx.Response:
        content = None if body is None else msgspec.json.encode(body)
        sent = {**(headers or {}), **({"Content-Type": "application/json"} if content else {})}
        with _reported(self._url):
            return self._client.request(
                method,
                path,
                params=dict(query or {}),
                content=content,
                headers=sent,
                timeout=_timeout(wait_s),
            )


def _when_not_busy(ask: Callable[[], httpx.Response], within_s: float) -> httpx.Response:
    """Return the answer; one of 503 is asked for again, for so long at most."""
    until = time.monotonic() + within_s
    while True:
        answer = ask()
        pause_s = _wait_s(answer)
        if answer.status_code != 503 or time.monotonic() + pause_s > until:
            return answer
        time.sleep(pause_s)


@contextmanager
def _reported(url: str) -> Iterator[None]:
    """Turn what httpx raises into a sentence with a remedy."""
    try:
        yield
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise _unreachable(url, error) from error


def _unreachable(url: str, error: Exception) -> CommandError:
    untrusted = _find_cause(error, ssl.SSLCertVerificationError)
    if untrusted is not None:
        return _untrusted(url, untrusted)
    if isinstance(error, httpx.TimeoutException):
        return CommandError(
            Exit.UNREACHABLE,
            f"{url} gives no answer in time",
            "check the address and the firewalls (TCP 8443), or try again",
        )
    if isinstance(error, httpx.ConnectError):
        return CommandError(
            Exit.UNREACHABLE,
            f"{url} can't be reached: {_reason(error)}",
            "check that the appliance runs, the address, and the firewalls (TCP 8443)",
        )
    return CommandError(
        Exit.UNREACHABLE,
        f"the connection to {url} broke off",
        "try again; if it lasts, look at the appliance's log",
    )


def _untrusted(url: str, error: ssl.SSLCertVerificationError) -> CommandError:
    # X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH
    if error.verify_code in (62, 64):
        return CommandError(
            Exit.REFUSED,
            f"the appliance's certificate is not for {urlsplit(url).hostname}",
            "use an address that was given to `cairn-appliance init --address`",
        )
    return CommandError(
        Exit.REFUSED,
        f"the certificate of {url} is not from the cluster's CA: {error.verify_message}",
        "if the cluster was made anew, `cairn login URL --fingerprint SHA256`; if not, "
        "someone is in between",
    )


def _find_cause(error: BaseException, kind: type[T]) -> T | None:
    found: BaseException | None = error
    while found is not None and not isinstance(found, kind):
        found = found.__cause__ or found.__context__
    return found


def _reason(error: Exception) -> str:
    cause = _find_cause(error, OSError)
    text = cause.strerror if cause is not None else None
    return (text or str(error) or "no connection").rstrip(".")


def _problem(answer: httpx.Response) -> CommandError:
    try:
        problem = msgspec.json.decode(answer.content, type=Problem)
    except msgspec.MsgspecError:
        problem = Problem()
    if not problem.code:
        return CommandError(
            Exit.UNREACHABLE,
            f"what answers there is no Cairn appliance (HTTP {answer.status_code})",
            "check the address; the operations API is on TCP 8443",
        )
    cause = problem.detail or problem.title
    return ApiProblem(answer.status_code, problem.code, cause, problem.remedy)


def _reply(answer: httpx.Response, kind: type[T]) -> Reply[T]:
    if not answer.content:
        return Reply(msgspec.convert(None, kind), None)
    reply = _reply_of(answer.content, kind)
    return Reply(reply.value, reply.whole, answer.headers.get("etag", ""))


def _reply_of(octets: bytes, kind: type[T]) -> Reply[T]:
    try:
        return Reply(msgspec.json.decode(octets, type=kind), msgspec.json.decode(octets))
    except msgspec.MsgspecError as error:
        raise CommandError(
            Exit.UNREACHABLE,
            "the answer can't be read: the appliance is of another version or no appliance",
            "use the `cairn` command of the appliance's version",
        ) from error


def _decoded(answer: httpx.Response, kind: type[T]) -> T:
    return _reply_of(answer.content, kind).value


def _server_sent(lines: Iterator[str]) -> Iterator[tuple[str, str]]:
    event_id, data = "", list[str]()
    for line in lines:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            data.append(value)
        elif name == "id":
            event_id = value
        elif not line and data:
            yield event_id, "\n".join(data)
            data.clear()


def _trusting(ca: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks host name and chain
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata=ca)
    return context


def _timeout(read_s: float) -> httpx.Timeout:
    return httpx.Timeout(read_s, connect=_CONNECT_S)


def _wait_s(answer: httpx.Response) -> float:
    told = answer.headers.get("retry-after", "")
    wait = float(told) if told.isdigit() else 1.0
    return min(wait, _WAIT_MAX_S) * random.uniform(0.7, 1.0)


def _bracketed(host: str) -> str:
    """Return a bare IPv6 address in brackets, all else as it is."""
    return f"[{host}]" if host.count(":") > 1 and "[" not in host else host
