"""The right to forward at two replicas on a real etcd, which fails: never two grants at once."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from cairn_agent.protocol import gateway as wire
from cairn_appliance.domain.cluster import FORMAT
from cairn_appliance.domain.errors import CairnError, TooMany
from cairn_appliance.domain.forwarding import HOLD_S, SILENCE_S
from cairn_appliance.domain.identity import SYSTEM
from cairn_appliance.pki.keyring import Keyring
from cairn_appliance.services.segments import SegmentOrder
from cairn_appliance.services.services import Services, build
from cairn_appliance.services.tokens import TokenOrder
from cairn_appliance.services.vsubnets import VSubnetOrder
from cairn_appliance.store import keys, records
from cairn_appliance.store.etcd import EtcdStore
from cairn_appliance.store.port import Put, StoreError

from tests import proofs
from tests.contract.etcd_server import EtcdServer
from tests.simulated_node import SimulatedNode
from tests.unit.appliance.replica import AUTHORITY, CLUSTER, MAP_KEY, SEALER

pytestmark = pytest.mark.etcd

MOMENT_S = 12.0
_PAUSE_S = 1.0  # between two beats: whoever was silent for longer is listened to anew
FAULTS = int(os.environ.get("CAIRN_GATEWAY_FAULTS", "12"))  # about 2.5 s each


@dataclass
class Gateway:
    """A gateway that keeps the rules, with a gate that is a list of intervals."""

    node: SimulatedNode
    segment: str
    is_alive: bool = True
    is_able: bool = True
    term: int = 0
    given_up: set[int] = field(default_factory=set)
    until: float = 0.0
    opened: list[tuple[float, float]] = field(default_factory=list)  # monotonic clock
    took_s: list[float] = field(default_factory=list)

    async def beat(self, services: Services) -> wire.Grant | None:
        """Beat once; open the gate for as long as the answer allows."""
        sent = time.monotonic()
        said = wire.SegmentState(self.segment, self.is_able, term=self.term)
        try:
            async with asyncio.timeout(1.0):
                answer = await services.election.beat(self.node.id, wire.GatewayBeat([said], "b1"))
        except (CairnError, StoreError, TimeoutError):
            return None
        now = time.monotonic()
        self.took_s.append(now - sent)
        for grant in answer.grants:
            self._take(grant, sent, now)
            return grant
        return None

    def close(self) -> None:
        """Close the gate; not in this term again."""
        self.given_up.add(self.term)
        self._end(time.monotonic())

    def _take(self, grant: wire.Grant, sent: float, now: float) -> None:
        if grant.term < self.term:
            return
        self.term = grant.term
        if not self.is_alive or not grant.hold_s or grant.term in self.given_up:
            self._end(now)
            return
        begin = self.until if self.until > now else now
        self.until = max(self.until, sent + grant.hold_s)
        if self.until > begin:
            self.opened.append((begin, self.until))

    def _end(self, now: float) -> None:
        """Cut what is open short."""
        self.until = min(self.until, now)
        self.opened = [(a, min(b, now)) for a, b in self.opened if a < now]


@asynccontextmanager
async def replicas(etcd: list[EtcdServer]) -> AsyncIterator[list[Services]]:
    """Two replicas with their watches, each on all members."""
    stores = [EtcdStore([each.address for each in etcd], None) for _ in range(2)]
    made = [
        build(
            store=store,
            cluster=CLUSTER,
            keyring=Keyring(SEALER, AUTHORITY, MAP_KEY),
            sealer=SEALER,
            replica=f"r{number}",
        )
        for number, store in enumerate(stores)
    ]
    watches = [asyncio.create_task(each.board.run()) for each in made]
    watches += [asyncio.create_task(each.streams.run()) for each in made]
    try:
        yield made
    finally:
        for watch in watches:
            watch.cancel()
        await asyncio.gather(*watches, return_exceptions=True)
        for store in stores:
            await store.close()


async def office(services: list[Services]) -> list[Gateway]:
    """Make a segment with two gateways; return them once both replicas know."""
    first = services[0]
    await first.events._store.commit([], [Put(keys.CLUSTER_FORMAT, b"%d" % FORMAT)])
    await first.vsubnets.create(VSubnetOrder("red", ("10.7.0.0/24",)), SYSTEM)
    segment = (await first.segments.create(SegmentOrder("lan", "red"), SYSTEM)).value
    nodes = []
    for name in ("g1", "g2"):
        node = SimulatedNode(name)
        _, text = await first.tokens.create(TokenOrder(), SYSTEM)
        await first.enrolment.enrol(node.newcomer(text), "198.51.100.9")
        await first.segments.attach("lan", node.id, "eth1", 0, SYSTEM)
        nodes.append(node)
    async with asyncio.timeout(10):
        while not all(each.election.duties(node.id) for each in services for node in nodes):
            await asyncio.sleep(0.05)
    return [Gateway(node, segment.id) for node in nodes]


def overlaps(gateways: list[Gateway]) -> list[tuple[float, float]]:
    """Return where both gates were open."""
    one, other = gateways
    return [
        (max(a, c), min(b, d))
        for a, b in one.opened
        for c, d in other.opened
        if max(a, c) < min(b, d)
    ]


async def test_asked_at_once_two_replicas_never_both_grant(tmp_path: Path) -> None:
    etcd = EtcdServer(tmp_path)
    etcd.start()
    try:
        async with replicas([etcd]) as services:
            gateways = await office(services)
            for _ in range(60):
                answers = await asyncio.gather(
                    *(g.beat(s) for g, s in zip(gateways, services, strict=True)),
                    *(g.beat(s) for g, s in zip(gateways, reversed(services), strict=True)),
                )
                granted = {
                    (each.holder, each.term) for each in answers if each is not None and each.hold_s
                }
                assert len({term for _, term in granted}) == len(granted)
                assert overlaps(gateways) == []
                # The holder gives it up in one way or another, and all begin anew.
                holder = next((g for g in gateways if g.until > time.monotonic()), None)
                if holder is None:
                    continue
                holder.close()
                if random.random() < 0.5:
                    with suppress(TooMany):  # rounds are short on a fast machine
                        await services[0].election.release(
                            holder.node.id, holder.segment, holder.term
                        )
                else:
                    holder.is_able = False
                    await holder.beat(services[1])
                    holder.is_able = True
                await _calm(services[0], holder.segment)
    finally:
        etcd.kill()


async def _calm(services: Services, segment: str) -> None:
    """Take back that it moved so often, as an operator does."""
    store = services.store
    item = await store.get(keys.forwarding(segment))
    assert item is not None
    record = replace(records.forwardings.decode(item), moves=(), is_held_down=False)
    with suppress(StoreError):
        await store.commit([], [Put(item.key, records.forwardings.encode(record))])


async def test_a_holder_that_dies_is_followed_in_time_and_never_too_early(
    tmp_path: Path,
) -> None:
    etcd = EtcdServer(tmp_path)
    etcd.start()
    try:
        async with replicas([etcd]) as services:
            holder, other = await office(services)
            for _ in range(5):
                after_s, pause_s = await _followed(holder, other, services)
                assert overlaps([holder, other]) == []
                assert after_s >= HOLD_S
                if pause_s < _PAUSE_S:
                    break
                holder.is_alive = True
                holder, other = other, holder
                await _calm(services[0], holder.segment)
            assert pause_s < _PAUSE_S, "this machine stood still each time"
            # C1 gives 4 s for all of it; the agent's part comes on top of this.
            assert after_s <= SILENCE_S + 1.5
    finally:
        etcd.kill()


async def _followed(
    holder: Gateway, other: Gateway, services: list[Services]
) -> tuple[float, float]:
    """Let the holder die; return when it was followed, and how long nobody asked, in seconds."""
    async with asyncio.timeout(5 * MOMENT_S):
        while True:
            died = time.monotonic()  # it may forward for HOLD_S from here on
            await holder.beat(services[0])
            if holder.until > time.monotonic():
                break
            await asyncio.sleep(0.1)
        holder.is_alive = False
        before, asked, pause_s = len(other.opened), died, 0.0
        while len(other.opened) == before:
            await other.beat(services[1])
            now = time.monotonic()
            asked, pause_s = now, max(pause_s, now - asked)
            await asyncio.sleep(0.5)
    return other.opened[before][0] - died, pause_s


async def test_gateways_that_fail_in_turns_move_three_times_and_stay(tmp_path: Path) -> None:
    etcd = EtcdServer(tmp_path)
    etcd.start()
    try:
        async with replicas([etcd]) as services:
            gateways = await office(services)
            for _ in range(20):
                for gateway, replica in zip(gateways, services, strict=True):
                    await gateway.beat(replica)
                await asyncio.sleep(0.05)  # the watches
                holder = next((g for g in gateways if g.until > time.monotonic()), None)
                if holder is None:
                    continue  # a beat was late
                holder.close()
                holder.is_able = False
                await holder.beat(services[0])
                holder.is_able = True
            stays = 0
            for _ in range(20):
                for gateway, replica in zip(gateways, services, strict=True):
                    await gateway.beat(replica)
                stays = sum(g.until > time.monotonic() for g in gateways)
                if stays:  # else a beat was late
                    break
            kinds = [event.kind for event in await services[0].events.list(limit=1000)]
            moves, alarms = kinds.count("forwarder_changed"), kinds.count("forwarder_held_down")
            assert proofs.record(
                "C5",
                what="gateways that fail in turns, two replicas on a real etcd: automatic moves",
                bar="3 in 10 min, then one alarm, and the last one keeps it",
                value=moves,
                unit="moves",
                holds=(moves, alarms, stays) == (3, 1, 1),
            )
    finally:
        etcd.kill()


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_while_members_of_etcd_are_paused_and_killed_two_gates_are_never_open(
    tmp_path: Path,
) -> None:
    etcd = EtcdServer.cluster(tmp_path, 3)
    try:
        async with replicas(etcd) as services:
            gateways = await office(services)
            stop = asyncio.Event()

            async def live(gateway: Gateway, dice: random.Random) -> None:
                """Beat at either replica, and be cut off or unable now and then."""
                while not stop.is_set():
                    if dice.random() < 0.06:
                        await asyncio.sleep(dice.uniform(0.5, 3.0))  # cut off
                    if dice.random() < 0.06:
                        gateway.close()
                        gateway.is_able = False
                        await gateway.beat(dice.choice(services))
                        gateway.is_able = True
                    await gateway.beat(dice.choice(services))
                    await asyncio.sleep(dice.uniform(0.05, 0.5))

            living = [
                asyncio.create_task(live(gateway, random.Random(seed)))
                for seed, gateway in enumerate(gateways)
            ]
            dice = random.Random(5)
            for _ in range(FAULTS):
                await asyncio.sleep(dice.uniform(0.5, 1.5))
                with dice.choice(etcd).paused():
                    await asyncio.sleep(dice.uniform(0.3, 2.0))
                await _calm(services[0], gateways[0].segment)
            await asyncio.sleep(1.0)
            stop.set()
            await asyncio.gather(*living)
            assert overlaps(gateways) == []
            assert sum(len(each.opened) for each in gateways) > 10
    finally:
        for each in etcd:
            each.kill()
