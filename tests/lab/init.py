"""Process 1 of a lab machine: sets the machine up, then reaps orphans until it is killed.

Runs as a script (`python -I -S init.py NAME MACHINE_ID_FILE`) inside new mount, network,
UTS and PID namespaces. When it dies the kernel kills everything in the machine and takes
its network away, so nothing outlives the lab, however the lab ended.
"""

import ctypes
import os
import signal
import socket
import sys
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)
_MS_BIND = 4096


def mount(source: str, target: str, kind: str, flags: int = 0) -> None:
    """Call mount(2); raise OSError with its errno."""
    if _LIBC.mount(source.encode(), target.encode(), kind.encode(), flags, None) != 0:
        raise OSError(ctypes.get_errno(), f"mount {kind or source} on {target}")


def main() -> None:
    """Prepare the machine, say `ready PID` (the PID outside), and reap until killed."""
    name, machine_id = sys.argv[1], sys.argv[2]
    pid_outside = str(Path("/proc/self").readlink())  # before /proc becomes its own
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # only the lab ends a machine
    socket.sethostname(name)
    mount("proc", "/proc", "proc")
    mount("sysfs", "/sys", "sysfs")
    mount("tmpfs", "/run", "tmpfs")
    if Path("/etc/machine-id").exists():
        mount(machine_id, "/etc/machine-id", "", _MS_BIND)
    print("ready", pid_outside, flush=True)
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            signal.sigtimedwait([signal.SIGCHLD], 1.0)


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    main()
