"""A small OpenID provider over real HTTPS with real keys, as a process, that can be made to lie.

`POST /control` says how: claims to change, another algorithm, a silence. It has one client and one
person; whoever comes to it is let in, or meets a page with a button.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import hmac
import json
import secrets
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode

import httpx
import jwt
import uvicorn
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from tests.ports import free_port
from tests.receivers import own_certificate

CLIENT, SECRET = "cairn", "a secret of the client: with + and %"
_STARTS_WITHIN_S = 20.0


class _Key:
    def __init__(self, algorithm: str) -> None:
        self.algorithm = algorithm
        self.id = secrets.token_hex(4)
        self.private: Any = (
            ec.generate_private_key(ec.SECP256R1())
            if algorithm == "ES256"
            else rsa.generate_private_key(65537, 2048)
        )

    def described(self) -> dict[str, Any]:
        kind = (
            jwt.algorithms.ECAlgorithm if self.algorithm == "ES256" else jwt.algorithms.RSAAlgorithm
        )
        described = kind.to_jwk(self.private.public_key(), as_dict=True)
        return {**described, "kid": self.id, "use": "sig", "alg": self.algorithm}

    def sign(self, claims: dict[str, Any], algorithm: str, header: dict[str, Any]) -> str:
        header = {"kid": self.id, **header}
        if algorithm == self.algorithm:
            return jwt.encode(claims, self.private, algorithm, headers=header)
        parts = [
            _encoded(json.dumps(each).encode()) for each in ({**header, "alg": algorithm}, claims)
        ]
        signed = ".".join(parts)
        public = self.private.public_key().public_bytes(
            Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
        )
        mac = hmac.new(public, signed.encode(), hashlib.sha256).digest()
        return f"{signed}.{'' if algorithm == 'none' else _encoded(mac)}"


@dataclass
class _Behaviour:
    """What `/control` sets; each field can be left out."""

    claims: dict[str, Any] = field(default_factory=dict)
    alg: str = ""  # none, HS256, ...; empty: as the key
    header: dict[str, Any] = field(default_factory=dict)
    key: str = ""  # RS256 or ES256: a new one, the old one is told no more
    forged: bool = False  # signed by a key that nobody knows, under the name of one that is
    metadata: dict[str, Any] = field(default_factory=dict)
    page: bool = False  # a page with a button before the way back
    denies: str = ""
    jwks: str = ""  # "endless": without end
    token: str = ""  # "slow", "redirect"


class Provider:
    """The application."""

    def __init__(self, issuer: str) -> None:
        self.issuer = issuer
        self.key = _Key("RS256")
        self.codes: dict[str, dict[str, str]] = {}
        self.does = _Behaviour()
        self.asked: dict[str, int] = {}

    def app(self) -> Starlette:
        """Return it as ASGI."""
        return Starlette(
            routes=[
                Route("/.well-known/openid-configuration", self.metadata),
                Route("/authorize", self.authorize),
                Route("/token", self.token, methods=["POST"]),
                Route("/keys", self.keys),
                Route("/control", self.control, methods=["POST"]),
            ]
        )

    async def control(self, request: Request) -> Response:
        self.does = _Behaviour(**json.loads(await request.body()))
        if self.does.key:
            self.key = _Key(self.does.key)
        told = dict(self.asked)
        self.asked.clear()
        return JSONResponse(told)

    async def metadata(self, _: Request) -> Response:
        self._count("metadata")
        return JSONResponse(
            {
                "issuer": self.issuer,
                "authorization_endpoint": f"{self.issuer}/authorize",
                "token_endpoint": f"{self.issuer}/token",
                "jwks_uri": f"{self.issuer}/keys",
                "id_token_signing_alg_values_supported": ["RS256", "ES256"],
                **self.does.metadata,
            }
        )

    async def keys(self, _: Request) -> Response:
        self._count("keys")
        if self.does.jwks == "endless":
            return Response(b" " * 1_000_000)
        return JSONResponse({"keys": [self.key.described()]})

    async def authorize(self, request: Request) -> Response:
        asked = request.query_params
        if (asked["response_type"], asked["client_id"]) != ("code", CLIENT):
            return Response("who?", 400)
        if asked["code_challenge_method"] != "S256" or "openid" not in asked["scope"].split():
            return Response("how?", 400)
        back = {"state": asked["state"], "iss": self.issuer}
        if self.does.denies:
            back["error"] = self.does.denies
        else:
            code = secrets.token_urlsafe(16)
            self.codes[code] = dict(asked)
            back["code"] = code
        url = f"{asked['redirect_uri']}?{urlencode(back)}"
        if not self.does.page:
            return RedirectResponse(url, 302)
        return HTMLResponse(f"<h1>Office login</h1><a href='{url.replace('&', '&amp;')}'>Ada</a>")

    async def token(self, request: Request) -> Response:
        self._count("token")
        if self.does.token == "redirect":
            return RedirectResponse(f"{self.issuer}/elsewhere", 307)
        form = {
            name: values[0] for name, values in parse_qs((await request.body()).decode()).items()
        }
        scheme, _, both = request.headers.get("authorization", "").partition(" ")
        name, _, secret = base64.b64decode(both).decode().partition(":")
        if (scheme, unquote(name), unquote(secret)) != ("Basic", CLIENT, SECRET):
            return JSONResponse({"error": "invalid_client"}, 401)
        asked = self.codes.pop(form["code"], None)
        if asked is None or asked["redirect_uri"] != form["redirect_uri"]:
            return JSONResponse({"error": "invalid_grant"}, 400)
        digest = hashlib.sha256(form["code_verifier"].encode()).digest()
        if _encoded(digest) != asked["code_challenge"]:
            return JSONResponse({"error": "invalid_grant"}, 400)
        return JSONResponse({"token_type": "Bearer", "id_token": self._id_token(asked["nonce"])})

    def _id_token(self, nonce: str) -> str:
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "sub": "7c1e-ada",
            "aud": CLIENT,
            "exp": now + 300,
            "iat": now,
            "nonce": nonce,
            "preferred_username": "Ada.Lovelace",
            "email": "ada@office.example",
            "email_verified": True,
            "groups": ["staff", "cairn-operators"],
            **self.does.claims,
        }
        claims = {name: value for name, value in claims.items() if value is not None}
        key = self.key
        if self.does.forged:
            key = _Key(key.algorithm)
            key.id = self.key.id
        return key.sign(claims, self.does.alg or key.algorithm, self.does.header)

    def _count(self, what: str) -> None:
        self.asked[what] = self.asked.get(what, 0) + 1


@dataclass
class Running:
    """The process as a test has it."""

    issuer: str
    ca: str
    process: subprocess.Popen[bytes]
    client: httpx.Client

    def does(self, **behaviour: Any) -> dict[str, int]:
        """Set what it does, forgetting what was set; return how often it was asked since."""
        answer = self.client.post("/control", json=behaviour)
        assert answer.is_success, answer.text
        told: dict[str, int] = answer.json()
        return told


@contextmanager
def identity_provider(directory: Path) -> Iterator[Running]:
    """Yield a running provider, and end it."""
    directory.mkdir(parents=True, exist_ok=True)
    _, ca = own_certificate(directory)
    port = free_port()
    issuer = f"https://127.0.0.1:{port}"
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.identity_provider", str(port), str(directory)],
        cwd=Path(__file__).resolve().parents[1],
    )
    context = ssl.create_default_context(cadata=ca)
    with httpx.Client(base_url=issuer, verify=context, timeout=10, trust_env=False) as client:
        try:
            _wait_until_ready(process, client)
            yield Running(issuer, ca, process, client)
        finally:
            process.kill()
            process.wait(5)


def _wait_until_ready(process: subprocess.Popen[bytes], client: httpx.Client) -> None:
    deadline = time.monotonic() + _STARTS_WITHIN_S
    while time.monotonic() < deadline:
        assert process.poll() is None
        try:
            client.get("/keys")
        except httpx.TransportError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError("the identity provider did not start")


def _encoded(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("directory", type=Path)
    chosen = parser.parse_args()
    uvicorn.run(
        Provider(f"https://127.0.0.1:{chosen.port}").app(),
        host="127.0.0.1",
        port=chosen.port,
        ssl_certfile=str(chosen.directory / "receiver.pem"),
        ssl_keyfile=str(chosen.directory / "receiver-key.pem"),
        log_level="warning",
    )


if __name__ == "__main__":
    main()
