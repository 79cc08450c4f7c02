"""The lab itself: what it builds behaves as it says, and nothing of it outlives its owner."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.lab import Impairment, Lab, LabError, NotInTimeError, Probes, until
from tests.lab.memory import Memory
from tests.lab.probes import account
from tests.lab.program import Program
from tests.lab.sweep import runs_directory, sweep

pytestmark = pytest.mark.root

ROOT = Path(__file__).resolve().parents[2]

LISTEN = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
s = socket.socket(family, socket.SOCK_DGRAM)
s.bind(("", int(sys.argv[2])))
print("listening", flush=True)
while True:
    data, address = s.recvfrom(2000)
    print("got", data.decode(), "from", *address[:2], flush=True)
    s.sendto(b"answer", address)
"""
ASK = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
s = socket.socket(family, socket.SOCK_DGRAM)
s.bind(("", int(sys.argv[3])))
s.settimeout(float(sys.argv[4]))
for to in sys.argv[1].split(","):
    s.sendto(b"question", (to, int(sys.argv[2])))
    print(s.recv(2000).decode())
"""
MANY = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for number in range(300):
    s.sendto(b"%d" % number, (sys.argv[1], int(sys.argv[2])))
"""
WANTED_S, UNWANTED_S = "5", "0.5"  # for how long an answer is waited for


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab("test-lab") as made:
        yield made


def test_sites_reach_each_other_on_8002_alone_over_ipv4_and_ipv6(lab: Lab) -> None:
    """a -- [cloud] -- internet -- [office] -- b, both closed."""
    a, b = lab.site("cloud").host("a"), lab.site("office").host("b")

    for address, anywhere in ((b.v4, "0.0.0.0"), (b.v6, "::")):
        for port, answered in ((8002, True), (8003, False)):
            listener = b.start([sys.executable, "-c", LISTEN, anywhere, str(port)])
            listener.wait_for_log("listening", within_s=5)
            ask = [sys.executable, "-c", ASK, address, str(port), "8002"]
            asked = a.run([*ask, WANTED_S if answered else UNWANTED_S], check=False)
            assert (asked.returncode == 0) is answered, asked.stderr
            listener.stop()
    assert a.run(["ping", "-c1", "-W1", b.v4], check=False).returncode != 0


@pytest.mark.parametrize(
    ("nat", "ports_differ"),
    [("masquerade", False), ("symmetric", True)],
)
def test_a_nat_maps_as_its_kind_does(lab: Lab, nat: str, ports_differ: bool) -> None:
    """a -- [NAT] -- internet -- [cloud] -- b, c."""
    office, cloud = lab.site("office", nat=nat), lab.site("cloud")  # type: ignore[arg-type]
    a, b, c = office.host("a"), cloud.host("b"), cloud.host("c")
    seen = []
    for target in (b, c):
        listener = target.start([sys.executable, "-c", LISTEN, "0.0.0.0", "8002"])
        listener.wait_for_log("listening", within_s=5)
        seen.append(listener)

    a.run([sys.executable, "-c", ASK, f"{b.v4},{c.v4}", "8002", "8002", WANTED_S])

    sources = [re.search(r"from (\S+) (\d+)", each.text()) for each in seen]
    assert all(sources)
    wan = str(lab.wan4(office.number)[1])
    assert {source[1] for source in sources if source} == {wan}
    assert (len({source[2] for source in sources if source}) == 2) is ports_differ


def test_nothing_new_comes_in_through_a_nat_but_a_full_cone_lets_everyone_in(lab: Lab) -> None:
    office, cloud = lab.site("office", nat="masquerade"), lab.site("cloud")
    inside, outside = office.host("inside"), cloud.host("outside")
    listener = inside.start([sys.executable, "-c", LISTEN, "0.0.0.0", "8002"])
    listener.wait_for_log("listening", within_s=5)
    ask = [sys.executable, "-c", ASK, str(lab.wan4(office.number)[1]), "8002"]

    assert outside.run([*ask, "8002", UNWANTED_S], check=False).returncode != 0
    office.set_firewall(nat="full-cone", cone_host=inside)
    # Another source port: the router still remembers the flow that it did not translate.
    assert outside.run([*ask, "8003", WANTED_S], check=False).stdout == "answer\n"


@pytest.mark.timed
def test_losses_and_one_way_cuts_are_counted_by_the_probes(lab: Lab) -> None:
    cloud, office = lab.site("cloud", closed=False), lab.site("office", closed=False)
    a, b = cloud.host("a"), office.host("b")
    probes = Probes({a: a.v4, b: b.v4}, directory=lab.directory)
    clean = probes.now()
    time.sleep(0.5)
    cut = probes.now()
    cloud.cut(outward=True, inward=False)
    is_cut = probes.now()
    time.sleep(0.5)
    healing = probes.now()
    cloud.heal()
    healed = probes.now()
    cloud.set_firewall(loss=0.3)
    time.sleep(1.0)

    assert probes.lost(since=clean, until=cut) == 0
    there, back = probes.pairs(since=is_cut, until=healing)
    assert there.lost == there.sent > 0
    there, back = probes.pairs(since=cut, until=healed)
    assert healing - is_cut <= there.outage_s <= healed - cut + 0.1
    assert back.lost == 0
    lossy = probes.pairs(since=healed)
    assert 0.15 <= sum(pair.lost for pair in lossy) / sum(pair.sent for pair in lossy) <= 0.5


@pytest.mark.timed
def test_a_wire_delays_reorders_and_duplicates_repeatably(lab: Lab) -> None:
    cloud, office = lab.site("cloud", closed=False), lab.site("office", closed=False)
    a, b = cloud.host("a"), office.host("b")
    cloud.impair(Impairment(delay_ms=30, reorder_ms=40, duplicate=0.2, seed=7))

    ping = a.run(["ping", "-c3", "-i0.2", "-q", b.v6]).stdout
    probes = Probes({a: a.v4, b: b.v4}, directory=lab.directory)
    time.sleep(1.0)

    fastest = float(ping.split("rtt ")[1].split("=")[1].split("/")[0])
    assert 60 <= fastest <= 160, "other programs may have had the processors"
    pairs = probes.pairs()
    assert sum(pair.duplicated for pair in pairs) >= 10
    assert sum(pair.reordered for pair in pairs) >= 10
    assert sum(pair.lost for pair in pairs) == 0


def test_a_host_takes_another_address_at_run_time(lab: Lab) -> None:
    site = lab.site("cloud")
    a, b = site.host("a"), site.host("b")
    before = a.v4

    a.change_address(99)

    assert a.v4 != before
    assert b.run(["ping", "-c1", "-W1", a.v4]).returncode == 0
    assert b.run(["ping", "-c1", "-W1", a.v6]).returncode == 0
    assert b.run(["ping", "-c1", "-W1", before], check=False).returncode != 0


@pytest.mark.timed
def test_a_killed_program_comes_back_within_a_second_if_supervised(lab: Lab) -> None:
    machine = lab.site("cloud").host("a")
    program = machine.start(["sleep", "1000"], restart=True)
    killed = program.kill()
    at = time.monotonic()

    until("it runs again", lambda: program.pid != killed, within_s=1)
    assert time.monotonic() - at < 1.0

    program.stop()
    assert "sleep" not in machine.run(["ps", "ax"]).stdout


def test_a_command_that_hangs_is_killed_with_all_its_children(lab: Lab) -> None:
    machine = lab.site("cloud").host("a")

    with pytest.raises(NotInTimeError, match="not done after"):
        machine.run(["sh", "-c", "sleep 1000 & sleep 1000"], within_s=0.3)

    until("gone", lambda: "sleep" not in machine.run(["ps", "ax"]).stdout, within_s=2)


def test_a_capture_holds_what_went_over_the_wire(lab: Lab) -> None:
    site = lab.site("cloud")
    a, b = site.host("a"), site.host("b")
    capture = b.capture("eth0", what="udp port 8002")
    listener = b.start([sys.executable, "-c", LISTEN, "0.0.0.0", "8002"])
    listener.wait_for_log("listening", within_s=5)
    a.run([sys.executable, "-c", ASK, b.v4, "8002", "8002", WANTED_S])

    payloads = [packet.payload for packet in capture.packets()]

    assert payloads == [b"question", b"answer"]


def test_a_capture_holds_what_its_tcpdump_had_no_time_for_yet(lab: Lab) -> None:
    site = lab.site("cloud")
    a, b = site.host("a"), site.host("b")
    assert a.run(["ping", "-c1", "-W5", b.v4]).returncode == 0
    capture = b.capture("eth0", what="udp port 8002")
    capture.program.send_signal(signal.SIGSTOP)
    a.run([sys.executable, "-c", MANY, b.v4, "8002"])
    capture.program.resume()

    payloads = [packet.payload for packet in capture.packets()]

    assert payloads == [b"%d" % number for number in range(300)]


def test_logs_and_captures_are_kept_on_request(lab: Lab) -> None:
    machine = lab.site("cloud").host("a")
    machine.start(["echo", "a line"]).wait(within_s=5)

    kept = lab.keep("test of keeping")

    assert (kept / "a" / "echo.log").read_text() == "a line\n"
    subprocess.run(["rm", "-r", str(kept)], check=True)


def test_two_machines_of_one_name_are_refused(lab: Lab) -> None:
    lab.site("cloud").host("a")
    with pytest.raises((LabError, FileExistsError)):
        lab.machine("a")


OWNER = """
import signal, sys, time
from tests.lab import Lab
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
lab = Lab("orphan")
site = lab.site("cloud")
host = site.host("a")
host.start(["sh", "-c", "setsid sleep 4711 & sleep 4712"], restart=True)
host.ip("tuntap add dev tap-orphan mode tap")
lab.reach(host)
print("up", lab.directory, flush=True)
time.sleep(100)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_outlives_a_lab_whose_owner_is_killed(number: signal.Signals) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert owner.stdout is not None
    directory = Path(owner.stdout.readline().decode().split()[1])
    before = {link for link in _links() if link == f"cairn{owner.pid}"}

    owner.send_signal(number)
    owner.wait(30)
    owner.stdout.close()

    assert before
    until("its processes are gone", lambda: not _processes_named("sleep 471[12]"), within_s=20)
    until("its interfaces are gone", lambda: not before & set(_links()), within_s=20)
    assert not _processes_named(re.escape(str(directory)))
    sweep()
    assert not directory.exists()


def test_a_sweep_spares_the_labs_that_live(lab: Lab) -> None:
    sweep()
    assert lab.directory.exists()
    assert str(os.getpid()) in lab.directory.name
    assert lab.directory.parent == runs_directory()


def test_loss_is_counted_from_sequence_numbers() -> None:
    sent = [number / 100 for number in range(10)]

    pair = account("a", "b", sent, [0, 1, 2, 5, 4, 5, 9])

    assert (pair.sent, pair.lost, pair.duplicated, pair.reordered) == (10, 4, 1, 1)
    assert pair.affected == 6, "3, 6, 7, 8: from 3 to 8"
    assert pair.outage_s == pytest.approx(0.03), "6, 7, 8 until 9 got through"


def _links() -> list[str]:
    return os.listdir("/sys/class/net")  # noqa: PTH208 - names are what is wanted


def _processes_named(pattern: str) -> list[str]:
    lines = subprocess.run(["ps", "ax", "-o", "args"], capture_output=True, text=True, check=True)
    return [line for line in lines.stdout.splitlines() if re.search(pattern, line)]


COUNT = """
import asyncio, queue, threading
waiting = queue.Queue()
def take():
    while True:
        waiting.get()
threading.Thread(target=take, daemon=True).start()
async def count():
    n = 0
    while True:
        await asyncio.sleep(0.01)
        n += 1
        waiting.put(n)
        print(n, flush=True)
asyncio.run(count())
"""


def test_a_program_goes_on_with_the_memory_that_it_had(lab: Lab) -> None:
    program = lab.site("cloud").host("a").start([sys.executable, "-c", COUNT])
    program.wait_for_log("\n10\n", within_s=10)
    memory = Memory.of(program.pid)
    for _ in range(2):  # it is good as often as one likes
        _counts_on(program)
        memory.restore()
    _counts_on(program)
    assert program.running
    counted = [int(line) for line in program.text().splitlines()]
    jumps = [(a, b) for a, b in pairwise(counted) if b != a + 1]
    assert len(jumps) == 2 and jumps[0][1] == jumps[1][1], jumps
    assert all(a > b for a, b in jumps), jumps


def _counts_on(program: Program) -> None:
    until_now = len(program.text().splitlines())
    until("it counts on", lambda: len(program.text().splitlines()) > until_now + 50, within_s=20)


OPEN = """
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
print("up", flush=True)
signal.sigwait([signal.SIGUSR1])
file = open("/dev/null")
print("opened", flush=True)
signal.sigwait([signal.SIGUSR1])
"""


def test_memory_is_not_put_back_under_other_open_files(lab: Lab) -> None:
    program = lab.site("cloud").host("a").start([sys.executable, "-c", OPEN])
    program.wait_for_log("up", within_s=10)
    memory = Memory.of(program.pid)
    program.send_signal(signal.SIGUSR1)
    program.wait_for_log("opened", within_s=10)
    with pytest.raises(NotInTimeError, match="other files open"):
        memory.restore(within_s=0.5)
    assert program.running
