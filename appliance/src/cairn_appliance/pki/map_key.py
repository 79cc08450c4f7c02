"""The Ed25519 key that signs netmaps (docs/protocol.md section 3.1)."""

from __future__ import annotations

import base64

from cryptography.hazmat.primitives.asymmetric import ed25519

from cairn_appliance.pki.errors import PkiError
from cairn_appliance.pki.private_keys import new_ed25519

_OCTETS = 32


class MapKey:
    """Signs netmap documents."""

    def __init__(self, key: ed25519.Ed25519PrivateKey) -> None:
        self._key = key
        self.public = base64.b64encode(key.public_key().public_bytes_raw()).decode()
        """Base64 of the 32 octets that agents check signatures with."""

    @classmethod
    def create(cls) -> MapKey:
        """Return a new key."""
        return cls(new_ed25519())

    @classmethod
    def from_octets(cls, octets: bytes) -> MapKey:
        """Return the key that `to_octets` gave."""
        if len(octets) != _OCTETS:
            raise PkiError(f"a map key has {_OCTETS} octets, not {len(octets)}")
        return cls(ed25519.Ed25519PrivateKey.from_private_bytes(octets))

    def to_octets(self) -> bytes:
        """Return the private key; seal it before it is written anywhere."""
        return self._key.private_bytes_raw()

    def sign(self, octets: bytes) -> bytes:
        """Return the 64-octet signature."""
        return self._key.sign(octets)
