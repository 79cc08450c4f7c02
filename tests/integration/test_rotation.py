"""The CA, the map key and a vSubnet's secret replaced under traffic, with an appliance that is
killed in between and a node that is away for all of it (A14)."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.integration.world import FAST_TIMERS, World, build_world
from tests.lab import until
from tests.lab.cairn import Node
from tests.proofs import record

pytestmark = [
    pytest.mark.root,
    pytest.mark.tun,
    pytest.mark.etcd,
    pytest.mark.slow,
    pytest.mark.timeout(600),
]

STEP_S = 120.0


@pytest.fixture(scope="module")
def turning() -> Iterator[World]:
    """A world of its own: its CA is another one afterwards."""
    with build_world() as world:
        yield world


def trust(world: World) -> dict[str, Any]:
    shown: dict[str, Any] = world.appliance.cairn("ca", "status")
    return shown


def identity(node: Node) -> dict[str, Any]:
    kept: dict[str, Any] = json.loads((node.state_dir / "identity.json").read_text())
    return kept


def phase_is(world: World, key: str, phase: str, done: int = -1) -> Callable[[], bool]:
    def holds() -> bool:
        progress = trust(world)[key]
        return progress["phase"] == phase and (done < 0 or progress["done"] == done)

    return holds


def begin(world: World, *command: str) -> None:
    world.appliance.cairn(*command, "--yes")


def test_all_keys_are_replaced_and_no_packet_is_lost(turning: World) -> None:
    world = turning
    first = trust(world)
    probes = world.probes()
    begun = probes.now()
    time.sleep(1.0)

    started = time.monotonic()
    begin(world, "ca", "rotate")
    until("the CA is replaced by itself", phase_is(world, "ca", "steady", 3), within_s=STEP_S)
    begin(world, "map-key", "rotate")
    until("so is the map key", phase_is(world, "map_key", "steady", 3), within_s=STEP_S)
    world.appliance.cairn("vsubnet", "rotate", world.prod.name)
    took_s = time.monotonic() - started
    time.sleep(4.0)  # a rekey of every pair

    now = trust(world)
    assert now["ca"]["fingerprint"] != first["ca"]["fingerprint"]
    assert now["map_key"]["public_key"] != first["map_key"]["public_key"]
    assert [each["fingerprint"] for each in now["ca"]["retired"]] == [first["ca"]["fingerprint"]]
    for node in world.nodes.values():
        kept = identity(node)
        assert kept["ca"].count("BEGIN CERTIFICATE") == 1, "the former one is believed no more"
        assert kept["map_key"] == now["map_key"]["public_key"]
        assert kept["former_map_keys"] == [first["map_key"]["public_key"]]
    probes.stop()
    lost = probes.lost(since=begun)
    sent = sum(pair.sent for pair in probes.pairs(since=begun))
    assert record(
        "A14-lost",
        what="CA, map key and a vSubnet's secret replaced under traffic: probes lost "
        f"(of {sent}, in {took_s:.0f} s)",
        bar="0 lost",
        value=lost,
        unit="probes",
        holds=lost == 0 and sent > 500,
    ), [str(pair) for pair in probes.pairs(since=begun) if pair.lost]


def test_the_appliance_is_killed_in_between_and_a_node_is_away_for_all_of_it(
    turning: World,
) -> None:
    world, appliance = turning, turning.appliance
    old_token = appliance.token(world.prod)
    away = world.node("b1")
    assert away.agent is not None
    away.agent.stop()
    before = identity(away)
    until("it is away", lambda: not appliance.nodes()["b1"]["link"]["connected"], within_s=60)
    probes = world.probes()
    begun = probes.now()

    begin(world, "ca", "rotate")
    begin(world, "map-key", "rotate")
    until("all but one keep it", phase_is(world, "ca", "announced", 2), within_s=STEP_S)
    (late,) = trust(world)["ca"]["behind"]
    assert (late["name"], late["away"]) == ("b1", True)
    appliance.kill()
    appliance.start()
    until("they are back", phase_is(world, "ca", "announced", 2), within_s=STEP_S)
    begin(world, "ca", "issue")
    begin(world, "map-key", "use")
    until("all but one renewed", phase_is(world, "ca", "issuing", 2), within_s=STEP_S)
    appliance.kill()
    appliance.start()
    until("they are back", phase_is(world, "ca", "issuing", 2), within_s=STEP_S)
    begin(world, "ca", "retire")
    until("all but one know", phase_is(world, "ca", "steady", 2), within_s=STEP_S)

    # It knows neither the CA nor the map key of now, and its own certificate is of a retired one.
    away.start_agent()
    until("it is back", phase_is(world, "ca", "steady", 3), within_s=STEP_S)
    kept, now = identity(away), trust(world)
    assert kept["certificate"] != before["certificate"]
    assert kept["map_key"] == now["map_key"]["public_key"]
    assert len(kept["former_map_keys"]) == 2
    probes.stop()
    lost = probes.lost(since=begun)
    assert record(
        "A14-away",
        what="the same with the appliance killed twice in between and a node away for all of it, "
        "which comes back by itself: probes lost",
        bar="0 lost",
        value=lost,
        unit="probes",
        holds=lost == 0,
    ), [str(pair) for pair in probes.pairs(since=begun) if pair.lost]

    late_comer = world.new_node("late", "cloud-b", timers=FAST_TIMERS)
    refused = late_comer.join(old_token, check=False)
    assert refused.returncode != 0
    assert "before the cluster's CA was changed" in refused.stderr
    assert "cairn token create" in refused.stderr
    late_comer.join(appliance.token(world.prod))
    late_comer.wait_for_ping(world.address("a1"), within_s=20)
    late_comer.stop()

    def backed_up() -> bool:
        reasons = [each["reason"] for each in appliance.cairn("backup", "list")]
        return reasons[:1] == ["after the CA was replaced"]

    until("a backup was made after it", backed_up, within_s=60)
