"""The operations API of an appliance: one CA is believed, errors are sentences, waits bounded."""

from __future__ import annotations

import json
import os
import random
import ssl
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode

from ansible.module_utils.basic import env_fallback
from ansible.module_utils.urls import open_url
from ansible_collections.cairn.overlay.plugins.module_utils.rules import (
    Told,
    certificate_with,
    problem_of,
)

API = "/api/v1"
_ANSWER_WITHIN_S = 15.0  # the appliance answers or says 503 within 12 s
_FETCH_WITHIN_S = 120.0  # of silence
_REPEAT_WITHIN_S = 8.0
_WAIT_MAX_S = 3.0
_PAGE = 500
_TOKEN_MAX_OCTETS = 4096

# Where the appliance is and who asks; the same variables as of the `cairn` command.
OPTIONS = {
    "url": {"type": "str", "required": True, "fallback": (env_fallback, ["CAIRN_URL"])},
    "fingerprint": {"type": "str", "fallback": (env_fallback, ["CAIRN_FINGERPRINT"])},
    "ca_path": {"type": "path"},
    "api_token": {"type": "str", "no_log": True},
    "api_token_file": {
        "type": "path",
        "no_log": False,
        "fallback": (env_fallback, ["CAIRN_TOKEN_FILE"]),
    },
}


class Appliance:
    """Requests to one appliance. A context manager: the CA lies in a file while it is open."""

    def __init__(self, options: dict) -> None:
        self._url = str(options.get("url") or "").rstrip("/")
        if not self._url:
            raise Told("no appliance is named", "set cairn_url to https://HOST:8443")
        if not self._url.startswith("https://"):
            raise Told(f"cairn_url is {self._url}", "write it as https://HOST:8443")
        self._token = options.get("api_token") or _token_of(options.get("api_token_file"))
        self._pin = options.get("fingerprint") or ""
        self._given_ca = options.get("ca_path") or ""
        self._ca = ""

    def __enter__(self) -> Appliance:
        if self._given_ca:
            self._ca = self._given_ca
        elif self._pin:
            pem = certificate_with(self._pin, self._claimed())
            descriptor, self._ca = tempfile.mkstemp(prefix="cairn-ca-", suffix=".pem")
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(pem)
        else:
            raise Told(
                "nothing says by which CA the appliance is known: nothing was sent",
                "set cairn_fingerprint to the SHA-256 that `cairn-appliance init` printed",
            )
        return self

    def __exit__(self, *exception: object) -> None:
        if self._ca and self._ca != self._given_ca:
            Path(self._ca).unlink(missing_ok=True)

    def get(self, *parts: str, **query: object) -> tuple[dict, str]:
        """Return one object and its ETag."""
        return self._send("GET", parts, query=query)

    def find(self, *parts: str) -> tuple[dict | None, str]:
        """Return one object and its ETag; (None, "") where there is none."""
        try:
            return self._send("GET", parts)
        except Told as told:
            if told.code == "not_found":
                return None, ""
            raise

    def all(self, *parts: str, **query: object) -> Iterator[dict]:
        """Yield every item of a list, page by page."""
        cursor = ""
        while True:
            asked = {"limit": _PAGE, **query, **({"cursor": cursor} if cursor else {})}
            page, _ = self._send("GET", parts, query=asked)
            yield from page["items"]
            cursor = page.get("next") or ""
            if not cursor:
                return

    def post(self, *parts: str, body: object = None) -> dict:
        """Create or do something, once even if it has to be sent twice."""
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        return self._send("POST", parts, body=body, headers=headers)[0]

    def patch(self, *parts: str, body: object, etag: str) -> dict:
        """Change an object if it is still as it was read."""
        return self._send("PATCH", parts, body=body, headers={"If-Match": etag})[0]

    def delete(self, *parts: str, etag: str = "") -> None:
        """Delete an object if it is still as it was read."""
        self._send("DELETE", parts, headers={"If-Match": etag} if etag else {})

    def fetch(self, url: str) -> bytes:
        """Return a file that the same cluster serves to everybody; nobody is signed in for it."""
        with _reported(url):
            try:
                answer = open_url(url, timeout=_FETCH_WITHIN_S, ca_path=self._ca)
                return answer.read()
            except HTTPError as error:
                text = error.read(1 << 20).decode(errors="replace")
                raise problem_of(error.code, text) from None

    def _claimed(self) -> str:
        """Return the CAs that whoever answers claims; nothing of it is believed yet."""
        with _reported(self._url):
            answer = open_url(
                f"{self._url}{API}/ca", timeout=_ANSWER_WITHIN_S, validate_certs=False
            )
            return answer.read(1 << 20).decode(errors="replace")

    def _send(
        self,
        method: str,
        parts: tuple[str, ...],
        *,
        query: dict | None = None,
        body: object = None,
        headers: dict | None = None,
    ) -> tuple[dict, str]:
        """Send; a request that can do no harm twice is repeated while the appliance is busy."""
        url = f"{self._url}{API}" + "".join("/" + quote(part, safe="") for part in parts)
        url += f"?{urlencode(query)}" if query else ""
        may_repeat = method == "GET" or "Idempotency-Key" in (headers or {})
        until = time.monotonic() + (_REPEAT_WITHIN_S if may_repeat else 0.0)
        while True:
            try:
                return self._send_once(method, url, body, headers or {})
            except HTTPError as error:
                text = error.read(1 << 20).decode(errors="replace")
                pause_s = _pause_s(error)
                if error.code != 503 or time.monotonic() + pause_s > until:
                    raise problem_of(error.code, text) from None
                time.sleep(pause_s)

    def _send_once(self, method: str, url: str, body: object, headers: dict) -> tuple[dict, str]:
        sent = {"Authorization": f"Bearer {self._token}", **headers}
        if body is not None:
            sent["Content-Type"] = "application/json"
        with _reported(self._url):
            answer = open_url(
                url,
                method=method,
                data=None if body is None else json.dumps(body),
                headers=sent,
                timeout=_ANSWER_WITHIN_S,
                ca_path=self._ca,
                follow_redirects="none",
            )
            text = answer.read()
        return (json.loads(text) if text else {}), answer.headers.get("ETag", "")


def _token_of(path: str | None) -> str:
    """Return the API token in a file that others can't read."""
    if not path:
        raise Told(
            "there is no API token",
            "put what `cairn api-token create NAME --scope operator` printed into a file (mode "
            "0600) and name it: cairn_api_token_file",
        )
    try:
        with Path(path).open(encoding="ascii") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise Told(f"{path} can be read by others", f"chmod 600 {path}")
            token = file.readline(_TOKEN_MAX_OCTETS).strip()
    except OSError as error:
        raise Told(f"{path} can't be read: {error.strerror}", "name a readable file") from error
    except UnicodeDecodeError as error:
        raise Told(f"{path} has no API token", "see `cairn api-token create`") from error
    if not token.startswith("ct1_"):
        raise Told(f"{path} has no API token", "its first line begins with ct1_")
    return token


@contextmanager
def _reported(url: str) -> Iterator[None]:
    """Turn what the network does into a sentence; an answer with an error passes through."""
    try:
        yield
    except HTTPError:
        raise
    except (URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise Told(
                f"the certificate of {url} is not believed: {reason.verify_message}",
                "use an address that was given to `cairn-appliance init --address`, and the "
                "cluster's fingerprint; if both are right, someone is in between",
            ) from error
        raise Told(
            f"{url} can't be reached from here: {reason}",
            "check cairn_url, that the appliance runs, and the firewalls (TCP 8443)",
        ) from error


def _pause_s(error: HTTPError) -> float:
    told = error.headers.get("Retry-After", "")
    wait = float(told) if told.isdigit() else 1.0
    return min(wait, _WAIT_MAX_S) * random.uniform(0.7, 1.0)
