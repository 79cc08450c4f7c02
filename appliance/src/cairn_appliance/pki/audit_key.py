"""The Ed25519 key that signs the audit.

It is derived from the KEK, which every appliance has and the store has not: whoever writes to
the store can't sign, a chain outlives the appliance that wrote it, and a restored cluster goes
on with it. It is no secret between the appliances of a cluster (docs/adr/0012).
"""

from __future__ import annotations

import base64
import binascii
import hmac
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ed25519

from cairn_appliance.domain.audit import Seal
from cairn_appliance.pki.errors import PkiError
from cairn_appliance.pki.sealing import Sealer

_PUBLIC_OCTETS = 32


class AuditKey:
    """Signs the audit, and makes digests that nobody without the KEK can guess at."""

    def __init__(self, sealer: Sealer) -> None:
        self._key = ed25519.Ed25519PrivateKey.from_private_bytes(sealer.derive("audit-sign"))
        self._digest_key = sealer.derive("audit-digest")
        self.public = base64.b64encode(self._key.public_key().public_bytes_raw()).decode()
        """Base64; whoever has it can check an exported file."""

    def seal(self, cluster: str) -> Seal:
        """Return what signs and checks for a cluster."""
        return Seal(cluster, self._sign, checker(self.public))

    def digest(self, octets: bytes) -> str:
        """Return a digest in hex: HMAC, since a body may have a password to guess in it."""
        return hmac.new(self._digest_key, octets, sha256).hexdigest()

    def _sign(self, octets: bytes) -> str:
        return base64.b64encode(self._key.sign(octets)).decode()


class Checker:
    """Checks signatures by the public key alone."""

    def __init__(self, public: str) -> None:
        try:
            octets = base64.b64decode(public, validate=True)
            self._key = ed25519.Ed25519PublicKey.from_public_bytes(octets)
        except (binascii.Error, ValueError) as error:
            raise PkiError(f"an audit key is {_PUBLIC_OCTETS} octets in base64") from error

    def __call__(self, octets: bytes, signature: str) -> bool:
        """Return whether the octets are signed."""
        try:
            raw = base64.b64decode(signature, validate=True)
            self._key.verify(raw, octets)
        except (InvalidSignature, binascii.Error, ValueError):
            return False
        # One text for one signature: base64 can be written in more than one way.
        return base64.b64encode(raw).decode() == signature


def checker(public: str) -> Checker:
    """Return what checks signatures of this key; raise PkiError."""
    return Checker(public)


def reading_seal(cluster: str, public: str) -> Seal:
    """Return what checks for a cluster, and can't sign; raise PkiError."""
    return Seal(cluster, _cannot, checker(public))


def _cannot(_: bytes) -> str:
    raise PkiError("this key is public: it can't sign")
