"""Time-based one-time passwords (RFC 6238: SHA-1, 30 s, 6 digits) and recovery codes.

SHA-1 is what every app has; HMAC does not need it to be free of collisions (RFC 6238, 1.2).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import struct
from urllib.parse import quote

STEP_S = 30
DIGITS = 6
SECRET_OCTETS = 20  # RFC 4226, section 4, R6: 160 bits are recommended
RECOVERY_CODES = 10
_STEPS_OFF = 1  # clocks may differ by a step, either way
# No 0, 1, i, l, o: a person may have to type it from paper.
_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"
_GROUPS, _GROUP = 3, 5  # 74 bits: no slow hash is needed


def new_secret() -> bytes:
    """Return a new random secret."""
    return secrets.token_bytes(SECRET_OCTETS)


def base32(secret: bytes) -> str:
    """Return the secret as apps take it."""
    return base64.b32encode(secret).decode().rstrip("=")


def uri(secret: bytes, user: str, issuer: str) -> str:
    """Return the otpauth URI that a QR code carries."""
    label = f"{quote(issuer, safe='')}:{quote(user, safe='')}"
    return f"otpauth://totp/{label}?secret={base32(secret)}&issuer={quote(issuer, safe='')}"


def code_at(secret: bytes, step: int) -> str:
    """Return the code of a step (RFC 4226, section 5.3)."""
    digest = hmac.digest(secret, struct.pack(">Q", step), hashlib.sha1)
    offset = digest[-1] & 0x0F
    number = int.from_bytes(digest[offset : offset + 4], "big") & 0x7FFF_FFFF
    return f"{number % 10**DIGITS:0{DIGITS}d}"


def matching_step(secret: bytes, code: str, *, now: float, used: int) -> int:
    """Return the step that the code is of, if it comes after the last one used; else 0."""
    current = int(now // STEP_S)
    found = 0
    for step in range(current - _STEPS_OFF, current + _STEPS_OFF + 1):
        is_it = hmac.compare_digest(code_at(secret, step).encode(), code.encode())
        if is_it and step > used:
            found = step
    return found


def is_totp(code: str) -> bool:
    """Return whether a text is of the form of a code, not of a recovery code."""
    return len(code) == DIGITS and code.isascii() and code.isdigit()


def tidy(code: str) -> str:
    """Return a code without what people put into it when they copy it."""
    return "".join(code.split()).replace("-", "").lower()


def new_recovery_codes() -> tuple[str, ...]:
    """Return ten random codes, made to be typed."""
    return tuple(_recovery_code() for _ in range(RECOVERY_CODES))


def recovery_hash(user: str, code: str) -> str:
    """Return the hex SHA-256 that is kept of a recovery code."""
    return hashlib.sha256(f"cairn-recovery-1\0{user}\0{tidy(code)}".encode()).hexdigest()


def _recovery_code() -> str:
    groups = ("".join(secrets.choice(_ALPHABET) for _ in range(_GROUP)) for _ in range(_GROUPS))
    return "-".join(groups)
