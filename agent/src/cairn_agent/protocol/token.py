"""The enrolment token: one pasteable string (docs/protocol.md section 3.2).

`cairn1.` followed by base64url (no padding) of the JSON of `Token` and of the first four
octets of that JSON's SHA-256, so that a token cut short by a copy says so.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re

import msgspec

PREFIX = "cairn1."
_CHECK_OCTETS = 4
_HEX_SHA256 = re.compile(r"[0-9a-f]{64}")


class TokenError(Exception):
    """The string is not a whole enrolment token."""


class Token(msgspec.Struct, frozen=True):
    """What a new node needs to join."""

    appliances: list[str]  # host:port of the agent API
    pin: str  # hex SHA-256 of the cluster CA certificate (DER)
    id: str
    secret: str


def encode_token(token: Token) -> str:
    """Return the pasteable string."""
    body = msgspec.json.encode(token)
    octets = body + hashlib.sha256(body).digest()[:_CHECK_OCTETS]
    return PREFIX + base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


def decode_token(text: str) -> Token:
    """Return the token; raise TokenError with a sentence for the person who pasted it."""
    text = "".join(text.split())
    if not text.startswith(PREFIX):
        raise TokenError(f"a token starts with {PREFIX!r}; copy the whole string")
    encoded = text.removeprefix(PREFIX)
    try:
        octets = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
    except (binascii.Error, ValueError) as error:
        raise TokenError("the token has characters that no token has; copy it again") from error
    body, check = octets[:-_CHECK_OCTETS], octets[-_CHECK_OCTETS:]
    if hashlib.sha256(body).digest()[:_CHECK_OCTETS] != check:
        raise TokenError("the token is damaged or cut short; copy the whole string")
    try:
        token = msgspec.json.decode(body, type=Token)
    except msgspec.MsgspecError as error:
        raise TokenError("the token is of another version of Cairn; make a new one") from error
    if not token.appliances or not _HEX_SHA256.fullmatch(token.pin):
        raise TokenError("the token names no appliance or no pin; make a new one")
    return token
