"""Restarts a program whenever it ends, as systemd does with Restart=always.

`python -I -S supervise.py RESTART_MS COMMAND...`; SIGTERM and SIGINT end the program and
then the supervisor. systemd's own default for RestartSec is 100 ms.
"""

import contextlib
import signal
import subprocess
import sys
import time


class Supervisor:
    """Keeps one program running."""

    def __init__(self, restart_s: float, argv: list[str]) -> None:
        self._restart_s = restart_s
        self._argv = argv
        self._child: subprocess.Popen[bytes] | None = None
        self._stopping = False

    def stop(self, number: int, _frame: object) -> None:
        """Pass the signal on and do not restart any more."""
        self._stopping = True
        if self._child is not None:
            with contextlib.suppress(ProcessLookupError):
                self._child.send_signal(number)

    def _is_stopping(self) -> bool:
        return self._stopping

    def run(self) -> int:
        """Run until stopped; return the program's last exit status."""
        status = 0
        while not self._stopping:
            self._child = subprocess.Popen(self._argv)
            if self._is_stopping():  # the signal came while the program was being started
                self._child.terminate()
            status = self._child.wait()
            print(f"supervise: the program ended with {status}", file=sys.stderr, flush=True)
            if not self._stopping:
                time.sleep(self._restart_s)
        return status


def main() -> int:
    """Run the supervisor named on the command line."""
    supervisor = Supervisor(int(sys.argv[1]) / 1000, sys.argv[2:])
    signal.signal(signal.SIGTERM, supervisor.stop)
    signal.signal(signal.SIGINT, supervisor.stop)
    return supervisor.run()


if __name__ == "__main__":
    sys.exit(main())
