"""Two data planes under load: what the short tests and the long ones of `make soak` share.

Everything is counted at both ends: by the numbers in each datagram, by hashes of each stream, by
the data planes' counters and by the kernels'.
"""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tests.integration.test_dataplane import TAP, JsonObject, Node
from tests.lab import ROOT, Lab, Program

LAB = ROOT / "tests" / "lab"
WINDOW = 512 << 10  # octets on their way a stream: no queue overflows
_MOST_OF_A_TRAIN = 64  # frames that the kernel may drop as one packet
# What a session drops and a rekey could be the cause of.
SESSION_DROPS = {
    "unknown_session", "session_expired", "not_authentic", "replayed", "too_old", "cloned",
    "queue_full", "queue_expired", "no_endpoint", "path_unvalidated", "malformed_data",
    "bad_superframe", "frame_too_long",
}  # fmt: skip


class TimedNode(Node):
    """A node with timers of its own (a test setting)."""

    timers: JsonObject | None = None

    def state(self, *peers: Node, **changes: object) -> JsonObject:
        """Return the state, with the timers."""
        more = {"timers": self.timers} if self.timers else {}
        return super().state(*peers, **changes) | more

    def peer_stats_of(self, other: Node) -> JsonObject:
        """Return what is known of one of several peers."""
        peers = self.stats()["vsubnets"][0]["peers"]
        return next(peer for peer in peers if peer["id"] == other.id)


# Before the other programs of this one machine, which elsewhere have their own. Where the kernel
# groups processes by session, it is the group's niceness that counts.
_SET = 'test ! -w /proc/self/autogroup || echo -10 > /proc/self/autogroup; exec "$@"'
FIRST = ["nice", "-n", "-10", "sh", "-c", _SET, "-"]


def connected(
    lab: Lab, timers: JsonObject | None = None, *, prefix: Sequence[str] = ()
) -> tuple[TimedNode, TimedNode]:
    """Return two nodes on one LAN, in session; `prefix` starts their data planes."""
    site = lab.site("cloud")
    a, b = TimedNode(site.host("a"), 1), TimedNode(site.host("b"), 2)
    for node in (a, b):
        node.timers = timers
        node.make_tap()
        node.start(prefix=prefix)
    assert a.apply(b)["ok"] and b.apply(a)["ok"]
    assert a.pings(b.ips[0]) and b.pings(a.ips[1])
    return a, b


class Stream:
    """A TCP stream that is hashed at both ends."""

    def __init__(
        self,
        sender: Node,
        receiver: Node,
        *,
        family: int,
        port: int,
        seconds: float = 1e9,
        octets: int = 1 << 62,
    ) -> None:
        address = receiver.ips[family == 6]
        script, limits = LAB / "stream.py", [WINDOW, octets, seconds, port]
        there = receiver.host.python(script, "receive", address, str(port))
        self._receiver = receiver.host.start(there, name=f"stream-{port}")
        self._receiver.wait_for_log("ready", within_s=10)
        here = sender.host.python(script, "send", address, str(port), *map(str, limits))
        self._sender = sender.host.start(here, name=f"stream-from-{port}")

    def finish(self, *, within_s: float) -> None:
        """Wait for the end."""
        for program in (self._sender, self._receiver):
            assert program.wait(within_s=within_s) == 0, program.tail()

    @property
    def sent(self) -> JsonObject:
        """What was sent."""
        return last_line(self._sender)

    @property
    def octets(self) -> int:
        """How much arrived."""
        return int(last_line(self._receiver)["octets"])

    @property
    def is_right(self) -> bool:
        """Say whether what arrived is what was sent."""
        names = ("octets", "sha256")
        return [self.sent[n] for n in names] == [last_line(self._receiver)[n] for n in names]


class Flow:
    """A UDP flow whose datagrams are numbered."""

    def __init__(
        self,
        sender: Node,
        receiver: Node,
        *,
        family: int,
        port: int,
        octets: int,
        rate: float,
        seconds: float,
        how: str = "each",
    ) -> None:
        address = receiver.ips[family == 6]
        script = LAB / "sequence.py"
        there = receiver.host.python(script, "receive", address, str(port), str(octets))
        self._receiver = receiver.host.start(there, name=f"flow-{port}")
        self._receiver.wait_for_log("ready", within_s=10)
        numbers = [port, octets, rate, seconds, how]
        here = sender.host.python(script, "send", address, *map(str, numbers))
        self._sender = sender.host.start(here, name=f"flow-from-{port}")
        self.octets = octets

    def finish(self, *, within_s: float) -> None:
        """End the sender, and wait for what is on its way."""
        if self._sender.running:
            self._sender.send_signal(signal.SIGTERM)
        assert self._sender.wait(within_s=within_s) == 0, self._sender.tail()
        time.sleep(0.5)
        self._receiver.send_signal(signal.SIGTERM)
        assert self._receiver.wait(within_s=20) == 0, self._receiver.tail()

    @property
    def sent(self) -> int:
        """How many were sent."""
        return int(last_line(self._sender)["sent"])

    @property
    def came(self) -> JsonObject:
        """What came: `received`, `changed`, `doubled`, `reordered`."""
        return last_line(self._receiver)

    @property
    def lost(self) -> int:
        """How many did not come."""
        return self.sent - int(self.came["received"]) + int(self.came["doubled"])


def last_line(program: Program) -> JsonObject:
    """Return what a script printed at its end."""
    line: JsonObject = json.loads(program.text().splitlines()[-1])
    return line


@dataclass(frozen=True)
class Counted:
    """What both data planes and both kernels counted."""

    frames: dict[str, tuple[int, int]]  # by sender: sent, received by the other
    drops: Counter[str]
    kernel_drops: int  # packets that sockets or devices had no room for
    handshakes: int

    @classmethod
    def now(cls, a: Node, b: Node) -> Counted:
        """Count."""
        stats = {node: node.stats() for node in (a, b)}
        peers = {node: stats[node]["vsubnets"][0]["peers"][0] for node in (a, b)}
        drops: Counter[str] = Counter()
        for each in stats.values():
            drops.update(each["drops"])
        return cls(
            {
                one.host.name: (peers[one]["tx_frames"], peers[other]["rx_frames"])
                for one, other in ((a, b), (b, a))
            },
            drops,
            sum(kernel_drops(node) for node in (a, b)),
            peers[a]["handshakes"] + peers[b]["handshakes"],
        )

    def since(self, before: Counted) -> Counted:
        """Return the difference."""
        return Counted(
            {
                name: (sent - before.frames[name][0], received - before.frames[name][1])
                for name, (sent, received) in self.frames.items()
            },
            self.drops - before.drops,
            self.kernel_drops - before.kernel_drops,
            self.handshakes - before.handshakes,
        )

    @property
    def moved(self) -> int:
        """How many frames were sent."""
        return sum(sent for sent, _ in self.frames.values())

    @property
    def lost(self) -> int:
        """How many frames were sealed and not opened."""
        return sum(sent - received for sent, received in self.frames.values())

    @property
    def unexplained(self) -> int:
        """How many lost frames no full queue of a kernel explains."""
        return max(0, self.lost - _MOST_OF_A_TRAIN * self.kernel_drops)


def kernel_drops(node: Node) -> int:
    """Return how many packets a host's sockets, TAP and interface had no room for."""
    full = ("UdpRcvbufErrors", "Udp6RcvbufErrors", "UdpSndbufErrors", "Udp6SndbufErrors")
    shown = json.loads(node.host.run(["nstat", "-asz", "--json", *full]).stdout)["kernel"]
    files = " ".join(
        f"/sys/class/net/{device}/statistics/{way}_dropped"
        for device in (TAP, "eth0")
        for way in ("rx", "tx")
    )
    dropped = node.host.run(["sh", "-c", f"cat {files}"]).stdout.split()
    return sum(map(int, shown.values())) + sum(map(int, dropped))


@dataclass
class Moved:
    """What streams and flows moved at once, and what was wrong with it."""

    counted: Counted
    seconds: float
    streams: list[Stream]
    flows: list[Flow]
    retransmitted: int

    @property
    def octets(self) -> int:
        """How many octets of payload arrived."""
        return sum(stream.octets for stream in self.streams) + sum(
            int(flow.came["received"]) * flow.octets for flow in self.flows
        )

    @property
    def changed(self) -> int:
        """How many streams and datagrams are not what was sent."""
        wrong = sum(not stream.is_right for stream in self.streams)
        return wrong + sum(int(flow.came["changed"]) for flow in self.flows)

    @property
    def reordered(self) -> int:
        """How many datagrams came behind a later one of their flow."""
        return sum(int(flow.came["reordered"]) for flow in self.flows)

    @property
    def doubled(self) -> int:
        """How many datagrams came twice."""
        return sum(int(flow.came["doubled"]) for flow in self.flows)

    @property
    def lost(self) -> int:
        """How many datagrams did not come."""
        return sum(flow.lost for flow in self.flows)

    @property
    def suspicious(self) -> dict[str, int]:
        """What the data planes dropped that a session may not."""
        drops = self.counted.drops
        return {reason: n for reason, n in drops.items() if reason in SESSION_DROPS}

    def __str__(self) -> str:
        frames = self.counted.moved
        return (
            f"{self.octets / 1e9:.1f} GB in {frames} frames in {self.seconds:.0f} s "
            f"({frames / self.seconds / 1e3:.0f} k/s), {self.counted.handshakes} handshakes"
        )


def full_load(a: Node, b: Node, *, seconds: float = 1e9, octets: int = 1 << 62) -> Moved:
    """Load both directions until a limit: TCP of both families that takes all that the machine
    gives, numbered UDP in small datagrams and in trains beside it."""
    before, begun = Counted.now(a, b), time.monotonic()
    again = retransmitted(a, b)
    ways = [(a, b, 4), (b, a, 6)] if octets == 1 << 62 else [(a, b, 4), (a, b, 6), (b, a, 4)]
    share = octets // len(ways)
    flows = [
        Flow(a, b, family=4, port=6001, octets=64, rate=4000, seconds=1e9),
        Flow(b, a, family=6, port=6002, octets=512, rate=2000, seconds=1e9),
        Flow(a, b, family=6, port=6003, octets=1200, rate=4000, seconds=1e9, how="train"),
    ]
    streams = [
        Stream(one, other, family=family, port=5001 + n, seconds=seconds, octets=share)
        for n, (one, other, family) in enumerate(ways)
    ]
    limit = seconds + 60 if seconds < 1e8 else octets / 1e9 * 40 + 60
    for stream in streams:
        stream.finish(within_s=limit)
    took = time.monotonic() - begun
    for flow in flows:
        flow.finish(within_s=limit)
    time.sleep(0.3)
    counted = Counted.now(a, b).since(before)
    return Moved(counted, took, streams, flows, retransmitted(a, b) - again)


def retransmitted(*nodes: Node) -> int:
    """Return how many TCP segments were sent again."""
    total = 0
    for node in nodes:
        shown = node.host.run(["nstat", "-asz", "--json", "TcpRetransSegs"]).stdout
        total += int(json.loads(shown)["kernel"]["TcpRetransSegs"])
    return total


def percentile(values: Iterable[float], percent: int) -> float:
    """Return the smallest value that so many percent of the values do not exceed."""
    ordered = sorted(values)
    return ordered[-(-len(ordered) * percent // 100) - 1]
