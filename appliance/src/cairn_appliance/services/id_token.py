"""Whether an ID token is signed by whom it should be (JWS, RFC 7515), and what it says."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from cairn_appliance.domain.oidc import OidcToken

# Both are asymmetric. What is checked with a shared secret, or with nothing, is never looked at.
ALGORITHMS: Final[Mapping[str, str]] = {"RS256": "RSA", "ES256": "EC"}
TOKEN_MAX = 32_768
_RSA_BITS_MIN = 2048
_verifier = jwt.PyJWS(algorithms=list(ALGORITHMS))


class UnknownKey(OidcToken):
    """The token names a key that the provider did not have when it was asked last."""


def key_id(token: str) -> str | None:
    """Return which key the token says it is signed with; raise OidcToken."""
    found = _header(token).get("kid")
    return found if isinstance(found, str) else None


def verified(token: str, keys: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the claims of a token that one of the keys has signed; raise OidcToken."""
    header = _header(token)
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        allowed = " and ".join(ALGORITHMS)
        raise _unbelieved(f"it is signed by {str(algorithm)[:20]!r}, only {allowed} count")
    if "crit" in header:
        raise _unbelieved("it asks for what is not known here (crit)")
    key = _key(_chosen(keys, algorithm, header.get("kid")), algorithm)
    try:
        payload = _verifier.decode(token, key, algorithms=[algorithm])
        claims = json.loads(payload)
    except (jwt.PyJWTError, ValueError, RecursionError) as error:
        raise _unbelieved("its signature is wrong") from error
    if not isinstance(claims, dict):
        raise _unbelieved("it says nothing")
    return claims


def _header(token: str) -> Mapping[str, Any]:
    if len(token) > TOKEN_MAX:
        raise _unbelieved("it is too long")
    try:
        return jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError, RecursionError) as error:
        raise _unbelieved("it is no signed token") from error


def _chosen(keys: Sequence[Mapping[str, Any]], algorithm: str, wanted: object) -> Mapping[str, Any]:
    """Return the key that is meant; without a name there must be no other one of the kind."""
    fitting = [
        key
        for key in keys
        if key.get("kty") == ALGORITHMS[algorithm]
        and key.get("use", "sig") == "sig"
        and key.get("alg", algorithm) == algorithm
        and (wanted is None or key.get("kid") == wanted)
    ]
    if not fitting:
        raise UnknownKey("the identity provider's ID token is not believed: its key is unknown")
    if len(fitting) > 1:
        raise _unbelieved("it does not say which key signed it")
    return fitting[0]


def _key(described: Mapping[str, Any], algorithm: str) -> jwt.PyJWK:
    # Only what makes a public key of its kind: a private or another part is not even read.
    parts = {
        name: described[name] for name in ("kty", "n", "e", "crv", "x", "y") if name in described
    }
    try:
        key = jwt.PyJWK.from_dict(parts, algorithm=algorithm)
    except (jwt.PyJWTError, ValueError, TypeError) as error:
        raise _unbelieved("its key can't be read") from error
    if isinstance(key.key, RSAPublicKey) and key.key.key_size < _RSA_BITS_MIN:
        raise _unbelieved(f"its key has less than {_RSA_BITS_MIN} bits")
    return key


def _unbelieved(why: str) -> OidcToken:
    return OidcToken(f"the identity provider's ID token is not believed: {why}")
