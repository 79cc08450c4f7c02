"""Handshakes and sessions on a network that loses, reorders and doubles (B15)."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from dataclasses import dataclass

from tests.integration.test_dataplane import TAP
from tests.lab import Impairment, Lab, Machine, Probes, until
from tests.load.traffic import TimedNode


@dataclass
class Endured:
    """What happened on a bad network."""

    took_s: list[float]  # of each handshake
    sent: int
    lost: int
    doubled: int
    reordered: int
    outage_s: float
    sessions_lost: int
    rekeys: int

    def over(self, limit_s: float) -> int:
        """Return how many handshakes took longer."""
        return sum(took > limit_s for took in self.took_s)

    @property
    def median_s(self) -> float:
        """The handshakes' median."""
        return statistics.median(self.took_s)


BAD = Impairment(delay_ms=5, reorder_ms=50, duplicate=0.1, loss=0.2, seed=15)


def endure(lab: Lab, *, pairs: int, rounds: int, seconds: float) -> Endured:
    """Make handshakes through a bad network, `pairs` at once, and probe one pair through rekeys."""
    left, right = lab.site("left"), lab.site("right")
    a = TimedNode(left.host("a"), 1)
    others = [TimedNode(right.host(f"b{n}"), n + 2) for n in range(pairs)]
    for node in (a, *others):
        node.timers = {"rekey_after_ms": 3000, "rekey_jitter_ms": 1000}
        node.make_tap()
        node.start()
        node.connect().ask("subscribe")
    right.impair(BAD)
    took: list[float] = []
    for _ in range(rounds):
        took += handshakes_s(a, others)
    for node in (a, others[0]):
        node.connect().ask("subscribe")
    before = a.peer_stats_of(others[0])["handshakes"]
    addresses: dict[Machine, str] = {a.host: a.ips[0], others[0].host: others[0].ips[0]}
    for node, other in ((a, others[0]), (others[0], a)):  # so that no ARP is waited for
        mac, address = other.mac, other.ips[0]
        node.host.ip(f"neigh replace {address} lladdr {mac} dev {TAP} nud permanent")
    probes = Probes(addresses, directory=lab.directory)
    time.sleep(seconds)
    lost_sessions = 0
    results = probes.pairs()
    for node in (a, others[0]):
        assert node.control
        node.control.ask("hello")
        names = Counter(event["event"] for event in node.control.events)
        lost_sessions += names["session_down"]
    return Endured(
        took_s=took,
        sent=sum(pair.sent for pair in results),
        lost=sum(pair.lost for pair in results),
        doubled=sum(pair.duplicated for pair in results),
        reordered=sum(pair.reordered for pair in results),
        outage_s=max(pair.outage_s for pair in results),
        sessions_lost=lost_sessions,
        rekeys=a.peer_stats_of(others[0])["handshakes"] - before,
    )


def handshakes_s(a: TimedNode, others: list[TimedNode]) -> list[float]:
    """Make all forget each other, and let `a` begin; return how long each pair took until both
    of it were in session."""
    for node in (a, *others):
        assert node.apply()["ok"]
    for other in others:
        assert other.apply(peers=[a.as_peer() | {"warm": False}])["ok"]
    begun = time.monotonic()
    assert a.apply(*others)["ok"]
    missing, took = {other.id: other for other in others}, []

    def all_up() -> bool:
        for peer in a.stats()["vsubnets"][0]["peers"]:
            if peer["session"] != "up" or peer["id"] not in missing:
                continue
            if missing[peer["id"]].peer_stats()["session"] == "up":
                del missing[peer["id"]]
                took.append(time.monotonic() - begun)
        return not missing

    until("all are in session", all_up, within_s=60)
    return took
