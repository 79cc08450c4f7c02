"""The demo's proofs: each measures, and raises ProofFailed with a plain sentence if it fails."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import ExitStack

from tests.demo.stage import PLACES, PRINTER, Stage
from tests.lab import Capture, Machine, Probes, until
from tests.lab.cairn import ethernet, measure_rate
from tests.lab.cairn import pings as machine_pings
from tests.lab.underlay import examine, plain_tcp

IPX = 0x8137
EXPERIMENTAL = 0x88B5  # IEEE 802: local experiments
_OUTAGE_S = 5.0


class ProofFailed(Exception):
    """A proof did not hold; the message says what was seen."""


def pings(stage: Stage, family: int) -> str:
    """Every node pings every other one."""
    asked = answered = 0
    for name, node in stage.nodes.items():
        for other in stage.nodes:
            if other != name:
                node.wait_for_ping(stage.address(other, family), within_s=10)
                asked += 3
                answered += node.pings(stage.address(other, family), count=3)
    _require(answered == asked, f"{answered} of {asked} pings came back over IPv{family}")
    return f"{answered} of {asked} answered"


def tcp_rate(stage: Stage) -> str:
    """One TCP stream from cloud to cloud for two seconds."""
    web, db = stage.nodes["web-1"], stage.nodes["db-1"]
    rate = measure_rate(web, db, stage.address("db-1"))
    _require(rate > 1, f"the stream carried only {rate:.2f} Mbit/s")
    return f"{rate:,.0f} Mbit/s"


def broadcast(stage: Stage) -> str:
    """One node broadcasts; every other one receives each frame exactly once."""
    marker = os.urandom(16)
    sender = stage.nodes["web-1"]
    frame = ethernet("ff:ff:ff:ff:ff:ff", sender.mac(stage.network), EXPERIMENTAL, marker)
    counts = _frames_received(
        stage, frame, count=10, receivers=[name for name in stage.nodes if name != "web-1"]
    )
    _require(set(counts.values()) == {10}, f"10 broadcasts were sent and received: {counts}")
    return ", ".join(f"{name} {count} of 10" for name, count in counts.items())


def non_ip(stage: Stage) -> str:
    """A frame that is not IP at all (EtherType 0x8137, Novell IPX) reaches its destination."""
    sender, receiver = stage.nodes["web-1"], stage.nodes["desk-1"]
    source, target = sender.mac(stage.network), receiver.mac(stage.network)
    frame = ethernet(target, source, IPX, b"\xff\xff not IP " + os.urandom(16))
    counts = _frames_received(stage, frame, count=5, receivers=["desk-1"])
    _require(counts["desk-1"] == 5, f"desk-1 received {counts['desk-1']} of 5 frames")
    return "5 of 5 frames"


def sealed(stage: Stage) -> str:
    """On the internet only UDP 8002 and TCP 8002 are seen, and nothing readable in them."""
    marker = b"cairn-demo-plaintext-" + os.urandom(8).hex().encode()
    web, db = stage.nodes["web-1"], stage.nodes["db-1"]
    with ExitStack() as stack:
        captures = [
            _capturing(stack, stage.lab.internet.capture(f"to{site.number}"))
            for site in stage.lab.sites.values()
        ]
        pattern = marker.hex()[:32]  # ping repeats up to 16 octets through its payload
        command = f"ping -n -c 20 -i 0.05 -s 400 -p {pattern} {stage.address('db-1')}".split()
        web.host.run(command)
        frame = ethernet(db.mac(stage.network), web.mac(stage.network), EXPERIMENTAL, marker)
        web.send_frames(stage.network, frame, count=20)
        _reconnect(stage, "web-2")  # so that TLS to the appliance is seen too
        time.sleep(0.3)  # for what is still on its way
        packets = [packet for capture in captures for packet in capture.packets()]
    findings = examine(packets, [marker, marker[:16]])
    _require(findings.clean, f"the capture shows {findings}")
    streams = plain_tcp(packets)
    _require(not streams, f"TCP 8002 carries something that is not TLS: {'; '.join(streams)}")
    return str(findings)


def printer_reached(stage: Stage) -> str:
    """A VM of each cloud pings the printer, IPv4 and IPv6."""
    said = []
    for name in ("web-1", "db-1"):
        node, answered = stage.nodes[name], 0
        for address in PRINTER.values():
            node.wait_for_ping(address, within_s=30)  # the gateways have begun a moment ago
            _forwarder_and_standby(stage)  # a beat that is late ends a right for a moment
            answered += node.pings(address, count=3)
        _require(answered == 6, f"{answered} of 6 pings of {name} came back from the printer")
        said.append(f"{PLACES[name]} {answered} of 6")
    return ", ".join(said)


def printer_asks(stage: Stage) -> str:
    """The printer, which knows Ethernet and IP alone, finds a VM of each cloud."""
    answered = 0
    for name in ("web-1", "db-1"):
        _forwarder_and_standby(stage)
        answered += machine_pings(stage.printer, stage.address(name), count=3)
    _require(answered == 6, f"{answered} of 6 pings of the printer came back")
    return f"{answered} of 6 answered"


def gateway_killed(stage: Stage) -> str:
    """Agent and data plane of the gateway that forwards are killed; the other takes over."""
    first, second = _forwarder_and_standby(stage)
    node, web = stage.gateways[first], stage.nodes["web-1"]
    assert node.agent is not None and node.dataplane is not None
    begun = time.monotonic()
    node.dataplane.kill_for_good()
    node.agent.kill_for_good()
    web.wait_for_ping(PRINTER[4], within_s=20)
    took = time.monotonic() - begun
    # A beat that is late ends its right, and the next one gives it back.
    until(f"{second} says so", lambda: _state(stage, second) == "forwarding", within_s=10)
    node.start()  # for whoever looks around later
    return f"{first} killed, {second} forwards: back after {took:.1f} s"


def without_appliance(stage: Stage) -> str:
    """The appliance and its etcd are killed; no ping between the nodes is lost."""
    machines: dict[Machine, str] = {
        node.host: stage.address(name) for name, node in stage.nodes.items()
    }
    probes = Probes(machines, directory=stage.lab.directory)
    begun = probes.now()
    stage.appliance.kill()
    time.sleep(_OUTAGE_S)
    probes.stop()
    pairs = probes.pairs(since=begun)
    lost, sent = sum(pair.lost for pair in pairs), sum(pair.sent for pair in pairs)
    _require(lost == 0, f"{lost} of {sent} probes were lost: {probes.worst(since=begun)}")
    _require(sent > 0, "nothing was sent")
    return f"{sent - lost} of {sent} probes in {_OUTAGE_S:.0f} s, one every 10 ms per direction"


def restart_without_appliance(stage: Stage) -> str:
    """With the appliance still away, an agent is killed, and then a data plane."""
    web, address = stage.nodes["web-1"], stage.address("db-1")
    assert web.agent is not None and web.dataplane is not None
    web.agent.kill()
    answered = web.pings(address, count=10)
    _require(answered == 10, f"while the agent restarted {answered} of 10 pings came back")
    web.dataplane.kill()
    took = web.wait_for_ping(address, within_s=10)
    return f"agent: 10 of 10 pings; data plane: back after {took:.1f} s"


def appliance_returns(stage: Stage) -> str:
    """The appliance is started again; every node registers by itself."""
    begun = time.monotonic()
    stage.appliance.start()
    stage.appliance.login()

    def all_connected() -> bool:
        nodes = stage.appliance.nodes()
        return all((nodes[name]["link"] or {}).get("connected") for name in PLACES)

    until("every node is connected again", all_connected, within_s=60)
    return f"{len(PLACES)} of {len(PLACES)} nodes after {time.monotonic() - begun:.1f} s"


Proof = tuple[str, Callable[[Stage], str]]
CONNECTED: list[Proof] = [
    ("every node pings every other, IPv4", lambda stage: pings(stage, 4)),
    ("every node pings every other, IPv6", lambda stage: pings(stage, 6)),
    ("one TCP stream, cloud-a to cloud-b", tcp_rate),
    ("a broadcast reaches every member once", broadcast),
    ("a frame that is not IP (EtherType 0x8137), cloud-a to office", non_ip),
    ("on the internet: only UDP and TCP 8002, nothing readable", sealed),
]
OFFICE_LAN: list[Proof] = [
    ("both clouds reach the printer, IPv4 and IPv6", printer_reached),
    ("the printer reaches both clouds", printer_asks),
    ("the gateway that forwards is killed", gateway_killed),
]
ALONE: list[Proof] = [
    ("the appliance and its etcd are killed: traffic goes on", without_appliance),
    ("still without it: an agent and a data plane are killed", restart_without_appliance),
]
RETURN: list[Proof] = [("the appliance is back: nodes register by themselves", appliance_returns)]


def _frames_received(
    stage: Stage, frame: bytes, *, count: int, receivers: list[str]
) -> dict[str, int]:
    """Send `frame` from web-1 `count` times; return how often each receiver saw it."""
    ethertype = int.from_bytes(frame[12:14], "big")
    with ExitStack() as stack:
        captures = {
            name: _capturing(
                stack,
                stage.nodes[name].host.capture(
                    stage.network.tap, what=f"ether proto {ethertype:#x}"
                ),
            )
            for name in receivers
        }
        stage.nodes["web-1"].send_frames(stage.network, frame, count=count, interval_ms=10)
        time.sleep(0.3)  # for stragglers and for what must not come twice
        return {
            name: sum(packet.frame == frame for packet in capture.packets())
            for name, capture in captures.items()
        }


def _forwarder_and_standby(stage: Stage) -> tuple[str, str]:
    def found() -> tuple[str, str] | None:
        states = {name: _state(stage, name) for name in stage.gateways}
        first, second = sorted(states, key=lambda name: states[name] != "forwarding")
        wanted = ("forwarding", "standby")
        return (first, second) if (states[first], states[second]) == wanted else None

    return until("one gateway forwards, the other stands by", found, within_s=30)


def _state(stage: Stage, name: str) -> str:
    """Return what a gateway says of itself; empty where it says nothing."""
    node = stage.gateways[name]
    reports = node.status()["gateways"] if node.answers() else []
    return next((str(report["state"]) for report in reports), "")


def _reconnect(stage: Stage, name: str) -> None:
    """Kill a node's agent and wait until its next one has a link to the appliance."""
    node = stage.nodes[name]
    assert node.agent is not None
    node.agent.kill()
    until(
        f"{name} is connected again",
        lambda: node.answers() and node.status()["link"]["is_up"],
        within_s=20,
    )


def _capturing(stack: ExitStack, capture: Capture) -> Capture:
    stack.callback(capture.stop)
    return capture


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ProofFailed(otherwise)
