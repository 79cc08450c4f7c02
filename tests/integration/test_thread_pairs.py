"""Two pairs of packet threads, as on a host with four cores: each reads a share of the TAPs and has
sockets of its own, and every flow is still in order."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.integration.test_dataplane import BINARY, LIVING, Node, instance
from tests.integration.test_packet_path import transfer
from tests.lab import Lab, Probes, until

pytestmark = [pytest.mark.root, pytest.mark.tun]


@pytest.fixture
def lab() -> Iterator[Lab]:
    if not BINARY.exists():
        pytest.fail(f"{BINARY} is not built; run make setup")
    with Lab("pairs") as made:
        yield made
        while LIVING:
            LIVING.pop().disconnect()


@pytest.fixture
def nodes(lab: Lab) -> tuple[Node, Node]:
    site = lab.site("cloud")
    a, b = Node(site.host("a"), 1), Node(site.host("b"), 2)
    for node in (a, b):
        node.host.env["CAIRN_TEST_THREAD_PAIRS"] = "2"
        node.make_tap()
        node.start()
    assert a.apply(b)["ok"] and b.apply(a)["ok"]
    assert a.pings(b.ips[0]) and a.pings(b.ips[1])
    return a, b


def threads(node: Node) -> Counter[str]:
    """Count the threads of the data plane by their names."""
    pid = node.connect().ask("hello")["pid"]
    listing = node.host.run(["sh", "-c", f"cat /proc/{pid}/task/*/comm"])
    return Counter(listing.stdout.split())


def sockets(node: Node) -> int:
    """Count the sockets on UDP 8002."""
    return node.host.run(["ss", "-lunH", "sport", "=", ":8002"]).stdout.count("\n")


def test_every_flow_arrives_as_it_was_sent(nodes: tuple[Node, Node]) -> None:
    a, b = nodes
    for node in nodes:
        assert threads(node)["outward"] == threads(node)["inward"] == 2
        assert sockets(node) == 4, "two of each family"
    ways = [(a, b, b.ips[0]), (b, a, a.ips[0]), (a, b, b.ips[1]), (b, a, a.ips[1])]

    for kind in ("tcp", "udp", "train"):
        with ThreadPoolExecutor(len(ways)) as pool:
            sent = [
                pool.submit(transfer, kind, source.host, target.host, address)
                for source, target, address in ways
            ]
            for one in sent:
                one.result(timeout=60)

    for node in nodes:
        stats = node.stats()
        assert not stats["drops"].keys() & {"replayed", "too_old", "not_authentic", "cloned"}


@pytest.mark.timed
def test_a_takeover_hands_all_sockets_on(nodes: tuple[Node, Node], lab: Lab) -> None:
    a, b = nodes
    before = b.connect().ask("hello")
    probes = Probes({a.host: a.ips[0], b.host: b.ips[0]}, directory=lab.directory)
    time.sleep(0.3)

    begun = probes.now()
    b.start("--take-over")
    until("the successor answers", lambda: instance(b) != before["instance"], within_s=5)
    time.sleep(1)

    assert max(pair.outage_s for pair in probes.pairs(since=begun)) <= 0.3
    assert threads(b)["outward"] == threads(b)["inward"] == 2
    assert sockets(b) == 4
    transfer("tcp", a.host, b.host, b.ips[0])
    transfer("udp", b.host, a.host, a.ips[1])


def test_a_second_data_plane_does_not_get_in_between(nodes: tuple[Node, Node]) -> None:
    a, b = nodes
    other = Node(b.host, 3)
    other.socket = b.host.directory / "other.sock"
    other.start()
    answer = other.apply(a)
    assert answer["error"]["code"] == "port_in_use"
    assert a.pings(b.ips[0])
