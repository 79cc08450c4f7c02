"""Whether anything keeps this machine's clock right, as the kernel knows it (adjtimex(2)).

Whoever keeps a clock by NTP or PTP (chrony, systemd-timesyncd, ntpd, phc2sys) tells the kernel
by how much it may be off at most. Without that the figure grows, to 16 s after nine hours, and
from then on, as since the start of the machine, nobody knows. STA_UNSYNC says less: chrony
sets it wherever the kernel is to leave the hardware clock alone.
"""

from __future__ import annotations

import ctypes

_UNKNOWN_US = 16_000_000  # NTP_PHASE_LIMIT of the kernel


class _Timex(ctypes.Structure):
    """struct timex as far as it is read, and room for the rest of it."""

    _fields_ = (
        ("modes", ctypes.c_uint),  # 0: only look
        ("offset", ctypes.c_long),
        ("frequency", ctypes.c_long),
        ("max_error_us", ctypes.c_long),
        ("rest", ctypes.c_char * 256),
    )


def is_synchronised() -> bool | None:
    """Return whether the clock is kept right; None where the kernel doesn't say."""
    state = _Timex()
    try:
        result = ctypes.CDLL(None).adjtimex(ctypes.byref(state))
    except (OSError, AttributeError):
        return None  # no such call in this C library
    return None if result < 0 else bool(state.max_error_us < _UNKNOWN_US)
