"""What a LAN may do to a vSubnet: a flood of made-up stations (C7), a storm of broadcasts (C4)."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.integration.office import LAN, Office, build_office
from tests.integration.test_dataplane import BINARY, LIVING, TAP
from tests.lab import Lab
from tests.load.traffic import FIRST, LAB, Flow, last_line
from tests.proofs import record

pytestmark = [pytest.mark.root, pytest.mark.tun, pytest.mark.slow]

_TABLE = 4096  # stations that a member learns
_TICKS = 100.0  # a second, in /proc/PID/stat


@pytest.fixture
def lab() -> Iterator[Lab]:
    if not BINARY.exists():
        pytest.fail(f"{BINARY} is not built; run make setup")
    with Lab("load") as made:
        yield made
        while LIVING:
            LIVING.pop().disconnect()


@pytest.fixture
def office(lab: Lab) -> Office:
    """A gateway whose bridge learns nothing: what it keeps is the matter of its own guards."""
    made = build_office(lab, prefix=tuple(FIRST))
    made.settle()
    for port in (LAN, TAP):
        made.b.host.ip(f"link set {port} type bridge_slave learning off")
    return made


class Attack:
    """Frames from many stations on the LAN."""

    def __init__(self, office: Office, seconds: float, stations: int, destination: str) -> None:
        numbers = ["100000", str(seconds), str(stations), destination]
        script = office.leaf.host.python(LAB / "stations.py", LAN, *numbers)
        self._program = office.leaf.host.start(script, name=f"stations-{stations}")
        self._program.wait_for_log("ready", within_s=10)

    def rate(self) -> float:
        """Wait for its end, and return how many frames were sent in a second."""
        assert self._program.wait(within_s=30) == 0, self._program.tail()
        sent = last_line(self._program)
        return float(sent["sent"]) / float(sent["seconds"])


def drops(office: Office) -> Counter[str]:
    """Return what b's switch has refused."""
    return Counter(office.vsubnet()["drops"])


def tap_drops(office: Office) -> int:
    """Return how many frames found no room on their way from the bridge to b's data plane."""
    shown = office.b.host.run(["cat", f"/sys/class/net/{TAP}/statistics/tx_dropped"]).stdout
    return int(shown)


def cpu_s(office: Office, pid: int) -> float:
    """Return the CPU time of b's data plane."""
    fields = office.b.host.run(["cat", f"/proc/{pid}/stat"]).stdout.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def test_c7_a_flood_of_stations_leaves_those_that_talk_their_service(office: Office) -> None:
    seconds = 6.0
    a, leaf = office.a, office.leaf
    assert leaf.pings(a.ips[0], "-i", "0.5"), "it has talked for more than a second"
    before, full = drops(office), tap_drops(office)
    attack = Attack(office, seconds + 1, 0, a.mac)
    time.sleep(0.5)
    flows = [
        Flow(leaf, a, family=4, port=6001, octets=200, rate=2000, seconds=seconds - 1),
        Flow(a, leaf, family=6, port=6002, octets=1000, rate=2000, seconds=seconds - 1),
    ]
    rate = attack.rate()
    for flow in flows:
        flow.finish(within_s=30)
    lost = max(flow.lost / flow.sent for flow in flows)
    full = tap_drops(office) - full
    learned = len(a.stats()["vsubnets"][0]["learned"])
    refused = (drops(office) - before)["new_station_limit"]
    assert rate > 90_000, "the machine could not send 100,000 frames a second"
    assert refused > 0.8 * rate * seconds, "they were refused where they came in"
    assert record(
        "C7",
        what=(
            f"{rate / 1000:.0f} k frames a second, each from another made-up station, to a member; "
            f"{refused} of them refused, {full} found the TAP's queue full, {learned} stations "
            "in its table"
        ),
        bar=f"known flows lose <= 1 %, the table has <= {_TABLE} stations",
        value=f"{lost:.2%} lost",
        unit="",
        holds=lost <= 0.01 and learned <= _TABLE,
    ), (lost, full, learned)


def test_c4_of_a_storm_on_the_lan_a_thousand_frames_a_second_cross(office: Office) -> None:
    seconds = 4.0
    pid = office.b.connect().ask("hello")["pid"]
    crossing = office.a.host.capture(TAP, what="ether[6:2] = 0x02ee")
    used, begun = cpu_s(office, pid), time.monotonic()
    rate = Attack(office, seconds, 200, "ff:ff:ff:ff:ff:ff").rate()
    share = (cpu_s(office, pid) - used) / (time.monotonic() - begun)
    came = [packet.at for packet in crossing.packets()]
    most = max(sum(at <= each < at + 1 for each in came) for at in came[::20])
    assert rate > 90_000, "the machine could not send 100,000 frames a second"
    assert len(came) > 700 * seconds, "what is allowed crosses"
    assert record(
        "C4-storm",
        what=f"{rate / 1000:.0f} k broadcasts a second of 200 stations on the LAN",
        bar="<= 1,000 cross in any second, <= 1 core of the gateway's data plane",
        value=f"{most} a second, {share:.2f} cores",
        unit="",
        holds=most <= 1_000 and share <= 1.0,
    ), (most, share)
