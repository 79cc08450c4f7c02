"""A node that is flooded with INITs of spoofed sources (KT-5)."""

from __future__ import annotations

import json
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from tests.integration.test_dataplane import VNI, Node
from tests.lab import Lab, Probes
from tests.load.traffic import (
    FIRST,
    LAB,
    Counted,
    Flow,
    Moved,
    TimedNode,
    connected,
    last_line,
    percentile,
    retransmitted,
)

_NEWCOMERS = 6


@dataclass
class Flooded:
    """What a flood of INITs did."""

    rate: float  # INITs per second that reached the node
    moved: Moved
    probes_lost: float  # share
    rss_mib: float  # more than before
    took_s: list[float]  # of each legitimate handshake
    received_octets: int
    replied_octets: int
    drops: Counter[str] = field(default_factory=Counter)

    @property
    def lost(self) -> float:
        """Share of the established flows' datagrams that was lost; of the worst of them."""
        shares = [flow.lost / flow.sent for flow in self.moved.flows]
        return max(self.probes_lost, *shares)

    @property
    def p99_s(self) -> float:
        """The handshakes' 99th percentile."""
        return percentile(self.took_s, 99)


def flood(lab: Lab, *, rate: float, seconds: float) -> Flooded:
    """Flood b with INITs of spoofed sources while a talks to it and others make sessions."""
    a, b = connected(lab, prefix=FIRST)
    site = lab.sites["cloud"]
    attacker = site.host("attacker")
    newcomers = [TimedNode(site.host(f"new{n}"), 3 + n) for n in range(_NEWCOMERS)]
    for node in newcomers:
        node.make_tap()
        node.start(prefix=FIRST)
        node.connect()
    assert b.apply(a, *newcomers)["ok"]
    assert all(handshake_s(node, b) < 1 for node in newcomers)
    # The answers go nowhere, and are counted where they leave.
    site.drop("ip daddr 100.64.0.0/10")
    b.host.nft(
        "table inet flood {\n"
        "chain in { type filter hook input priority -200;\n"
        "ip saddr 100.64.0.0/10 udp dport 8002 counter\n}\n"
        "chain out { type filter hook output priority -200;\n"
        "ip daddr 100.64.0.0/10 counter\n}\n}"
    )
    pid = b.connect().ask("hello")["pid"]
    target: dict[str, Any] = {
        "mac": b.host.run(["cat", "/sys/class/net/eth0/address"]).stdout.strip(),
        "ip": b.host.v4,
        "public_key": b.key.public_key().public_bytes_raw().hex(),
        "vni": VNI,
        "epoch": 1,
        "suite": 1,
    }
    numbers = [rate, seconds + 3, 100_000]
    script = attacker.python(LAB / "flood.py", "eth0", *map(str, numbers), json.dumps(target))
    before_drops: Counter[str] = Counter(b.stats()["drops"])
    before_rss = rss_mib(b, pid)
    attack = attacker.start(script, name="flood")
    attack.wait_for_log("ready", within_s=60)
    time.sleep(1)
    probes = Probes({a.host: a.ips[0], b.host: b.ips[0]}, directory=lab.directory)
    counted, begun, again = Counted.now(a, b), time.monotonic(), retransmitted(a, b)
    flows = [
        Flow(a, b, family=4, port=6001, octets=200, rate=2000, seconds=seconds),
        Flow(b, a, family=6, port=6002, octets=1000, rate=2000, seconds=seconds),
    ]

    def come_and_go(node: Node) -> list[float]:
        took = []
        while time.monotonic() < begun + seconds:
            took.append(handshake_s(node, b))
            time.sleep(0.2)
        return took

    rss = 0.0
    with ThreadPoolExecutor(_NEWCOMERS) as pool:
        running = [pool.submit(come_and_go, node) for node in newcomers]
        while time.monotonic() < begun + seconds:
            rss = max(rss, rss_mib(b, pid))
            time.sleep(0.3)
        took = [each for one in running for each in one.result()]
    for flow in flows:
        flow.finish(within_s=30)
    pairs = probes.pairs()
    counted = Counted.now(a, b).since(counted)
    moved = Moved(counted, seconds, [], flows, retransmitted(a, b) - again)
    attack.wait(within_s=30)
    sent = last_line(attack)
    shown = b.host.run(["nft", "--json", "list", "table", "inet", "flood"]).stdout
    received, replied = nft_counters(shown)
    assert received["packets"] > 0.95 * sent["sent"], "the flood arrived"
    after_drops: Counter[str] = Counter(b.stats()["drops"])
    return Flooded(
        rate=sent["sent"] / sent["seconds"],
        moved=moved,
        probes_lost=max(pair.lost / pair.sent for pair in pairs),
        rss_mib=rss - before_rss,
        took_s=took,
        received_octets=received["bytes"],
        replied_octets=replied["bytes"],
        drops=after_drops - before_drops,
    )


def nft_counters(shown: str) -> list[dict[str, int]]:
    """Return the counters of a table in the order of its rules."""
    rules = [item["rule"] for item in json.loads(shown)["nftables"] if "rule" in item]
    return [
        expression["counter"]
        for rule in rules
        for expression in rule["expr"]
        if "counter" in expression
    ]


def handshake_s(node: Node, peer: Node) -> float:
    """Forget a peer and know it again; return how long it takes until it answers in a session."""
    assert node.apply()["ok"]
    time.sleep(0.06)  # its INITs are 50 ms apart (rule 3)
    begun = time.monotonic()
    assert node.apply(peer)["ok"]
    assert node.control
    node.control.ask("probe", vni=VNI, peer=peer.id, timeout_ms=9000)
    return time.monotonic() - begun


def rss_mib(node: Node, pid: int) -> float:
    """Return the resident memory of a data plane."""
    status = node.host.run(["cat", f"/proc/{pid}/status"]).stdout
    return next(int(line.split()[1]) for line in status.splitlines() if line[:6] == "VmRSS:") / 1024
