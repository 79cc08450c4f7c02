"""Secrets at rest: AES-256-GCM under the cluster's key encryption key (KEK).

The KEK lies in a file on each appliance and never in etcd; a stolen etcd disk or snapshot
opens nothing. A sealed secret is bound to its name, so that one can't be put in the place
of another: version octet, 12 octets nonce, ciphertext with tag.
"""

from __future__ import annotations

import os
from functools import partial

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from cairn_appliance.pki.errors import PkiError, SealBroken

KEK_OCTETS = 32
_VERSION = b"\x01"
_NONCE_OCTETS = 12  # random; far fewer than 2**32 seals under one KEK (SP 800-38D 8.3)
_CONTEXT = b"cairn-seal-1\x00"
_EXCHANGE = b"cairn-exchange-1"
_DERIVED = b"cairn-derived-1"


def new_kek() -> bytes:
    """Return a new key encryption key."""
    return os.getrandom(KEK_OCTETS)


def exchange_sealer(secret: str, nonce: bytes) -> Sealer:
    """Return the sealer of one exchange between two who share a random secret.

    The nonce is the one asked for by whoever begins: an answer of before opens with none other.
    """
    derived = HKDF(hashes.SHA256(), KEK_OCTETS, salt=nonce, info=_EXCHANGE)
    return Sealer(derived.derive(secret.encode()))


class Sealer:
    """Seals and opens secrets under one KEK."""

    def __init__(self, kek: bytes) -> None:
        if len(kek) != KEK_OCTETS:
            raise PkiError(f"a KEK has {KEK_OCTETS} octets, not {len(kek)}")
        self._aead = AESGCM(kek)
        root = HKDF(hashes.SHA256(), KEK_OCTETS, salt=None, info=_DERIVED).derive(kek)
        self._derive = partial(_derived, root)

    def derive(self, purpose: str) -> bytes:
        """Return 32 octets for a purpose: the same at every appliance, and nowhere in the store."""
        return self._derive(purpose)

    def seal(self, name: str, secret: bytes) -> bytes:
        """Return the secret sealed for the place called `name`."""
        nonce = os.getrandom(_NONCE_OCTETS)
        return _VERSION + nonce + self._aead.encrypt(nonce, secret, _CONTEXT + name.encode())

    def open(self, name: str, sealed: bytes) -> bytes:
        """Return the secret; raise SealBroken."""
        nonce, body = sealed[1 : 1 + _NONCE_OCTETS], sealed[1 + _NONCE_OCTETS :]
        if sealed[:1] != _VERSION or len(nonce) != _NONCE_OCTETS:
            raise SealBroken(f"{name}: not a sealed secret of this version")
        try:
            return self._aead.decrypt(nonce, body, _CONTEXT + name.encode())
        except InvalidTag as error:
            raise SealBroken(f"{name}: damaged, or sealed under another key") from error


def _derived(root: bytes, purpose: str) -> bytes:
    info = _DERIVED + b"/" + purpose.encode()
    return HKDF(hashes.SHA256(), KEK_OCTETS, salt=None, info=info).derive(root)
