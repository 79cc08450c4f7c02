"""`python -m tests.bench.scale`: what a large vSubnet costs one data plane.

a (the data plane) --- [veth] --- b (1,000 members in one process, each at an address of its own)

A veth's far end runs in softirqs of whoever sends: what the receiving kernel does with a packet
would be charged to the data plane. So the far end drops what arrives while copies are measured,
as the wire behind a network card would take them, in rounds that are over before the data plane
misses an answer. The figure with the receiving kernel is told, too.
"""

from __future__ import annotations

import base64
import os
import statistics
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from tests import proofs
from tests.bench.cairn import BINARY, ask
from tests.bench.pair import make_pair
from tests.lab import ROOT, Lab, Machine, Program, until

CROWD = ROOT / "build" / "cargo" / "release" / "examples" / "crowd"
FRAMES = ROOT / "tests" / "lab" / "frames.py"
COMMAND = "python -m tests.bench.scale"
MEMBERS = 1000
ROUNDS, BROADCASTS, INTERVAL_MS = 7, 100, 15  # a round is over before a silent peer is probed
IDLE_SESSIONS, QUIET_S, IDLE_S = 100, 15, 60  # quiet: keepalives and probes are over
TALK_S, FOLLOWED_S, TOLD_S = 9.5, 10.0, 1.0
_VNI, _TAP, _MAC = 7, "cairn7", "02:00:00:00:00:01"
_NETWORK = "10.66.0.0"
_DROP = (
    "table netdev wire { chain end { type filter hook ingress device eth0 priority 0; "
    "udp dport 8002 drop; }; }"
)
_MORE = 1_000_000  # frames per second: the storm limit isn't what is measured


@dataclass(frozen=True, slots=True)
class Measured:
    """A running data plane."""

    machine: Machine
    program: Program
    key: X25519PrivateKey

    @property
    def socket(self) -> Path:
        """Its control socket."""
        return self.machine.directory / "dp.sock"

    def sessions(self) -> int:
        """Return the number of its sessions."""
        counters: dict[str, int] = ask(self.socket, "stats")["counters"]
        return counters.get("sessions", 0)

    def copies(self) -> int:
        """Return the number of frames sent to peers so far."""
        frames: int = ask(self.socket, "stats")["vsubnets"][0]["tx_frames"]
        return frames

    def heard(self) -> int:
        """Return the number of frames that came from peers so far."""
        frames: int = ask(self.socket, "stats")["vsubnets"][0]["rx_frames"]
        return frames

    def rss_mib(self) -> float:
        """Return its resident memory."""
        for line in Path(f"/proc/{self.program.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        raise LookupError("no VmRSS")

    def cpu_ns(self) -> int:
        """Return the CPU time of all its threads."""
        tasks = Path(f"/proc/{self.program.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)


def main() -> int:
    """Measure and write the proofs; 0 if all bars hold."""
    if os.geteuid() != 0:
        print("error: namespaces need root\n  what to do: run make bench as root", file=sys.stderr)
        return 6
    for program in (BINARY, CROWD):
        if not program.exists():
            print(f"error: {program} is not built\n  what to do: make bench", file=sys.stderr)
            return 6
    load = os.getloadavg()[0]
    print(f"scale: load of the machine before: {load:.1f} on {os.cpu_count()} CPUs", flush=True)
    holds = [_crowded(), _idle(), _moved()]
    return 0 if all(holds) else 1


def _crowded() -> bool:
    with Lab("scale") as lab:
        measured = _start(lab, MEMBERS)
        rss_idle = measured.rss_mib()
        _join(lab, measured, MEMBERS)
        received = _us_per_copy(measured, 60)
        rss = measured.rss_mib()
        small, large = (_us_per_copy_sent(lab, measured, octets) for octets in (60, 1400))
    print(
        f"scale: us a copy: {small:.2f} of 60 octets, {large:.2f} of 1,400; "
        f"{received:.2f} of 60 octets with their way to the receiver's socket"
    )
    return all(
        (
            _prove(
                "BENCH-bum",
                what="CPU of the data plane to seal and send one broadcast of 60 octets to "
                f"{MEMBERS} peers, a copy",
                bar="at most 2 us",
                value=round(small, 2),
                unit="us",
                holds=small <= 2.0,
            ),
            _prove(
                "BENCH-rss-idle",
                what="memory of the data plane without peers",
                bar="at most 8 MiB",
                value=round(rss_idle, 1),
                unit="MiB",
                holds=rss_idle <= 8.0,
            ),
            _prove(
                "BENCH-rss-1000",
                what=f"memory of the data plane with {MEMBERS} peers in sessions",
                bar="at most 40 MiB",
                value=round(rss, 1),
                unit="MiB",
                holds=rss <= 40.0,
            ),
        )
    )


def _idle() -> bool:
    with Lab("scale") as lab:
        measured = _start(lab, IDLE_SESSIONS)
        _join(lab, measured, IDLE_SESSIONS)
        time.sleep(QUIET_S)
        cpu, begun = measured.cpu_ns(), time.monotonic_ns()
        time.sleep(IDLE_S)
        cpu = measured.cpu_ns() - cpu
        percent = 100 * cpu / (time.monotonic_ns() - begun)
        print(f"scale: {cpu / 1e6:.3f} ms of CPU at rest")
        sessions = measured.sessions()
    return _prove(
        "BENCH-idle-cpu",
        what=f"CPU of the data plane, {sessions} sessions at rest, over {IDLE_S} s",
        bar="at most 0.2 % of a core",
        value=round(percent, 4),
        unit="%",
        holds=percent <= 0.2 and sessions >= IDLE_SESSIONS,
    )


def _moved() -> bool:
    """Move the data plane's machine; let its cold peers, who were not told, talk to it then."""
    with Lab("scale") as lab:
        measured = _start(lab, MEMBERS)
        talk = lab.directory / "talk"
        _join(lab, measured, MEMBERS, talk)
        measured.machine.ip(
            "addr del 192.0.2.1/24 dev eth0",
            "addr add 192.0.2.77/24 dev eth0",
            f"route replace {_NETWORK}/16 via 192.0.2.2",
        )
        begun = time.monotonic()
        for told in ("underlay_changed", "warm_all"):
            ask(measured.socket, told)
        time.sleep(TALK_S - TOLD_S)
        sessions = measured.sessions()
        talk.touch()
        time.sleep(max(0.0, begun + FOLLOWED_S - TOLD_S - time.monotonic()))
        heard = measured.heard()
    print(f"scale: {sessions} of {MEMBERS} peers had a session when they began to talk")
    return _prove(
        "B5-cached",
        what=f"cluster down, a machine takes another address: of {MEMBERS} cached peers without a "
        f"session, each of which sends a frame after {TALK_S} s, those that are not heard within "
        f"{FOLLOWED_S} s ({TOLD_S:.0f} s of it is the agent's, to find that nobody can be told)",
        bar="0",
        value=MEMBERS - heard,
        unit="peers",
        holds=heard == MEMBERS,
    )


def _start(lab: Lab, members: int) -> Measured:
    """Start the data plane, first alone in its vSubnet."""
    pair = make_pair(lab)
    a, b = pair.a.machine, pair.b.machine
    b.ip("link set lo up", f"route add local {_NETWORK}/16 dev lo")
    a.ip(f"route add {_NETWORK}/16 via {pair.b.underlay}")
    a.sysctl(net__ipv6__conf__default__disable_ipv6=1)
    a.ip(
        f"tuntap add dev {_TAP} mode tap vnet_hdr multi_queue",
        f"link set {_TAP} address {_MAC} mtu 1400 up",
    )
    command = [str(BINARY), "--socket", str(a.directory / "dp.sock")]
    measured = Measured(a, a.start(command, name="cairn-dataplane"), X25519PrivateKey.generate())
    until("the data plane listens", measured.socket.exists, within_s=5)
    ask(measured.socket, "apply", generation=1, state=_state(measured, 0))
    time.sleep(1)
    return measured


def _join(lab: Lab, measured: Measured, members: int, talk: Path | None = None) -> None:
    """Let the members make sessions with the data plane; with `talk` they wait for this file."""
    ask(measured.socket, "apply", generation=2, state=_state(measured, members))
    key = measured.key.public_key().public_bytes_raw().hex()
    crowd = [str(CROWD), str(members), _NETWORK, key, "192.0.2.1:8002"]
    b = next(machine for machine in lab.machines if machine.name == "b")
    crowd += [str(talk)] if talk else []
    b.start(["prlimit", "--nofile=8192", *crowd], name="crowd")
    if talk:
        until("all listen", lambda: _listeners(b) >= members, within_s=60)
    else:
        until("all are in session", lambda: measured.sessions() >= members, within_s=60)
    time.sleep(2)


def _listeners(machine: Machine) -> int:
    return machine.run(["ss", "-Hlnu", "sport", "8002"]).stdout.count("\n")


def _us_per_copy_sent(lab: Lab, measured: Measured, octets: int) -> float:
    """Return the same where nobody receives: the median of some rounds."""
    far = next(machine for machine in lab.machines if machine.name == "b")
    rounds = []
    for _ in range(ROUNDS):
        far.run(["nft", _DROP])
        try:
            rounds.append(_us_per_copy(measured, octets))
        finally:
            far.run(["nft", "delete table netdev wire"])
        time.sleep(5)  # what was missed is probed and answered
    print(f"scale: {octets} octets, us a copy: {', '.join(f'{one:.2f}' for one in sorted(rounds))}")
    return statistics.median(rounds)


def _us_per_copy(measured: Measured, octets: int) -> float:
    """Return the CPU time of a copy of a broadcast, in microseconds."""
    frame = bytes.fromhex("ffffffffffff" + _MAC.replace(":", "") + "88b5")
    frame += bytes(octets - len(frame))
    script = measured.machine.python(FRAMES, _TAP, str(BROADCASTS), str(INTERVAL_MS))
    copies, cpu = measured.copies(), measured.cpu_ns()
    measured.machine.run(script, stdin=frame.hex() + "\n", within_s=120)
    time.sleep(0.1)
    cpu, copies = measured.cpu_ns() - cpu, measured.copies() - copies
    if copies < 0.99 * BROADCASTS * MEMBERS:
        raise LookupError(f"only {copies} copies were made: {ask(measured.socket, 'stats')}")
    return cpu / copies / 1000


def _state(measured: Measured, members: int) -> dict[str, Any]:
    """Return the state with so many other members (examples/crowd.rs has theirs)."""
    private = base64.b64encode(measured.key.private_bytes_raw()).decode()
    vsubnet = {
        "vni": _VNI,
        "tap": _TAP,
        "macs": [_MAC],
        "policy": {"bum_pps": _MORE, "bum_burst": _MORE, "ageing_s": 300},
        "peers": [_member(number) for number in range(members)],
    }
    return {
        "cluster_id": str(uuid.UUID(bytes=b"\x07" * 16)),
        "node": {"id": str(uuid.UUID(int=1)), "private_key": private},
        "vsubnets": [vsubnet],
    }


def _member(number: int) -> dict[str, Any]:
    private = bytes([0x40]) + (number + 1000).to_bytes(4, "big") + bytes(27)
    public = X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()
    return {
        "id": str(uuid.UUID(int=number + 1000)),
        "name": f"member-{number}",
        "public_key": base64.b64encode(public).decode(),
        "macs": [f"02:00:01:00:{number >> 8:02x}:{number & 255:02x}"],
        "endpoints": [f"10.66.{number >> 8}.{number & 255}:8002"],
    }


def _prove(proof: str, *, what: str, bar: str, value: float, unit: str, holds: bool) -> bool:
    print(f"scale: {proof}: {value} {unit} ({bar}): {'holds' if holds else 'MISSED'}", flush=True)
    return proofs.record(
        proof, what=what, bar=bar, value=value, unit=unit, holds=holds, command=COMMAND
    )


if __name__ == "__main__":
    sys.exit(main())
