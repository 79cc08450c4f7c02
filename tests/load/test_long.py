"""The packet path for as long as its bars say; `make soak` runs it.

CAIRN_SOAK_GB and CAIRN_SOAK_S make it shorter, to see whether it works at all; what was moved
and for how long is in each proof.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.integration.test_dataplane import BINARY, LIVING
from tests.integration.test_packet_path import LEAF, OFFLOADS, assert_offloads, build, transfer
from tests.lab import Lab
from tests.load.bad_network import endure
from tests.load.flood import flood
from tests.load.test_short import nothing_stalls, rekeys_lose_nothing, service_holds
from tests.load.traffic import connected, full_load, percentile
from tests.proofs import record, record_seconds

pytestmark = [pytest.mark.root, pytest.mark.tun, pytest.mark.slow, pytest.mark.timeout(4000)]

OCTETS = int(float(os.environ.get("CAIRN_SOAK_GB", "100")) * 1e9)
SECONDS = float(os.environ.get("CAIRN_SOAK_S", "600"))
COMMAND = "make soak ARGS='-k {}'"


@pytest.fixture
def lab() -> Iterator[Lab]:
    if not BINARY.exists():
        pytest.fail(f"{BINARY} is not built; run make setup")
    with Lab("soak") as made:
        yield made
        while LIVING:
            LIVING.pop().disconnect()


def test_100_gb_arrive_as_they_were_sent_and_in_order(lab: Lab) -> None:
    a, b = connected(lab)
    moved = full_load(a, b, octets=OCTETS)
    assert moved.octets >= OCTETS
    assert moved.doubled == 0
    assert not moved.suspicious, moved.suspicious
    wrong = moved.changed + moved.reordered
    assert record(
        "PATH-soak",
        what=f"TCP of both families hashed, numbered UDP and trains beside it: {moved}",
        bar="0 streams or datagrams changed, 0 datagrams behind a later one of their flow",
        value=wrong,
        unit="changed or reordered",
        holds=wrong == 0 and moved.counted.unexplained == 0,
        command=COMMAND.format("100_gb"),
    ), moved.counted


@pytest.mark.parametrize("off", ["", ",".join(OFFLOADS)], ids=["on", "off"])
def test_datagrams_of_every_size_to_9000_arrive(lab: Lab, off: str) -> None:
    path = build(lab, off)
    for family in (4, 6):
        transfer("sizes", path.a.host, path.leaf, LEAF[family])
        transfer("sizes", path.leaf, path.a.host, path.a.ips[family == 6])
    assert_offloads(path, off)


def test_kt_9_rekeys_each_second_for_ten_minutes(lab: Lab) -> None:
    a, b = connected(lab, {"rekey_after_ms": 1000, "rekey_jitter_ms": 100})
    rekeys_lose_nothing("KT-9-soak", full_load(a, b, seconds=SECONDS), SECONDS)


def test_kt_5_a_flood_of_inits_for_two_minutes(lab: Lab) -> None:
    service_holds("KT-5-soak", flood(lab, rate=50_000, seconds=SECONDS / 5))


def test_b15_a_thousand_handshakes_on_a_bad_network(lab: Lab) -> None:
    pairs = 16
    endured = endure(lab, pairs=pairs, rounds=round(SECONDS / 600 * 63), seconds=SECONDS / 10)
    nothing_stalls("B15-soak", endured)
    p99 = percentile(endured.took_s, 99)
    assert record_seconds(
        "B15-soak-handshake",
        p99,
        at_most_s=5,
        what=f"both ends in session, p99 of {len(endured.took_s)} handshakes, {pairs} at once",
        command=COMMAND.format("b15"),
    ), sorted(endured.took_s)[-20:]
