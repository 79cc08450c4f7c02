"""The key that opens backups: made for people to keep, never kept by an appliance.

An X25519 pair. Appliances have the public half and can only seal; whoever steals one, or a
backup, opens nothing. The secret half is shown once, as a text to be printed: 32 octets and
three of a checksum in base32, so that it can be typed in again and a slip is noticed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from cairn_appliance.pki.errors import PkiError

PUBLIC_OCTETS = 32
_PREFIX = "cairn-recovery-"
_GROUP = 4
_CHECK_OCTETS = 3
_CONTEXT = b"cairn-recovery-1\x00"


class NoRecoveryKey(PkiError):
    """A text is not a recovery key: cut short, mistyped, or something else."""


class RecoveryKey:
    """The secret half."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._private = X25519PrivateKey.from_private_bytes(secret)
        self.public = self._private.public_key().public_bytes_raw()

    @classmethod
    def create(cls) -> RecoveryKey:
        """Return a new key."""
        return cls(os.getrandom(PUBLIC_OCTETS))

    @classmethod
    def parse(cls, text: str) -> RecoveryKey:
        """Return the key that `text` gave, also broken into lines; raise NoRecoveryKey."""
        packed = "".join(text.split()).lower()
        if not packed.startswith(_PREFIX):
            raise NoRecoveryKey(f"a recovery key begins with {_PREFIX}")
        packed = packed.removeprefix(_PREFIX).replace("-", "")
        try:
            octets = base64.b32decode(packed, casefold=True)
        except (binascii.Error, ValueError) as error:
            raise NoRecoveryKey("the recovery key has a character that none has") from error
        secret, check = octets[:PUBLIC_OCTETS], octets[PUBLIC_OCTETS:]
        if len(secret) != PUBLIC_OCTETS or check != _check(secret):
            raise NoRecoveryKey("the recovery key is mistyped or cut short")
        return cls(secret)

    @property
    def text(self) -> str:
        """What a person keeps."""
        packed = base64.b32encode(self._secret + _check(self._secret)).decode().lower()
        groups = (packed[at : at + _GROUP] for at in range(0, len(packed), _GROUP))
        return _PREFIX + "-".join(groups)

    @property
    def id(self) -> str:
        """What a backup says it is sealed for."""
        return key_id(self.public)

    def shared(self, public: bytes) -> bytes:
        """Return the secret that both have; raise PkiError for a public half that is none."""
        return _exchanged(self._private, public)


def key_id(public: bytes) -> str:
    """Return the short name of a public half."""
    return hashlib.sha256(_CONTEXT + public).hexdigest()[:16]


def share_with(public: bytes) -> tuple[bytes, bytes]:
    """Return the public half of a key made for this once, and the secret shared by it."""
    once = X25519PrivateKey.from_private_bytes(os.getrandom(PUBLIC_OCTETS))
    return once.public_key().public_bytes_raw(), _exchanged(once, public)


def _exchanged(private: X25519PrivateKey, public: bytes) -> bytes:
    try:
        return private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:  # a length that none has, or a point of low order
        raise PkiError("not the public half of a recovery key") from error


def _check(secret: bytes) -> bytes:
    return hashlib.sha256(_CONTEXT + secret).digest()[:_CHECK_OCTETS]
