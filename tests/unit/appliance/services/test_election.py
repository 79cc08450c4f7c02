"""Beats, grants and releases at replicas that see the store when the test lets them."""

from __future__ import annotations

import pytest
from cairn_agent.protocol import gateway as wire
from cairn_appliance.domain.errors import CairnError, Clash, Refused, TooMany
from cairn_appliance.domain.identity import SYSTEM
from cairn_appliance.store import keys
from cairn_appliance.store.port import Unavailable

from tests.simulated_node import SimulatedNode
from tests.unit.appliance.gateways import LAN, Office, Watching


class Pair:
    """Two gateways, the first of which forwards."""

    def __init__(self, office: Office, holder: SimulatedNode, other: SimulatedNode) -> None:
        self.office, self.holder, self.other = office, holder, other

    @classmethod
    async def make(cls) -> Pair:
        office = await Office().open("g1", "g2")
        office.wait(4.0)
        first = office.gateways[0]
        grant = await office.first.beat(first, office.segment)
        assert (grant.holder, grant.hold_s) == (first.id, wire.HOLD_S)
        return cls(office, first, office.gateways[1])

    async def beat(self, node: SimulatedNode, at: Watching | None = None, **state: object):  # type: ignore[no-untyped-def]
        return await (at or self.office.first).beat(node, self.office.segment, **state)


async def test_whoever_holds_it_is_confirmed_and_the_other_is_told_who() -> None:
    pair = await Pair.make()
    for _ in range(6):
        pair.office.wait(0.5)
        mine = await pair.beat(pair.holder)
        theirs = await pair.beat(pair.other, pair.office.second)
        assert (mine.holder, mine.hold_s) == (pair.holder.id, wire.HOLD_S)
        assert (theirs.holder, theirs.hold_s, theirs.term) == (pair.holder.id, 0.0, mine.term)
    assert (await pair.office.replica.kinds()).count("forwarder_chosen") == 1


async def test_a_silent_one_is_replaced_at_another_replica_too() -> None:
    pair = await Pair.make()
    before = await pair.beat(pair.holder)
    taken_after = 0.0
    for _ in range(8):
        pair.office.wait(0.5)
        taken_after += 0.5
        grant = await pair.beat(pair.other, pair.office.second)
        if grant.hold_s:
            break
    assert grant.holder == pair.other.id
    assert 2.0 <= taken_after <= 2.5
    assert grant.term > before.term
    late = await pair.beat(pair.holder)
    assert (late.holder, late.hold_s, late.term) == (pair.other.id, 0.0, grant.term)


async def test_after_a_time_without_a_quorum_the_holder_goes_on() -> None:
    """Nobody could be heard, so nobody was silent: no move for an election of etcd's."""
    pair = await Pair.make()
    pair.office.wait(0.5)
    await pair.beat(pair.other)
    pair.office.memory.fail()
    pair.office.wait(5.0)
    pair.office.memory.recover()
    early = await pair.beat(pair.other)
    assert early.holder == pair.holder.id
    assert (await pair.beat(pair.holder)).hold_s == wire.HOLD_S


async def test_an_unable_one_is_replaced_at_once_and_its_old_words_do_nothing() -> None:
    pair = await Pair.make()
    term = (await pair.beat(pair.holder)).term
    await pair.beat(pair.other)
    gone = await pair.beat(pair.holder, is_able=False, term=term, why_not="eth1 has no link")
    assert gone.holder == pair.other.id
    taken = await pair.beat(pair.other)
    assert taken.hold_s == wire.HOLD_S
    await pair.beat(pair.holder, is_able=False, term=term)
    assert (await pair.beat(pair.other)).hold_s == wire.HOLD_S
    events = await pair.office.replica.services.events.latest()
    (told,) = [each for each in events if each.kind == "forwarder_changed"]
    assert "eth1 has no link" in told.text


async def test_a_release_hands_over_once() -> None:
    pair = await Pair.make()
    term = (await pair.beat(pair.holder)).term
    await pair.beat(pair.other)
    election = pair.office.second.replica.services.election
    await pair.office.look()
    await election.release(pair.holder.id, pair.office.segment, term)
    taken = await pair.beat(pair.other)
    assert taken.hold_s == wire.HOLD_S
    await election.release(pair.holder.id, pair.office.segment, term)  # again, late
    assert (await pair.beat(pair.other)).term == taken.term


async def test_a_switch_over_takes_four_beats_of_the_next_one() -> None:
    pair = await Pair.make()
    office = pair.office
    await pair.beat(pair.other, office.second)
    await office.look()
    await office.replica.services.election.switch_over(LAN, pair.other.id, SYSTEM)
    assert (await pair.beat(pair.holder)).yield_to == ""  # nobody hurries yet
    assert (await pair.beat(pair.other, office.second)).is_next
    office.wait(0.05)
    assert (await pair.beat(pair.other, office.second)).is_next
    asked = await pair.beat(pair.holder)
    assert (asked.yield_to, asked.holder) == (pair.other.id, pair.holder.id)
    await office.replica.services.election.release(pair.holder.id, office.segment, asked.term)
    office.wait(0.05)
    taken = await pair.beat(pair.other, office.second)
    assert (taken.hold_s, taken.is_next) == (wire.HOLD_S, False)
    kinds = await office.replica.kinds()
    assert kinds[-2:] == ["switch_over_asked", "forwarder_switched"]


async def test_a_switch_over_to_one_that_can_t_is_refused_with_why() -> None:
    pair = await Pair.make()
    election = pair.office.replica.services.election
    for why, code in (("", "not heard"), ("eth1 is missing", "eth1 is missing")):
        if why:
            await pair.beat(pair.other, is_able=False, why_not=why)
        with pytest.raises(Clash) as refused:
            await election.switch_over(LAN, pair.other.id, SYSTEM)
        assert code in refused.value.cause
    await election.switch_over(LAN, pair.holder.id, SYSTEM)  # it is there already
    assert "switch_over_asked" not in await pair.office.replica.kinds()


async def test_a_stopped_segment_is_forwarded_by_nobody_and_goes_on_as_it_was() -> None:
    pair = await Pair.make()
    segments = pair.office.replica.services.segments
    term = (await pair.beat(pair.holder)).term
    await segments.set_bridging(LAN, SYSTEM, is_bridging=False)
    for node in (pair.holder, pair.other):
        stopped = await pair.beat(node)
        assert (stopped.holder, stopped.hold_s) == ("", 0.0)
    await segments.set_bridging(LAN, SYSTEM, is_bridging=True)
    again = await pair.beat(pair.holder)
    assert (again.hold_s, again.term) == (wire.HOLD_S, term)


async def test_gateways_that_call_a_stop_unable_go_on_without_an_alarm() -> None:
    pair = await Pair.make()
    segments = pair.office.replica.services.segments
    term = (await pair.beat(pair.holder)).term
    await segments.set_bridging(LAN, SYSTEM, is_bridging=False)
    for node in (pair.holder, pair.other):
        told = await pair.beat(node, is_able=False, code="stopped", term=term)
        assert (told.holder, told.hold_s) == ("", 0.0)
    await segments.set_bridging(LAN, SYSTEM, is_bridging=True)
    assert (await pair.beat(pair.holder, is_able=False, code="stopped", term=term)).holder == ""
    again = await pair.beat(pair.other, term=term)
    assert again.hold_s == wire.HOLD_S
    assert again.term > term
    kinds = await pair.office.replica.kinds()
    assert not {"forwarder_lost", "forwarder_changed"} & set(kinds)


async def test_a_detached_holder_is_waited_for() -> None:
    pair = await Pair.make()
    await pair.beat(pair.other)
    await pair.office.replica.services.segments.detach(LAN, pair.holder.id, SYSTEM)
    office, held_after = pair.office, 0.0
    for _ in range(8):
        grant = await pair.beat(pair.other)
        if grant.hold_s:
            break
        office.wait(0.5)
        held_after += 0.5
    assert 2.0 <= held_after <= 2.5
    answer = await office.replica.services.election.beat(
        pair.holder.id, wire.GatewayBeat([wire.SegmentState(office.segment, True)])
    )
    assert answer.grants == []


async def test_a_new_run_of_the_agent_goes_on_in_a_new_term() -> None:
    pair = await Pair.make()
    old = await pair.beat(pair.holder)
    new = await pair.beat(pair.holder, boot="b2", term=old.term)
    assert new.hold_s == wire.HOLD_S
    assert new.term > old.term


async def test_four_failures_in_a_row_are_held_down_with_one_alarm() -> None:
    pair = await Pair.make()
    terms = {pair.holder.id: 0, pair.other.id: 0}
    nodes = [pair.holder, pair.other]
    for _ in range(5):
        for node in nodes:
            terms[node.id] = (await pair.beat(node)).term
        pair.office.wait(0.3)
        failed = nodes[0]
        grant = await pair.beat(failed, is_able=False, term=terms[failed.id])
        if grant.holder != nodes[1].id:
            break
        nodes.reverse()
    kinds = await pair.office.replica.kinds()
    assert kinds.count("forwarder_changed") == 3
    assert kinds.count("forwarder_held_down") == 1
    (problem,) = await problems(pair.office)
    assert problem == "forwarder_unsteady"


async def problems(office: Office) -> list[str]:
    await office.look()
    return [each.name for each in office.replica.services.gateway_health.problems()]


async def test_no_gateway_that_can_is_an_alarm_with_each_one_s_reason() -> None:
    begun = await Office().open("g1")
    assert await problems(begun) == []  # nobody can have been heard yet
    pair = await Pair.make()
    assert await problems(pair.office) == []
    term = (await pair.beat(pair.holder)).term
    await pair.beat(pair.holder, is_able=False, term=term, why_not="eth1 has no link")
    assert await problems(pair.office) == ["no_forwarder"]
    (problem,) = pair.office.replica.services.gateway_health.problems()
    assert "g1: eth1 has no link; g2: not heard of late" in problem.cause
    assert problem.is_urgent
    await pair.office.replica.services.segments.set_bridging(LAN, SYSTEM, is_bridging=False)
    assert await problems(pair.office) == []


async def test_a_beat_costs_one_write_and_what_people_see_one_in_five_seconds() -> None:
    pair = await Pair.make()
    memory = pair.office.memory
    await pair.beat(pair.holder, term=1)
    before = (await memory.list(keys.ROOT)).revision
    states = 0
    last = (await memory.get(keys.gateway_state(pair.holder.id))).revision  # type: ignore[union-attr]
    for number in range(40):  # 20 s
        pair.office.wait(0.5)
        await pair.beat(pair.holder, term=1, counters={"dhcp": number})
        revision = (await memory.get(keys.gateway_state(pair.holder.id))).revision  # type: ignore[union-attr]
        states += revision != last
        last = revision
    assert (await memory.list(keys.ROOT)).revision - before == 40
    assert states == 4
    beat = await memory.get(keys.beat(pair.holder.id))
    assert beat is not None
    assert len(beat.value) < 220


async def test_a_node_speaks_of_its_own_segments_only() -> None:
    office = await Office().open("g1")
    stranger = await office.replica.joined("h1", "red")
    await office.look()
    election = office.replica.services.election
    answer = await election.beat(
        stranger.id, wire.GatewayBeat([wire.SegmentState(office.segment, True)])
    )
    assert answer.grants == []
    assert await office.memory.get(keys.beat(stranger.id)) is None
    with pytest.raises(Refused) as refused:
        await election.release(stranger.id, office.segment, 1)
    assert refused.value.code == "not_your_duty"
    assert (await office.first.beat(office.gateways[0], office.segment)).hold_s


@pytest.mark.parametrize(
    "body",
    [
        wire.GatewayBeat([wire.SegmentState(f"s{n}", True) for n in range(65)]),
        wire.GatewayBeat([wire.SegmentState("s", True), wire.SegmentState("s", True)]),
        wire.GatewayBeat([wire.SegmentState("s", True, term=-1)]),
        wire.GatewayBeat([wire.SegmentState("s", True, term=1 << 60)]),
        wire.GatewayBeat([], boot="b" * 65),
    ],
)
async def test_what_no_agent_says_is_refused(body: wire.GatewayBeat) -> None:
    office = await Office().open("g1")
    with pytest.raises(CairnError):
        await office.replica.services.election.beat(office.gateways[0].id, body)


async def test_a_node_that_beats_without_end_is_slowed_down() -> None:
    office = await Office().open("g1")
    with pytest.raises(TooMany):
        for _ in range(100):
            await office.first.beat(office.gateways[0], office.segment)
    office.wait(1.0)
    await office.first.beat(office.gateways[0], office.segment)


async def test_without_a_quorum_nothing_is_confirmed() -> None:
    pair = await Pair.make()
    body = wire.GatewayBeat([wire.SegmentState(pair.office.segment, True)])
    pair.office.memory.fail()
    with pytest.raises(Unavailable):
        await pair.office.replica.services.election.beat(pair.holder.id, body)
