"""The bars that Cairn is held to, judged on the medians of a run, and their proofs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tests import proofs
from tests.bench.results import Results


@dataclass(frozen=True, slots=True)
class Judged:
    """A bar and what this run says of it; `holds` is None where it could not be judged.

    A bar against the best peer that is met among some of them only is not judged; one that is
    missed there is missed.
    """

    id: str
    what: str
    bar: str
    value: str
    unit: str
    holds: bool | None

    @property
    def verdict(self) -> str:
        """Return it as a word."""
        return {True: "yes", False: "NO", None: "not judged"}[self.holds]


def judge(taken: Results) -> list[Judged]:
    """Return all bars that this bench measures."""
    judged = []
    for streams in ("1", "4"):
        what = f"TCP, {streams} stream{'s' * (streams != '1')}"
        figure = f"tcp{streams}_gbit_s"
        judged += [
            _of_kernel(taken, f"BENCH-tcp{streams}", what, figure, 0.60),
            _of_best(taken, f"BENCH-tcp{streams}-l2", what, figure, 3.0, layer=2),
            _of_best(taken, f"BENCH-tcp{streams}-peers", what, figure, 2.5),
            _of_kernel(
                taken,
                f"BENCH-tcp{streams}-wire",
                f"{what}, veth without offloads",
                f"tcp{streams}_wire_gbit_s",
                1.0,
            ),
        ]
    what = "64-octet UDP without loss over 0.1 %"
    judged += [
        _of_kernel(taken, "BENCH-udp64", what, "udp64_pps", 1.0, over=True),
        _of_best(taken, "BENCH-udp64-peers", what, "udp64_pps", 3.0),
        _rtt(taken, "p50"),
        _rtt(taken, "p99"),
        _rtt_of_kernel(taken),
        _cpu(taken),
        _cpu_of_best(taken),
        _rss(taken),
    ]
    return judged


def prove(judged: Sequence[Judged], taken: Results) -> None:
    """Write the proofs of those bars that could be judged.

    A proof that an earlier run wrote of another bar stays; it names its own commit.
    """
    for one in judged:
        if one.holds is not None:
            proofs.record(
                one.id,
                what=one.what,
                bar=one.bar,
                value=one.value,
                unit=one.unit,
                holds=one.holds,
                command=taken.command,
            )


def _of_kernel(
    taken: Results, proof: str, what: str, figure: str, bar: float, *, over: bool = False
) -> Judged:
    """Judge a figure against plaintext VXLAN's: at least `bar` times, or more with `over`."""
    own, other = taken.median(figure, "cairn"), taken.median(figure, "vxlan")
    needed = "above VXLAN in plaintext" if over else f"at least {bar:g} x VXLAN in plaintext"
    return _ratio(proof, what, needed, own, other, "vxlan", lambda x: x > bar if over else x >= bar)


def _of_best(
    taken: Results, proof: str, what: str, figure: str, bar: float, *, layer: int = 0
) -> Judged:
    """Judge a figure against the best encrypted peer's."""
    peers = taken.peers(layer=layer, figure=figure)
    best = max(peers, key=lambda name: peers[name], default="")
    kind = f"encrypted L{layer} peer" if layer else "encrypted peer"
    needed = f"at least {bar:g} x the best {kind}"
    own = taken.median(figure, "cairn")
    judged = _ratio(proof, what, needed, own, peers.get(best), best, lambda x: x >= bar)
    return _of_these(judged, taken, len(peers))


def _of_these(judged: Judged, taken: Results, count: int) -> Judged:
    """Say of how many peers the best was; without the others nothing is shown to hold."""
    holds = judged.holds if taken.has_all_peers else (False if judged.holds is False else None)
    return replace(judged, value=f"{judged.value}, of {count} peers", holds=holds)


def _ratio(
    proof: str,
    what: str,
    needed: str,
    own: float | None,
    other: float | None,
    other_name: str,
    holds: Callable[[float], bool],
) -> Judged:
    if own is None or not other:
        return Judged(proof, what, needed, "nothing to compare", "x", None)
    ratio = own / other
    return Judged(proof, what, needed, f"{ratio:.2f} x {other_name}", "x", holds(ratio))


def _rtt(taken: Results, part: str) -> Judged:
    figure = f"rtt_{part}_us"
    what, needed = f"RTT added over bare veth, {part}", "the lowest of all userspace peers"
    own, bare = taken.median(figure, "cairn"), taken.median(figure, "veth")
    peers = taken.peers(figure=figure)
    if own is None or bare is None or not peers:
        return Judged(f"BENCH-rtt-{part}", what, needed, "nothing to compare", "us", None)
    best = min(peers, key=lambda name: peers[name])
    value = f"{own - bare:.0f} (the best peer, {best}: {peers[best] - bare:.0f})"
    judged = Judged(f"BENCH-rtt-{part}", what, needed, value, "us", own < peers[best])
    return _of_these(judged, taken, len(peers))


def _rtt_of_kernel(taken: Results) -> Judged:
    """Judge p99: as measured, not what is added, since VXLAN may add nothing at all."""
    own, other = (taken.median("rtt_p99_us", name) for name in ("cairn", "vxlan"))
    needed = "at most 2 x VXLAN in plaintext"
    return _ratio("BENCH-rtt-vxlan", "RTT, p99", needed, own, other, "vxlan", lambda x: x <= 2.0)


def _cpu(taken: Results) -> Judged:
    own = taken.median("cpu_s_per_gb", "cairn")
    what = "CPU seconds per GByte, both data planes"
    value = "not measured" if own is None else f"{own:.2f}"
    return Judged(
        "BENCH-cpu", what, "at most 1.0", value, "s/GByte", None if own is None else own <= 1.0
    )


def _cpu_of_best(taken: Results) -> Judged:
    peers = taken.peers(figure="cpu_s_per_gb")
    best = min(peers, key=lambda name: peers[name], default="")
    judged = _ratio(
        "BENCH-cpu-peers",
        "CPU seconds per GByte",
        "at most 0.25 x the best encrypted peer",
        taken.median("cpu_s_per_gb", "cairn"),
        peers.get(best),
        best,
        lambda x: x <= 0.25,
    )
    return _of_these(judged, taken, len(peers))


def _rss(taken: Results) -> Judged:
    own = taken.median("rss_mib", "cairn")
    what = "memory of the data plane, idle with one session"
    value = "not measured" if own is None else f"{own:.1f}"
    return Judged(
        "BENCH-rss", what, "at most 8 MiB", value, "MiB", None if own is None else own <= 8.0
    )
