"""The running agent: newest netmap + host facts -> desired -> difference -> apply.

Each task owns one source of change (the link, netlink, the data plane's socket, the
command socket) and only wakes the one that applies. Applying is idempotent, so "apply the
newest" is the whole algorithm; without an appliance, it goes on with what was kept.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import signal
import time
import uuid
from collections.abc import Callable, Collection, Coroutine, Mapping
from typing import Final

import msgspec
from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from cairn_agent.clones import Clones
from cairn_agent.control.copies import become, enrol_copy
from cairn_agent.control.link import Barred
from cairn_agent.dataplane import DataPlane, Event, Hello, connected, user_of
from cairn_agent.entropy import key_octets
from cairn_agent.errors import AgentError, Refused, StateUnusable
from cairn_agent.files import held_lock
from cairn_agent.gateway.beats import Beats
from cairn_agent.gateway.gateways import Gateways
from cairn_agent.gateway.wanted import bridges, has_work
from cairn_agent.host.bridge import (
    BridgeOutcome,
    confirm,
    ensure_bridges,
    remove_other_bridges,
    revert_unconfirmed,
    revert_when_due,
)
from cairn_agent.host.bridge_journal import CONFIRM_S, Journal
from cairn_agent.host.machine import boottime, host_name, machine_facts
from cairn_agent.host.network import Network, read_network
from cairn_agent.host.taps import ensure_taps, remove_other_taps
from cairn_agent.host.watch import network_changes
from cairn_agent.identity import Identity, new_keys
from cairn_agent.membership import Membership
from cairn_agent.moved import keep_known
from cairn_agent.netmap.desired import (
    DataPlaneState,
    Desired,
    Generations,
    Own,
    desired,
    forgetting,
    nothing,
)
from cairn_agent.netmap.held import Netmap
from cairn_agent.netmap.trust import limit_s
from cairn_agent.protocol.enrolment import AckRequest
from cairn_agent.racing import first_to_end
from cairn_agent.settings import UNDERLAY_PORT, Settings
from cairn_agent.state import RuntimeDir, StateDir
from cairn_agent.telemetry import Ways

log = logging.getLogger(__name__)

_NIL: Final = str(uuid.UUID(int=0))
_BOOKS_S: Final = 60.0  # how often standing and recent peers are written
_RETRY_S: Final = 5.0  # after the host or the data plane refused something
_RECENT_S: Final = 600.0  # a peer heard within this is warmed at start (rule 14)
_FIRST_WORD_S: Final = 1.0  # a restart from the kept netmap alone takes 2 s at most (A10)
_SEEK_S: Final = 0.1  # between looks for the data plane right after it went,
_SEEK_FOR_S: Final = 10.0  # for this long;
_SEEK_LATER_S: Final = 1.0  # then so


class Agent:
    """What the tasks share. Has no rule of its own: rules are functions elsewhere."""

    def __init__(
        self,
        settings: Settings,
        netlink: AsyncIPRoute,
        network: Network,
        bridge_netlink: AsyncIPRoute | None = None,
    ) -> None:
        self.settings = settings
        self.state = StateDir(settings.state_dir)
        self.runtime = RuntimeDir(settings.runtime_dir)
        self.netlink = netlink
        # A second dump on a socket that is being read is refused (EBUSY), and bridges are looked
        # at by several tasks, one after the other.
        self.bridge_netlink = bridge_netlink or netlink
        self.network = network
        self.journal = Journal(settings.bridge_journal)
        self.bridges: Mapping[int, BridgeOutcome] = {}
        self.gateways: Gateways | None = None  # None: no duty since the start
        self.membership: Membership | None = None
        self.dataplane: DataPlane | None = None
        self.hello: Hello | None = None
        self.dataplane_error: AgentError | None = None
        self.applied: DataPlaneState | None = None
        self.generation = 0
        self.problems: Mapping[int, str] = {}
        self.degraded: dict[str, str] = {}
        self.warm: frozenset[str] = frozenset()
        self.wake = asyncio.Event()
        self.membership_changed = asyncio.Event()
        self.may_be_elsewhere = asyncio.Event()  # this machine, than its peers believe
        self._generations: Generations = {}  # of the members whose sessions the data plane has
        self._recent: dict[str, float] = {}  # node ID -> boottime heard
        self._nobody = nobody()
        self._settled = asyncio.Event()
        self._met = asyncio.Event()  # a data plane has been there
        self._duties_changed = asyncio.Event()
        self._bridges_changed = asyncio.Event()
        self.ways = Ways()
        self.clones = Clones()
        self.sessions_changed = asyncio.Event()  # a session or a path is another one
        self._is_stale = False  # the state that is on its way to the data plane

    @property
    def node_id(self) -> str:
        """This node's ID; that of nobody where it is none."""
        return self.membership.identity().node_id if self.membership else _NIL

    @property
    def netmap(self) -> Netmap | None:
        """The netmap in use."""
        return self.membership.netmap if self.membership else None

    def load(self) -> None:
        """Read what is on disk; changes nothing. Raises StateUnusable."""
        identity = self.state.identity()
        self.membership = None
        if identity is not None:
            self.membership = Membership(
                identity, self.state, self.settings.offline_trust_s, self.wake.set
            )
            self.membership.network = self.network
            if not identity.barred:
                self.membership.recognise()
                self.membership.load_netmap()
        self.warm = self.runtime.recent()

    def forget(self) -> None:
        """Give up the identity; sessions and TAPs end with it."""
        self.state.forget()
        self.reload()

    async def settled(self) -> None:
        """Wait until what is desired now has been applied once."""
        self._settled.clear()
        self.wake.set()
        await self._settled.wait()

    def reload(self) -> None:
        """Take up the identity that is on disk now."""
        self.load()
        self._tell_membership()
        self.membership_changed.set()
        self._duties_changed.set()
        self.wake.set()

    async def keep_link(self) -> None:
        """Hold the link of whatever membership there is."""
        while True:
            self.membership_changed.clear()
            membership = self.membership
            if membership is None or membership.identity().barred:
                await self.membership_changed.wait()
                continue
            try:
                await first_to_end(membership.link.run(), self.membership_changed.wait())
            except Barred as barred:
                await first_to_end(self._obey(membership, barred), self.membership_changed.wait())

    async def _obey(self, membership: Membership, barred: Barred) -> None:
        """Do what follows from a refusal: become another node, or none."""
        try:
            match barred.code:
                case "duplicate_node":
                    await self._become_copy(membership, barred.reason)
                case "node_became" if membership.identity().copy_of:
                    log.warning("by an operator's word: %s", barred.reason)
                    self._take_up(await become(membership.identity()))
                case _:
                    log.warning("this node is no longer a member: %s", barred.reason)
                    membership.bar(barred.reason)
        except Refused as refused:
            log.warning("this node is no longer a member: %s", refused.cause)
            membership.bar(refused.cause)
        except StateUnusable as error:
            log.warning("the new identity could not be kept: %s", error.cause)
            await asyncio.sleep(_RETRY_S)  # the next registration leads here again

    async def _become_copy(self, membership: Membership, reason: str) -> None:
        """Leave the identity to the machine that has it, and become a node of its own."""
        identity = membership.identity()
        log.warning("this machine is a copy of node=%s: %s", identity.node_id, reason)
        membership.stand_aside(f"{reason}; this machine becomes a node of its own")
        attempt = f"copy of {identity.node_id}"
        keys = self.state.attempted(attempt) or new_keys()
        self.state.keep_attempt(attempt, keys)
        facts = machine_facts(self.network)
        self._take_up(await enrol_copy(identity, keys, host_name(), facts))
        self.state.forget_attempt()

    def _take_up(self, identity: Identity) -> None:
        """Be another node from now on."""
        self.state.forget_membership()
        self.state.keep_identity(identity)
        log.warning("this machine is node=%s now, state=%s", identity.node_id, identity.state)
        self.reload()

    async def keep_applied(self) -> None:
        """Apply whenever something changed, and when the trust in a netmap ends."""
        await self._first_word()
        while True:
            self.wake.clear()
            try:
                wait_s = await self._apply()
            except (AgentError, NetlinkError) as error:
                log.warning("the host can't be brought to what is desired: %s", error)
                wait_s = _RETRY_S
            if self.membership is not None:
                self.membership.keep_newest()
            if not self.wake.is_set():
                self._settled.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self.wake.wait()

    async def keep_dataplane(self) -> None:
        """Hold the connection to the data plane; a new one gets everything anew."""
        lost_at = time.monotonic()
        while True:
            try:
                async with connected(self.settings.dataplane_socket) as dataplane:
                    await first_to_end(dataplane.pump(), self._attend(dataplane))
            except AgentError as error:
                if self.dataplane is not None:
                    log.warning("data plane is away: %s", error.cause)
                    lost_at = time.monotonic()
                self.dataplane, self.dataplane_error = None, error
            is_recent = time.monotonic() - lost_at < _SEEK_FOR_S
            await asyncio.sleep(_SEEK_S if is_recent else _SEEK_LATER_S)

    async def watch_network(self) -> None:
        """Follow the host's network; tell those whom it concerns."""
        async for change in network_changes(self.netlink):
            before, self.network = self.network, change.network
            if self.membership is not None:
                offered = self.membership.endpoints()
                self.membership.network = change.network
                now = self.membership.endpoints()
                if now != offered:
                    log.info("own endpoints changed: %s", " ".join(now))
                    link = self.membership.link
                    if set(offered) <= set(now):
                        link.register_soon()
                    else:
                        link.connect_anew()
                    self.may_be_elsewhere.set()
            if change.is_underlay and self.dataplane is not None:
                with contextlib.suppress(AgentError):
                    await self.dataplane.underlay_changed()
            if before.own().keys() - change.network.own().keys():
                self._apply_anew()  # a TAP that the data plane had is gone
            self.wake.set()

    async def keep_known(self) -> None:
        """Have the peers know where this machine is."""
        await keep_known(self.may_be_elsewhere, lambda: self.membership, lambda: self.dataplane)

    async def keep_gateways(self) -> None:
        """Do this node's duties as a gateway, from the first one on."""
        while True:
            self._duties_changed.clear()
            membership = self.membership
            if membership is None or not has_work(membership.netmap):
                await self._duties_changed.wait()
                continue
            link = membership.link
            beats = Beats(membership.identity, lambda link=link: link.state.appliance)  # type: ignore[misc]
            self.gateways = Gateways(self, beats, self._confirm_bridges)
            try:
                await first_to_end(
                    self.gateways.run(), self._tell_gateways(self.gateways, membership)
                )
            finally:
                self.gateways = None

    async def _tell_gateways(self, gateways: Gateways, membership: Membership) -> None:
        """Tell them of each change, until the node is another one."""
        while self.membership is membership:
            gateways.changed()
            await self._duties_changed.wait()
            self._duties_changed.clear()

    def _confirm_bridges(self, sent_ns: int) -> None:
        """An appliance answered a beat: the host can be reached over what it was sent by."""
        moved = [r.revert_at for r in self.journal.bridges.values() if not r.is_confirmed]
        if moved and sent_ns / 1e9 > max(moved) - CONFIRM_S:
            log.info("an appliance was reached over the bridge: the host's address stays there")
            confirm(self.journal)

    async def keep_bridges(self) -> None:
        """Put back addresses that were moved to a bridge and that nobody confirmed."""
        with contextlib.suppress(NetlinkError, AgentError):
            await revert_unconfirmed(self.bridge_netlink, self.journal)
        while True:
            self._bridges_changed.clear()
            try:
                if await revert_when_due(self.bridge_netlink, self.journal):
                    self.wake.set()
            except (NetlinkError, AgentError) as error:
                log.warning("the host's address can't be put back: %s", error)
                await asyncio.sleep(_RETRY_S)
                continue
            await self._bridges_changed.wait()

    async def keep_books(self) -> None:
        """Write down, at most once a minute, what a restart must know."""
        while True:
            await asyncio.sleep(_BOOKS_S)
            try:
                await self.write_books()
            except StateUnusable as error:
                log.warning("the books could not be written: %s", error.cause)

    async def write_books(self) -> None:
        """Write standing and recent peers where they changed."""
        if self.membership is None:
            return
        if self.membership.offline.seconds(boottime()) >= _BOOKS_S:
            self.membership.keep_standing()
        await self._note_recent()
        recent = frozenset(self._recent)
        if recent != self.runtime.recent():
            self.runtime.keep_recent(recent)

    async def _apply(self) -> float:
        """Bring host and data plane to what is desired; return when to look again."""
        wanted = self._desired()
        owner = user_of(self.settings.dataplane_socket)
        outcome = await ensure_taps(self.netlink, wanted.taps, owner)
        failed = {vni: f"{e.cause}; {e.remedy}" for vni, e in outcome.failed.items()}
        self._note_problems({**wanted.problems, **failed})
        state = _without(wanted.state, failed.keys())
        is_loaded = await self._load(state, wanted.generations)
        is_bridged = await self._bridge()
        await remove_other_taps(self.netlink, wanted.taps)
        is_refused = bool(outcome.failed) or (self.dataplane is not None and not is_loaded)
        is_refused |= not is_bridged
        return min(_RETRY_S if is_refused else 3600.0, self._trust_ends_in_s())

    async def _bridge(self) -> bool:
        """Have the bridges of the duties, and no others; return whether all are as they should.

        After the data plane has its state: by then the gates are closed.
        """
        wanted = bridges(self.netmap, self.node_id, self.network.carried_mtu())
        if wanted or self.bridges:
            before = self.bridges
            self.bridges = await ensure_bridges(self.bridge_netlink, wanted, self.journal)
            _log_bridges(before, self.bridges)
        await remove_other_bridges(self.bridge_netlink, wanted, self.journal)
        self._bridges_changed.set()
        self._duties_changed.set()
        return all(outcome.error is None for outcome in self.bridges.values())

    async def _first_word(self) -> None:
        """Let an appliance say first who this machine is, if one answers at once.

        A machine that boots may be the original of a copy that took over while it was off:
        with the netmap that it kept it would fight with the copy until it is told. A data
        plane that has a state already, or no appliance, is not waited for.
        """
        membership = self.membership
        if membership is None or membership.netmap is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FIRST_WORD_S):
                await self._met.wait()
                if self.hello is not None and self.hello.generation is None:
                    await first_to_end(
                        membership.answered.wait(), membership.link.nobody_there.wait()
                    )

    def _desired(self) -> Desired:
        membership = self.membership
        if membership is None:
            return nothing(self._nobody)
        identity = membership.identity()
        own = Own(
            node_id=identity.node_id,
            data_key=identity.keys.data_key,
            cluster_id=identity.cluster_id,
            port=UNDERLAY_PORT,
            behind_nat=membership.behind_nat,
            timers=self.settings.timers,
            offline_trust_s=self.settings.offline_trust_s,
            carried_mtu=self.network.carried_mtu(),
        )
        if membership.netmap is None:
            return nothing(own)
        offline_s = membership.offline.seconds(boottime())
        return desired(membership.netmap, own, warm=self.warm, offline_s=offline_s)

    async def _load(self, state: DataPlaneState, generations: Generations | None = None) -> bool:
        """Give the data plane its state where it has another; return whether it has it now."""
        dataplane, membership = self.dataplane, self.membership
        if dataplane is None:
            return False
        generations = generations or {}
        without = forgetting(state, self._generations, generations)
        has_nothing_to_forget = membership is None and self.generation == 0
        if has_nothing_to_forget or (state == self.applied and without is None):
            return True
        self._is_stale = False
        try:
            for each in (without, state) if without is not None else (state,):
                self.generation += 1
                await dataplane.apply(self.generation, each)
        except AgentError as error:
            self.dataplane_error = error
            log.warning("the data plane did not take revision=%d: %s", state.revision, error.cause)
            self._acknowledge(membership, refused=error.cause)
            return False
        self.dataplane_error = None
        self._generations = generations
        if self._is_stale:
            return True  # what was applied is out of date already, and its successor is due
        if self.applied is None:
            self.may_be_elsewhere.set()
        self.applied = state
        # It is attached to every TAP of the state again.
        self.degraded = {w: why for w, why in self.degraded.items() if not w.startswith("tap ")}
        self._tell_membership()
        log.info("loaded revision=%d vsubnets=%d", state.revision, len(state.vsubnets))
        if membership is not None:
            membership.loaded_revision = state.revision
        self._acknowledge(membership)
        return True

    def _apply_anew(self) -> None:
        """Have everything applied, whatever the data plane has; also if it is just taking it."""
        self.applied, self._is_stale = None, True
        self.wake.set()

    def _acknowledge(self, membership: Membership | None, refused: str = "") -> None:
        netmap = membership.netmap if membership else None
        if membership is not None and netmap is not None:
            digests = {} if refused else netmap.digests()
            membership.link.acknowledge(
                AckRequest(membership.loaded_revision, netmap.incarnation, digests, refused)
            )

    async def _meet(self, dataplane: DataPlane) -> None:
        """Greet a data plane and have everything applied to it."""
        hello = await dataplane.hello()
        await dataplane.subscribe()
        if self.hello is not None and hello.instance != self.hello.instance:
            await self._note_recent()
            self.warm = frozenset(self._recent) or self.runtime.recent()
            self.degraded.clear()
        self.hello, self.dataplane, self.dataplane_error = hello, dataplane, None
        self.generation = max(self.generation, hello.generation or 0)
        self._met.set()
        self._apply_anew()
        log.info("data plane is there version=%s instance=%s", hello.version, hello.instance)
        self._tell_membership()
        self.wake.set()

    def _tell_membership(self) -> None:
        """Let the next registration carry what the data plane is."""
        if self.membership is None or self.hello is None:
            return
        self.membership.dataplane_version = self.hello.version
        self.membership.offloads = {**self.hello.offloads, **self.degraded}

    async def _attend(self, dataplane: DataPlane) -> None:
        """Greet the data plane, then note what it tells."""
        await self._meet(dataplane)
        while True:
            self._note(await dataplane.events.get())

    def _note(self, event: Event) -> None:
        match event.type:
            case "session_up":
                self._recent[event.peer] = boottime()
                self.sessions_changed.set()
            case "session_down" | "endpoint_changed":
                self.sessions_changed.set()
            case "endpoint_wanted" if self.membership and not self.membership.link.state.is_up:
                self.membership.link.hasten()
            case "degraded":
                self.degraded[event.what] = f"off: {event.reason}"
                log.warning("data plane degraded what=%s reason=%s", event.what, event.reason)
                self._tell_membership()
            case "reflected" | "gate_closed" if self.gateways is not None:
                self.gateways.note(event)
            case "clone_seen":
                log.warning("peer is two machines vni=%d peer=%s", event.vni, event.peer)
                self.clones.note(event.vni, event.peer)
                self.sessions_changed.set()
            case "spoofed":
                log.warning("spoofed vni=%d peer=%s", event.vni, event.peer)
            case _:
                log.debug("data plane event=%s peer=%s", event.type, event.peer)

    async def _note_recent(self) -> None:
        """Keep who was heard within ten minutes."""
        now = boottime()
        if self.dataplane is not None:
            with contextlib.suppress(AgentError):
                for vsubnet in (await self.dataplane.stats()).vsubnets:
                    for peer in vsubnet.peers:
                        if peer.last_received_s is not None:
                            heard = now - peer.last_received_s
                            self._recent[peer.id] = max(heard, self._recent.get(peer.id, 0.0))
        self._recent = {n: at for n, at in self._recent.items() if now - at < _RECENT_S}

    def _note_problems(self, problems: Mapping[int, str]) -> None:
        for vni, problem in problems.items():
            if self.problems.get(vni) != problem:
                log.warning("vSubnet is not up vni=%d: %s", vni, problem)
        self.problems = problems

    def _trust_ends_in_s(self) -> float:
        """Return the seconds until the next vSubnet's trust ends, at least a moment."""
        netmap = self.membership.netmap if self.membership else None
        if self.membership is None or netmap is None:
            return 3600.0
        offline_s = self.membership.offline.seconds(boottime())
        limits = [
            limit_s(vsubnet.header, self.settings.offline_trust_s)
            for vsubnet in netmap.vsubnets.values()
        ]
        left = [limit - offline_s for limit in limits if limit and limit > offline_s]
        return min([*left, 3600.0]) + 0.1


ServeCommands = Callable[[Agent], Coroutine[None, None, None]]


async def run(
    settings: Settings,
    serve_commands: ServeCommands,
    at_first_boot: ServeCommands,
    tell: ServeCommands,
) -> None:
    """Run until SIGTERM or SIGINT; TAPs and data plane stay as they are.

    `at_first_boot` does what a sealed image needs to become a node, `tell` reports to the
    appliance. Raises AgentError where it can't start.
    """
    state = StateDir(settings.state_dir)
    state.prepare()
    RuntimeDir(settings.runtime_dir).prepare()
    with held_lock(state.lock, "another cairn-agent"):
        async with AsyncIPRoute() as netlink, AsyncIPRoute() as bridge_netlink:
            agent = Agent(settings, netlink, await read_network(netlink), bridge_netlink)
            agent.load()
            # --- Above this line the agent only reads; below it changes the host. ---
            await _until_stopped(agent, serve_commands, at_first_boot, tell)


async def _until_stopped(
    agent: Agent,
    serve_commands: ServeCommands,
    at_first_boot: ServeCommands,
    tell: ServeCommands,
) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    async with asyncio.TaskGroup() as tasks:
        running = [
            tasks.create_task(serve_commands(agent), name="commands"),
            tasks.create_task(at_first_boot(agent), name="first boot"),
            tasks.create_task(agent.keep_applied(), name="apply"),
            tasks.create_task(agent.keep_dataplane(), name="data plane"),
            tasks.create_task(agent.watch_network(), name="network"),
            tasks.create_task(agent.keep_link(), name="link"),
            tasks.create_task(agent.keep_known(), name="keep known"),
            tasks.create_task(agent.keep_gateways(), name="gateways"),
            tasks.create_task(agent.keep_bridges(), name="bridges"),
            tasks.create_task(agent.keep_books(), name="books"),
            tasks.create_task(tell(agent), name="tell"),
        ]
        await stopped.wait()
        log.info("stopping; traffic goes on without the agent")
        for task in running:
            task.cancel()
    if agent.membership is not None:
        agent.membership.keep_standing()


def nobody() -> Own:
    """Return a node of no cluster: applied, it makes a data plane forget all its keys."""
    key = base64.b64encode(key_octets("nobody")).decode()
    return Own(node_id=_NIL, data_key=key, cluster_id=_NIL, port=UNDERLAY_PORT)


def _without(state: DataPlaneState, vnis: Collection[int]) -> DataPlaneState:
    """Leave out the vSubnets that have no TAP."""
    if not vnis:
        return state
    kept = [vsubnet for vsubnet in state.vsubnets if vsubnet.vni not in vnis]
    return msgspec.structs.replace(state, vsubnets=kept)


def _log_bridges(before: Mapping[int, BridgeOutcome], now: Mapping[int, BridgeOutcome]) -> None:
    """Log what is new of the bridges."""
    for vni, outcome in now.items():
        known = before.get(vni)
        error, known_error = outcome.error, known.error if known else None
        if error is not None and (known_error is None or known_error.cause != error.cause):
            log.warning("not bridged vni=%d: %s", vni, error.cause)
        for warning in set(outcome.warnings) - set(known.warnings if known else ()):
            log.warning("bridge vni=%d: %s", vni, warning)
