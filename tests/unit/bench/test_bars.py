"""What the bench concludes from its values."""

from __future__ import annotations

from xml.etree import ElementTree

from tests.bench.bars import Judged, judge
from tests.bench.picture import drawn
from tests.bench.results import Results
from tests.bench.systems import SYSTEMS
from tests.bench.table import whole


def results(tcp1: dict[str, float], *, rounds: int = 5) -> Results:
    """Return a run in which each system always had the same TCP rate."""
    systems = [one for one in SYSTEMS if one.name in tcp1]
    taken = Results(systems, {}, command="make bench")
    for number in range(rounds):
        for name, value in tcp1.items():
            taken.add(name, number, {"tcp1_gbit_s": value})
    return taken


def verdict(taken: Results, proof: str) -> Judged:
    """Return one bar as it was judged."""
    return next(one for one in judge(taken) if one.id == proof)


ALL = {one.name: 1.0 for one in SYSTEMS}


def test_a_bar_against_the_best_peer_holds_where_all_peers_were_measured() -> None:
    taken = results(ALL | {"cairn": 5.0, "fastd": 1.5, "wireguard-go": 2.0})
    assert verdict(taken, "BENCH-tcp1-peers").holds is True
    assert verdict(taken, "BENCH-tcp1-peers").value == "2.50 x wireguard-go, of 7 peers"
    assert verdict(taken, "BENCH-tcp1-l2").value == "3.33 x fastd, of 5 peers"


def test_with_some_peers_only_it_can_be_missed_but_not_met() -> None:
    some = {"veth": 9.0, "vxlan": 8.0, "wireguard-go": 2.0}
    assert verdict(results(some | {"cairn": 6.0}), "BENCH-tcp1-peers").holds is None
    assert verdict(results(some | {"cairn": 1.0}), "BENCH-tcp1-peers").holds is False


def test_a_bar_against_the_kernel_needs_only_the_kernel() -> None:
    assert verdict(results({"cairn": 6.0, "vxlan": 10.0}), "BENCH-tcp1").holds is True
    assert verdict(results({"cairn": 5.9, "vxlan": 10.0}), "BENCH-tcp1").holds is False
    assert verdict(results({"cairn": 5.9}), "BENCH-tcp1").holds is None


def test_a_round_that_failed_leaves_a_gap_and_no_value() -> None:
    taken = results({"cairn": 1.0}, rounds=1)
    taken.add("cairn", 2, {"tcp1_gbit_s": 3.0})
    taken.add("cairn", 3, {})
    taken.pad()
    assert taken.values["tcp1_gbit_s"]["cairn"] == [1.0, None, 3.0, None]
    assert taken.median("tcp1_gbit_s", "cairn") == 2.0


def test_the_picture_is_xml_and_the_table_names_what_was_not_measured() -> None:
    taken = results({"cairn": 1.0, "veth": 9.0})
    taken.reasons["n2n"] = "not <installed>"
    ElementTree.fromstring(drawn(taken))
    assert "n2n: not <installed>" in whole(taken, judge(taken))
