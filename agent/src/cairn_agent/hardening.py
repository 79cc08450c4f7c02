"""What agent and appliance do for the keys in their memory; the data plane does so for its own."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from typing import Final

_PR_SET_DUMPABLE: Final = 4  # prctl(2)


def harden() -> None:
    """Have no core of this process be written: not to a file, and not by a handler.

    A handler (a pipe in kernel.core_pattern, core(5)) is given one whatever the limit says, of
    processes that are dumpable. What is started from here inherits the limit alone.
    """
    try:
        _forbid_dumps()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (OSError, ValueError) as error:
        sys.stderr.write(f"warning: a core of this process may be written: {error}\n")


def _forbid_dumps() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
