"""A cluster that is brought back from less than it was (trust.md A11, A12): what it has to keep.

No probe between the members is lost, no address has another owner or is given out again, and no
token of before lets a node in.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from tests.lab import Lab, Machine, Probes
from tests.lab.cairn import Appliance, Network, Node
from tests.proofs import record

_REFUSED = 4  # exit status of a join whose token lets nobody in


class Before:
    """Who had which address before the loss, and probes between the members from then on."""

    def __init__(
        self, lab: Lab, appliance: Appliance, network: Network, members: Iterable[Node]
    ) -> None:
        self._network = network
        self._owned = _owners(appliance)
        addresses: dict[Machine, str] = {n.host: n.address(network) for n in members}
        self._somebody = next(reversed(addresses.values()))
        self.probes = Probes(addresses, directory=lab.directory)
        self._begun = self.probes.now()

    def prove_packets(self, proof: str, what: str) -> None:
        """Record what became of the probes."""
        pairs = self.probes.pairs(since=self._begun)
        lost, sent = sum(pair.lost for pair in pairs), sum(pair.sent for pair in pairs)
        assert record(
            proof,
            what=f"{what}: probes lost of {sent}",
            bar="0",
            value=lost,
            unit="probes",
            holds=lost == 0 and sent > 1000,
        ), [str(pair) for pair in pairs if pair.lost]

    def prove_owners(self, proof: str, appliance: Appliance, late: Node, *, at_least: int) -> None:
        """Record who has the addresses now, and that one who joins gets none that anybody had."""
        again = _owners(appliance)
        reused = sum(again.get(key) != owner for key, owner in self._owned.items())
        late.join(appliance.token(self._network))
        address = late.address(self._network)
        late.wait_for_ping(self._somebody, within_s=20)
        reused += f"{self._network.vni} {address}" in self._owned
        assert record(
            proof,
            what=f"the same: of {len(self._owned)} addresses, with another owner or given out "
            "again",
            bar="0",
            value=reused,
            unit="addresses",
            holds=reused == 0 and len(self._owned) >= at_least,
        ), (self._owned, again)


def prove_tokens(proof: str, late: Node, tokens: Sequence[str], *, what: str) -> None:
    """Record how many of them let a node in that has joined; it gives up what it is for that."""
    late.host.run(["cairn-agent", "leave", "--force", "--yes"])
    tries = [late.join(token, check=False).returncode for token in tokens]
    revived = sum(status != _REFUSED for status in tries)
    assert record(
        proof,
        what=f"the same: {what}, that still let a node in",
        bar="0",
        value=revived,
        unit="tokens",
        holds=revived == 0,
    )


def incarnations(nodes: Iterable[Node]) -> set[int]:
    """Of the netmaps that they hold; 0: none."""
    return set(map(_incarnation, nodes))


def _incarnation(node: Node) -> int:
    file = node.state_dir / "netmap.jsonl"
    if not file.exists():
        return 0
    return int(json.loads(file.read_text().splitlines()[0])["incarnation"])


def _owners(appliance: Appliance) -> dict[str, str]:
    """Which node has which address, by VNI; one that two have is an error of the test's."""
    found: dict[str, str] = {}
    for member in appliance.cairn("member", "list"):
        for address in [*member["ips"], member["mac"]]:
            key = f"{member['vsubnet']['vni']} {address}"
            assert key not in found, f"two have {key}"
            found[key] = member["node"]["name"]
    return found
