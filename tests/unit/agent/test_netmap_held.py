"""The agent's netmap equals what an honest server holds, whatever else is sent (BI-6)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

import msgspec
import pytest
from cairn_agent.netmap.held import Netmap, NetmapCopy, NetmapRefused, dump, load
from cairn_agent.protocol import netmap as wire
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.unit.agent.fakes.netmaps import Cluster, header, member, node_id

NUMBERS = st.integers(2, 6)
HEADER = wire.encode(header())
Members = dict[str, bytes]  # node ID -> the octets of a member


def copy_of(cluster: Cluster) -> NetmapCopy:
    return NetmapCopy(cluster_id=cluster.id, node_id=node_id(1), map_key=cluster.map_key)


def apply_all(copy: NetmapCopy, lines: Iterable[bytes]) -> None:
    for line in lines:
        copy.apply(wire.decode_received(line))


def held_members(netmap: Netmap | None) -> Members:
    if netmap is None or 7 not in netmap.vsubnets:
        return {}
    return {node: held.octets for node, held in netmap.vsubnets[7].members.items()}


def update(
    cluster: Cluster,
    revision: int,
    result: Members,
    *,
    send: Members | None = None,
    remove: Iterable[str] = (),
) -> bytes:
    """Return a signed update as a server of any version would write it."""
    digest = hashlib.sha256(HEADER)
    for _, octets in sorted(result.items()):
        digest.update(hashlib.sha256(octets).digest())
    carried = result if send is None else send
    return wire.encode(
        wire.ReceivedVSubnet(
            vni=7,
            revision=revision,
            full=send is None,
            header=msgspec.Raw(HEADER),
            set=[msgspec.Raw(octets) for octets in carried.values()],
            remove=list(remove),
            digest=digest.hexdigest(),
            signature=cluster.sign("vsubnet", "7", revision, digest.hexdigest()),
        )
    )


class Server(RuleBasedStateMachine):
    """An honest cluster, and on the same stream everything that must not be believed."""

    def __init__(self) -> None:
        super().__init__()
        self.cluster = Cluster()
        self.copy = copy_of(self.cluster)
        self.revision = 1
        self.world: Members = {node_id(1): wire.encode(member(1))}
        self.expected: Members = {}  # what the agent must have
        self.synced_at = 0  # revision of `expected`
        self.history: list[bytes] = []

    @rule(number=NUMBERS, generation=st.integers(1, 99), future=st.booleans())
    def a_member_changes(self, number: int, generation: int, future: bool) -> None:
        fields = json.loads(wire.encode(member(number, generation=generation)))
        if future:
            fields["of_a_newer_version"] = {"any": [1, None]}
        self.world = {**self.world, node_id(number): json.dumps(fields).encode()}
        self.revision += 1

    @rule(number=NUMBERS)
    def a_member_goes(self, number: int) -> None:
        self.world = {n: o for n, o in self.world.items() if n != node_id(number)}
        self.revision += 1

    @rule()
    def a_full_set_is_sent(self) -> None:
        self.sent(self.full_set())

    @precondition(lambda self: self.synced_at)
    @rule()
    def a_delta_is_sent(self) -> None:
        self.sent([self.delta(), self.cluster.in_sync(self.revision)])

    @precondition(lambda self: self.history)
    @rule()
    def the_last_lines_come_twice(self) -> None:
        if not self.history[0].startswith(b'{"type":"reset"'):
            apply_all(self.copy, self.history)

    @precondition(lambda self: self.synced_at)
    @rule(cut=st.integers(0, 2))
    def the_stream_breaks_within_a_set(self, cut: int) -> None:
        apply_all(self.copy, self.full_set()[:cut])
        self.copy.stream_ended()

    @precondition(lambda self: self.synced_at)
    @rule()
    def the_stream_breaks_before_in_sync(self) -> None:
        self.copy.apply(wire.decode_received(self.delta()))
        self.copy.stream_ended()

    @precondition(lambda self: self.synced_at > 1)
    @rule(back=st.integers(1, 50))
    def a_lower_revision_is_refused(self, back: int) -> None:
        older = max(0, self.copy.current.held[7].revision - back)  # type: ignore[union-attr]
        self.refused(update(self.cluster, older, {}))

    @precondition(lambda self: self.synced_at)
    @rule()
    def a_lower_revision_is_refused_after_a_reset_too(self) -> None:
        self.copy.apply(wire.decode_received(self.cluster.reset()))
        older = self.copy.current.held[7].revision - 1  # type: ignore[union-attr]
        self.refused(update(self.cluster, older, {}))

    @precondition(lambda self: self.synced_at)
    @rule(number=NUMBERS)
    def a_delta_with_a_gap_is_refused(self, number: int) -> None:
        """The result that the server signed has a member that it never sent."""
        result = {**self.expected, node_id(9): wire.encode(member(9))}
        changed = {node_id(number): wire.encode(member(number, generation=1000))}
        self.refused(update(self.cluster, self.revision + 1, {**result, **changed}, send=changed))

    @precondition(lambda self: self.synced_at)
    @rule(position=st.integers(0, 86))
    def a_wrong_signature_is_refused(self, position: int) -> None:
        message = json.loads(update(self.cluster, self.revision + 1, {}))
        kept = message["signature"]
        swapped = "A" if kept[position] != "A" else "B"
        message["signature"] = kept[:position] + swapped + kept[position + 1 :]
        if position < 85:  # the last character carries bits that base64 ignores
            self.refused(json.dumps(message).encode())

    @precondition(lambda self: self.synced_at)
    @rule()
    def an_older_incarnation_is_refused(self) -> None:
        self.refused(wire.encode(wire.Reset(self.cluster.id, self.cluster.incarnation - 1)))

    @rule()
    def another_cluster_is_refused(self) -> None:
        self.refused(wire.encode(wire.Reset("another", 99)))

    @precondition(lambda self: self.synced_at)
    @rule()
    def a_revision_that_goes_back_is_refused(self) -> None:
        self.refused(self.cluster.in_sync(self.synced_at - 1))

    @precondition(lambda self: self.synced_at)
    @rule()
    def a_restored_cluster_begins_anew(self) -> None:
        self.cluster.incarnation += 1
        self.revision = max(1, self.revision // 2)
        self.sent(self.full_set())

    @rule(text=st.text(max_size=20))
    def an_unknown_line_is_skipped(self, text: str) -> None:
        line = json.dumps({"type": "of tomorrow " + text, "revision": 10**9}).encode()
        self.copy.apply(wire.decode_received(line))

    @rule()
    def what_is_kept_on_disk_is_the_same(self) -> None:
        if self.copy.current is not None:
            again = load(copy_of(self.cluster), dump(self.copy.current))
            assert again == self.copy.current

    @invariant()
    def the_netmap_is_what_was_sent_whole(self) -> None:
        assert held_members(self.copy.current) == self.expected
        position = (self.cluster.incarnation, self.synced_at) if self.synced_at else (0, 0)
        assert self.copy.position() == position

    def full_set(self) -> list[bytes]:
        return [
            self.cluster.reset(),
            self.cluster.node(1, [7], self.revision),
            update(self.cluster, self.revision, self.world),
            self.cluster.in_sync(self.revision),
        ]

    def delta(self) -> bytes:
        changed = {n: o for n, o in self.world.items() if self.expected.get(n) != o}
        gone = self.expected.keys() - self.world.keys()
        return update(self.cluster, self.revision, self.world, send=changed, remove=gone)

    def sent(self, lines: list[bytes]) -> None:
        apply_all(self.copy, lines)
        self.history = lines
        self.expected, self.synced_at = self.world, self.revision

    def refused(self, line: bytes) -> None:
        with pytest.raises(NetmapRefused):
            self.copy.apply(wire.decode_received(line))
        self.copy.stream_ended()


Server.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestServer = Server.TestCase


def test_the_lines_of_the_sender_are_those_that_the_receiver_checks() -> None:
    """What cairn_agent.protocol encodes for a server is what `decode_received` reads."""
    cluster = Cluster()
    copy = copy_of(cluster)

    apply_all(copy, cluster.full_set(1, [member(1), member(2)], 5))

    netmap = copy.current
    assert netmap is not None
    assert [m.name for m in netmap.vsubnets[7].readable()] == ["vm-1", "vm-2"]
    document = netmap.node
    assert document is not None
    assert netmap.digests() == {"node": document.digest, "7": netmap.held[7].digest}


def test_the_netmap_of_another_node_is_refused() -> None:
    cluster = Cluster()
    with pytest.raises(NetmapRefused, match="signed"):
        apply_all(copy_of(cluster), cluster.full_set(2, [member(1)], 5))


def test_a_signature_for_one_vsubnet_is_none_for_another() -> None:
    cluster = Cluster()
    copy = copy_of(cluster)
    apply_all(copy, cluster.full_set(1, [member(1)], 5))
    message = json.loads(cluster.vsubnet([member(1)], 6))
    message["vni"] = 8
    with pytest.raises(NetmapRefused, match="signed"):
        copy.apply(wire.decode_received(json.dumps(message, separators=(",", ":")).encode()))


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"role": "of tomorrow"}, id="a role of a newer version"),
        pytest.param({"macs": ["no mac"]}, id="no MAC address"),
        pytest.param({"ips": ["10.7.0.300/24"]}, id="no IP address"),
    ],
)
def test_a_member_that_this_version_cannot_read_hides_no_other(changes: dict[str, object]) -> None:
    cluster = Cluster()
    copy = copy_of(cluster)

    apply_all(copy, cluster.full_set(1, [member(1), member(2, **changes), member(3)], 5))

    assert copy.current is not None
    held = copy.current.vsubnets[7]
    assert len(held.members) == 3
    assert [m.name for m in held.readable()] == ["vm-1", "vm-3"]


def test_a_vsubnet_that_the_document_does_not_name_is_not_used() -> None:
    cluster = Cluster()
    copy = copy_of(cluster)
    lines = cluster.full_set(1, [member(1)], 5)
    lines[1] = cluster.node(1, [], 5)

    apply_all(copy, lines)

    assert copy.current is not None
    assert copy.current.vsubnets == {}


@pytest.mark.parametrize("cut", [1, 50, 400, -1])
def test_a_damaged_file_is_refused(cut: int) -> None:
    cluster = Cluster()
    copy = copy_of(cluster)
    apply_all(copy, cluster.full_set(1, [member(1), member(2)], 5))
    assert copy.current is not None
    whole = dump(copy.current)
    damaged = whole[:cut] if cut > 0 else whole.replace(b"10.7.0.2", b"10.7.0.3")

    fresh = copy_of(cluster)
    with pytest.raises(NetmapRefused):
        load(fresh, damaged)
    assert fresh.current is None


def test_a_set_over_64_mib_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cairn_agent.netmap.held.MAX_OCTETS", 1000)
    cluster = Cluster()
    with pytest.raises(NetmapRefused, match="octets"):
        apply_all(copy_of(cluster), cluster.full_set(1, map(member, range(1, 9)), 5))
