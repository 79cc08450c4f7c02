"""Three appliances and a node that moves to another machine: it is the node, and no copy.

    one LAN:   m1   m2   m3   vm   client   and a machine that the node moves to, for each test

A power failure ends the node, so its link goes on looking open at the appliance that had it;
its disk starts in another machine, which can reach another appliance only. The tests run in
order on one cluster and leave it whole.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.integration.trio import Trio, at_appliance, grown_trio
from tests.lab import Host, Lab, until
from tests.lab.cairn import Node, missing_programs
from tests.proofs import record

pytestmark = [
    pytest.mark.slow,
    pytest.mark.root,
    pytest.mark.tun,
    pytest.mark.etcd,
    pytest.mark.timeout(300),
]


@pytest.fixture(scope="module")
def trio() -> Iterator[Trio]:
    if missing := missing_programs():
        pytest.fail(f"not built: {', '.join(missing)}; run make setup")
    with Lab("identity") as lab:
        yield grown_trio(lab)


def test_a_node_that_moved_registers_at_another_appliance_than_the_one_with_its_old_link(
    trio: Trio,
) -> None:
    took_s = moved(trio, "moved", held="m2", to="m3")
    assert record(
        "MOVED-cluster",
        what="power failure, and the disk starts in a machine that reaches another appliance: "
        "from there to its address",
        bar="<= 60 s, no copy",
        value=round(took_s, 1),
        unit="s",
        holds=took_s <= 60,
    )


def test_a_node_that_moved_when_the_appliance_with_its_link_was_killed_as_well(
    trio: Trio,
) -> None:
    held = trio.leader()  # the worst: leases begin anew with another leader of etcd
    to = next(name for name in trio.appliances if name != held)
    took_s = moved(trio, "moved-again", held=held, to=to, kill=True)
    trio.appliances[held].start()
    trio.wait_until_whole(within_s=60)
    assert record(
        "MOVED-killed",
        what="power failure of a node and of the appliance that had its link, etcd's leader: "
        "from there to its address on another machine",
        bar="<= 90 s, no copy",
        value=round(took_s, 1),
        unit="s",
        holds=took_s <= 90,
    )


def moved(trio: Trio, name: str, *, held: str, to: str, kill: bool = False) -> float:
    """Move the node to a new machine; return after how many seconds it has its address there."""
    first = newest_event(trio, to)
    address = trio.vm.address(trio.network)
    with at_appliance(trio, held):
        pass
    time.sleep(20.0)  # nobody has registered of late, and all appliances know of the link
    machine = Node(trio.lab.sites["dc"].host(name))
    shutil.copytree(trio.vm.state_dir, machine.state_dir)
    old, trio.vm = trio.vm, machine
    old.host.cut()
    old.host.reset()
    begun = time.monotonic()
    if kill:
        trio.appliances[held].kill()
    with reaching_only(trio, machine.host, to):
        machine.start()
        until("it has its address", lambda: machine.has_tap(trio.network), within_s=150)
        took_s = time.monotonic() - begun
    assert machine.address(trio.network) == address
    kinds = [e["kind"] for e in events(trio, to) if e["sequence"] > first]
    assert kinds.count("node_moved") == 1, kinds
    assert "duplicate_node" not in kinds
    assert trio.appliances[to].cairn("node", "list", "--state", "pending") == []
    return took_s


@contextmanager
def reaching_only(trio: Trio, host: Host, name: str) -> Iterator[None]:
    """Let a host reach one appliance alone."""
    rules = "".join(
        f"ip daddr {each.host.v4} tcp dport 8002 reject with tcp reset;"
        for other, each in trio.appliances.items()
        if other != name
    )
    host.nft(
        f"table inet steer {{ chain out {{ type filter hook output priority 0; {rules} }}\n}}\n"
    )
    yield
    host.nft("delete table inet steer")


def newest_event(trio: Trio, name: str) -> int:
    return max((int(event["sequence"]) for event in events(trio, name)), default=0)


def events(trio: Trio, name: str) -> list[dict[str, Any]]:
    """Return the newest events, as an appliance tells them."""
    command = ["cairn", "event", "list", "--limit", "200", "--json"]
    lines = trio.appliances[name].host.run(command).stdout.splitlines()
    return [json.loads(line) for line in lines]
