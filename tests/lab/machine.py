"""A lab machine: network, mount, UTS and PID namespaces that live and die together.

/run and /proc are its own, its host name is its name, the file system is the host's. A
person looks inside with `nsenter -t PID -a`.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.lab.capture import Capture
from tests.lab.errors import CommandError, LabError, NotInTimeError
from tests.lab.program import Program, die_with_parent, kill_tree

_HERE = Path(__file__).resolve().parent
ROOT = _HERE.parents[1]
_PATH = f"{ROOT / 'build/bin'}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
RESTART_MS = 100
_RING_KIB = 32_768  # of a capture: 512 frames, of which each takes the room of the largest
_UNSHARE = ["unshare", "--mount", "--net", "--uts", "--ipc", "--pid", "--fork", "--kill-child"]


class Machine:
    """One machine of the lab. Made by `Lab`; closed by it too."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.directory = directory  # logs and captures are kept from here when a test fails
        self.env: dict[str, str] = {}
        self._programs: list[Program] = []
        self._captures: list[Capture] = []
        directory.mkdir(parents=True)
        machine_id = directory / "machine-id"
        machine_id.write_text(uuid.uuid4().hex + "\n")
        self._init = subprocess.Popen(
            [*_UNSHARE, *_script("init.py"), name, str(machine_id)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
        try:
            self.pid = self._ready()
            self.ip("link set lo up")
        except BaseException:  # also Ctrl-C: nobody else knows of this machine yet
            self._end_init()
            raise

    def run(
        self,
        argv: Sequence[str],
        *,
        check: bool = True,
        within_s: float = 30.0,
        stdin: str = "",
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; raise CommandError on a non-zero status if `check`.

        stdout has the command's stdout and stderr its stderr. After `within_s` the command
        is killed and NotInTimeError raised.
        """
        process = subprocess.Popen(
            self.enter(argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=self._environment(env),
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
        try:
            out, err = process.communicate(stdin, timeout=within_s)
        except subprocess.TimeoutExpired:
            kill_tree(process.pid)
            out, err = process.communicate()
            raise NotInTimeError(
                f"on {self.name}: {' '.join(argv)}: not done after {within_s:g} s\n{out}{err}"
            ) from None
        except BaseException:
            kill_tree(process.pid)
            process.communicate()
            raise
        if check and process.returncode != 0:
            raise CommandError(self.name, list(argv), process.returncode, out + err)
        return subprocess.CompletedProcess(list(argv), process.returncode, out, err)

    def start(
        self,
        argv: Sequence[str],
        *,
        name: str = "",
        restart: bool = False,
        env: Mapping[str, str] | None = None,
    ) -> Program:
        """Start a program; with `restart` it comes back 100 ms after each end.

        Its output goes to NAME.log in the machine's directory.
        """
        name = name or Path(argv[0]).name
        supervisor = [*_script("supervise.py"), str(RESTART_MS)] if restart else []
        program = Program(
            f"{name} on {self.name}",
            self.enter([*supervisor, *argv]),
            env=self._environment(env),
            log=self.directory / f"{name}.log",
            supervised=restart,
        )
        self._programs.append(program)
        return program

    def python(self, script: Path, *arguments: str) -> list[str]:
        """Return the command line that runs a stand-alone script of the lab."""
        return [sys.executable, "-I", "-S", str(script), *arguments]

    def ip(self, *commands: str) -> None:
        """Run several `ip` commands (without the word ip) in one go; the first error raises."""
        # Only the network is entered: `netns PID` must mean a PID as seen outside.
        done = subprocess.run(
            ["nsenter", f"--target={self.pid}", "--net", "--", "ip", "-batch", "-"],
            input="\n".join(commands) + "\n",
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise CommandError(self.name, ["ip", *commands], done.returncode, done.stderr)

    def nft(self, ruleset: str) -> None:
        """Load an nftables ruleset; all of it or nothing."""
        self.run(["nft", "-f", "-"], stdin=ruleset)

    def sysctl(self, **values: int | str) -> None:
        """Set sysctls; a double underscore in a name stands for the dot."""
        script = "set -e\n" + "".join(
            f"echo {value} > /proc/sys/{key.replace('__', '/')}\n" for key, value in values.items()
        )
        self.run(["sh"], stdin=script)

    def listens(self, protocol: str, port: int) -> bool:
        """Say whether something listens on a "tcp" or "udp" port here."""
        option = "-Hltn" if protocol == "tcp" else "-Hlun"
        return bool(self.run(["ss", option, f"sport = :{port}"]).stdout.strip())

    def capture(self, interface: str, *, what: str = "", name: str = "") -> Capture:
        """Start tcpdump on `interface` (pcap filter `what`); it is running on return."""
        file = self.directory / f"{name or interface}-{len(self._captures)}.pcap"
        command = ["tcpdump", "-i", interface, "-w", str(file), "-U", "--immediate-mode"]
        command += ["-Z", "root", "-s", "0", "-B", str(_RING_KIB)] + ([what] if what else [])
        program = self.start(command, name=file.stem)
        capture = Capture(program, file)
        self._captures.append(capture)
        program.wait_for_log("listening on", within_s=5)
        return capture

    def enter(self, argv: Sequence[str]) -> list[str]:
        """Return the command line that runs `argv` in this machine."""
        return ["nsenter", f"--target={self.pid}", "-m", "-u", "-i", "-n", "-p", "--", *argv]

    def reset(self) -> None:
        """End every program, as a power failure does; /run is empty afterwards."""
        self.run(["sh", "-c", "kill -9 -1"], check=False)
        for program in self._programs:
            program.stop()
        self._programs.clear()
        self._captures.clear()
        self.run(["sh", "-c", "rm -rf /run/* /run/.[!.]*"])

    def close(self) -> None:
        """End everything that runs here and give the namespaces back to the kernel."""
        for capture in self._captures:
            capture.stop()
        self._end_init()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, 9)
        for program in self._programs:
            program.stop()

    def _end_init(self) -> None:
        """Kill unshare: by --kill-child process 1 dies too, and with it the machine."""
        self._init.kill()
        self._init.wait(10)
        if self._init.stdout:
            self._init.stdout.close()

    def _ready(self) -> int:
        assert self._init.stdout is not None
        words = self._init.stdout.readline().decode().split()
        if len(words) != 2 or words[0] != "ready":
            raise LabError(f"machine {self.name} did not start; root is needed")
        return int(words[1])

    def _environment(self, extra: Mapping[str, str] | None) -> dict[str, str]:
        kept = {key: os.environ[key] for key in ("HOME", "LANG", "TERM") if key in os.environ}
        python = {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        return {"PATH": _PATH, **kept, **python, **self.env, **(extra or {})}


def _script(name: str) -> list[str]:
    return [sys.executable, "-I", "-S", str(_HERE / name)]
