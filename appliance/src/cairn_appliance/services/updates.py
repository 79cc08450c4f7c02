"""Updates of the image, one appliance after the other (docs/adr/0020).

Each appliance tells the store how its machine stands, and asks the machine when its turn has
come. Which appliance's turn it is decides the one beside etcd's leader, by rules that know no
store (domain/update.py). What is under way lies in the store: whoever leads next goes on with it.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Protocol

from cairn_appliance.domain.backup import Backup
from cairn_appliance.domain.cluster import Appliance
from cairn_appliance.domain.cluster_health import ClusterView
from cairn_appliance.domain.errors import (
    BackupFailed,
    CairnError,
    Clash,
    Unavailable,
    UpdateRefused,
)
from cairn_appliance.domain.event import Severity
from cairn_appliance.domain.identity import SYSTEM, Actor
from cairn_appliance.domain.update import (
    Action,
    Phase,
    Plan,
    Report,
    Standing,
    Wish,
    advance,
    hindrance,
    newest_uploaded,
    version_back,
    version_of,
)
from cairn_appliance.pki.update_file import Head
from cairn_appliance.services.clock import Clock, wall_clock
from cairn_appliance.services.commit import until_committed
from cairn_appliance.services.events import Journal
from cairn_appliance.services.stored import Stored, read, read_all
from cairn_appliance.store import keys, records
from cairn_appliance.store.port import Compare, Conflict, Put, Store, StoreError

log = logging.getLogger(__name__)

LOOKED_AT_EVERY_S = 2.0
_FETCHED_WITHIN_S = 900.0
_NO_IMAGE = "what runs from a clone is updated as docs/operate.md, Upgrading, says"


class Kept(Protocol):
    """The file of an update that is being read."""

    octets: int

    def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield what is in it."""

    def close(self) -> None:
        """Close it; whoever was given it does."""


class Machine(Protocol):
    """The machine under this appliance (cluster/own_machine.py)."""

    def standing(self) -> Standing | None:
        """Return how it stands with its slots; None: it doesn't run from the image."""

    def bundle(self) -> Head | None:
        """Return what the update that lies here says of itself."""

    async def keep(
        self, chunks: AsyncIterator[bytes], check: Callable[[], Awaitable[None]] | None = None
    ) -> Head:
        """Keep an update, once it is looked at whole and `check` is content; raise CairnError.

        One at a time.
        """

    def open(self) -> Kept:
        """Return the update that lies here, to be read; raise NotFound."""

    def remove(self) -> None:
        """Remove the update that lies here."""

    def ask(self, wish: Wish) -> None:
        """Ask the machine's root; raise CairnError."""


class Cluster(Protocol):
    """What is asked of the membership."""

    async def view(self) -> ClusterView:
        """Return how all appliances are."""


class Making(Protocol):
    """What makes backups."""

    async def create(self, by: Actor, reason: str = "") -> Backup:
        """Make one; raise Clash, BackupFailed."""


Fetch = Callable[[Sequence[str]], AsyncGenerator[bytes, None]]


@dataclass(frozen=True, slots=True)
class State:
    """What is under way, or was last, and how each machine stands."""

    plan: Plan | None = None
    reports: Mapping[str, Report] = field(default_factory=dict)


class Updates:
    """All there is to do with updates on one appliance."""

    def __init__(
        self,
        store: Store,
        name: str,
        machine: Machine,
        cluster: Cluster,
        backups: Making,
        fetch: Fetch,
        leads: Callable[[], Awaitable[bool]],
        clock: Clock = wall_clock,
    ) -> None:
        """`fetch` reads the update of an appliance, reached at the agents' addresses given."""
        self._store = store
        self._name = name
        self._machine = machine
        self._cluster = cluster
        self._backups = backups
        self._fetch = fetch
        self._leads = leads
        self._clock = clock
        self._journal = Journal(clock)
        self._keeping = asyncio.Lock()
        self._refused: tuple[str, CairnError] | None = None  # the wish, and why

    async def state(self) -> State:
        """Return what is under way and how all machines stand."""
        plan = await read(self._store, records.update_plans, keys.UPDATE)
        return State(plan.value if plan else None, await self._reports())

    async def keep(self, chunks: AsyncIterator[bytes], by: Actor) -> Head:
        """Keep an update that somebody brings; raise UpdateUnusable, UpdateRefused."""
        if self._machine.standing() is None:
            raise UpdateRefused(f"{self._name} does not run from the image", _NO_IMAGE)
        if self._keeping.locked():
            raise UpdateRefused("an update is being uploaded already", "wait for its end")
        async with self._keeping:
            await self._check_over()
            # Again at the end: others would get another file than the one that was started.
            head = await self._machine.keep(chunks, self._check_over)
        text = f"the update {head.version} was uploaded to {self._name}"
        entry = self._journal.entry("update_uploaded", text, by, version=head.version)
        await self._store.commit([], [entry])
        await self._tell()
        return head

    def open(self) -> Kept:
        """Return the update that lies here, for another appliance; raise NotFound."""
        return self._machine.open()

    async def start(self, action: Action, by: Actor, version: str = "") -> State:
        """Begin with an update, or the way back; raise UpdateRefused.

        `version` is of an update that was uploaded; empty: the newest.
        """
        await self._tell()
        await until_committed(lambda: self._start(action, by, version))
        return await self.state()

    async def run(self) -> None:
        """Do what is this appliance's part, until cancelled."""
        while True:
            try:
                await self.look()
            except (StoreError, CairnError) as error:
                log.warning("updates were put off reason=%s", error)
            await asyncio.sleep(LOOKED_AT_EVERY_S * random.uniform(0.8, 1.2))

    async def look(self) -> None:
        """Look once, and do what is due."""
        await self._tell()
        found = await read(self._store, records.update_plans, keys.UPDATE)
        if found is None:
            return
        plan = found.value
        if plan.is_over:
            await self._tidy(plan)
            return
        if plan.asks(self._name):
            await self._serve(plan)
        if await self._leads():
            await self._conduct(plan, found.revision)

    async def _start(self, action: Action, by: Actor, version: str) -> None:
        before = await read(self._store, records.update_plans, keys.UPDATE)
        _check_over(before)
        view, now = await self._cluster.view(), self._clock()
        names = {each.name for each in view.seen}
        reports = {k: v for k, v in (await self._reports()).items() if k in names}
        plan = Plan(secrets.token_hex(8), action, "", started_by=by.name, started_at=now, since=now)
        if action is Action.INSTALL:
            plan = self._with_bundle(plan, reports, version)
        else:
            plan = replace(plan, version=version_back(reports))
        hindered = hindrance(plan, view, reports)
        if hindered is not None:
            raise UpdateRefused(*hindered)
        text = f"{_described(plan)} of all appliances to {plan.version} was started"
        entry = self._journal.entry(
            "update_started", text, by, severity=Severity.WARNING, version=plan.version
        )
        put = Put(keys.UPDATE, records.update_plans.encode(plan))
        compare = Compare(keys.UPDATE, before.revision if before else 0)
        await self._store.commit([compare], [put, entry])

    def _with_bundle(self, plan: Plan, reports: Mapping[str, Report], version: str) -> Plan:
        """Take an update that lies on any appliance, best the one that lies here."""
        newest = newest_uploaded(reports)
        if not newest:
            raise UpdateRefused(
                "no update lies on any appliance", "`cairn cluster update upload FILE`"
            )
        version = version or newest
        having = [each for each in reports.values() if each.bundle_version == version]
        if not having:
            raise UpdateRefused(
                f"the update {version} lies on no appliance any more",
                f"the newest there is {newest}: start that, or upload the other again",
            )
        chosen = min(having, key=lambda each: (each.name != self._name, each.name))
        return replace(
            plan, version=chosen.bundle_version, bundle=chosen.bundle, source=chosen.name
        )

    async def _reports(self) -> dict[str, Report]:
        found = await read_all(self._store, records.update_reports, keys.UPDATES)
        return {each.value.name: each.value for each in found}

    async def _tell(self) -> None:
        """Write down how the machine here stands, where that has changed."""
        standing = self._machine.standing()
        if standing is None:
            return
        head = await asyncio.to_thread(self._machine.bundle)
        report = Report(self._name, standing)
        if head is not None:
            report = replace(report, bundle=head.digest, bundle_version=head.version)
        if self._refused is not None:
            wish, error = self._refused
            report = replace(report, refused=wish, cause=error.cause, remedy=error.remedy)
        octets = records.update_reports.encode(report)
        item = await self._store.get(keys.update(self._name))
        if item is None or item.value != octets:
            await self._store.commit([], [Put(keys.update(self._name), octets)])

    async def _serve(self, plan: Plan) -> None:
        """Have the machine do its part, once."""
        standing = self._machine.standing()
        if standing is None or standing.wish == plan.id:
            return
        if self._refused is not None and self._refused[0] == plan.id:
            return
        try:
            if plan.action is Action.INSTALL:
                await self._bring(plan)
            self._machine.ask(Wish(plan.id, plan.action))
        except Unavailable as error:
            log.warning("the update is not here yet reason=%s", error.cause)
        except CairnError as error:
            self._refused = plan.id, error
            await self._tell()

    async def _bring(self, plan: Plan) -> None:
        """Have the update of the plan here."""
        head = await asyncio.to_thread(self._machine.bundle)
        if head is not None and head.digest == plan.bundle:
            return
        known = await read_all(self._store, records.appliances, keys.APPLIANCES)
        places = _places(plan.source, [each.value for each in known])
        log.info("the update is fetched from appliance=%s", plan.source)
        if self._keeping.locked():
            raise Unavailable("another one is being uploaded here")
        try:
            async with (
                self._keeping,
                asyncio.timeout(_FETCHED_WITHIN_S),
                aclosing(self._fetch(places)) as chunks,
            ):
                head = await self._machine.keep(chunks)
        except TimeoutError as error:
            raise Unavailable("the update did not come in time") from error
        if head.digest != plan.bundle:
            raise UpdateRefused(
                f"{plan.source} has another update than the one that was started",
                "upload it again, and start it again",
            )

    async def _check_over(self) -> None:
        _check_over(await read(self._store, records.update_plans, keys.UPDATE))

    async def _conduct(self, plan: Plan, revision: int) -> None:
        if plan.phase is Phase.BACKUP:
            following = await self._backed_up(plan)
        else:
            view = await self._cluster.view()
            following = advance(plan, view, await self._reports(), self._clock())
        if following == plan:
            return
        put = Put(keys.UPDATE, records.update_plans.encode(following))
        entry = _entry(self._journal, plan, following)
        try:
            await self._store.commit([Compare(keys.UPDATE, revision)], [put, *entry])
        except Conflict:
            return  # another one conducts by now
        log.info("update phase=%s current=%s", following.phase, following.current or "-")

    async def _backed_up(self, plan: Plan) -> Plan:
        now = self._clock()
        reason = f"before {_described(plan)} to {plan.version}"
        try:
            await self._backups.create(SYSTEM, reason)
        except BackupFailed as error:
            return plan.stopped(f"no backup could be made: {error.cause}", error.remedy, now)
        except Clash as error:
            if error.code != "no_recovery_key":
                return plan  # one is being made: then the next
            log.warning("no backup %s: there is no recovery key to seal it for", reason)
        return plan.backed_up(self._clock())

    async def _tidy(self, plan: Plan) -> None:
        """Give the room back to the store once all run what came with it, or a later one."""
        if plan.phase is not Phase.DONE or plan.action is not Action.INSTALL:
            return
        head = await asyncio.to_thread(self._machine.bundle)
        if head is None or self._keeping.locked():
            return
        wanted, told = version_of(head.version), (await self._reports()).values()
        if all(version_of(each.standing.version) >= wanted for each in told):
            self._machine.remove()


def _check_over(found: Stored[Plan] | None) -> None:
    if found is not None and not found.value.is_over:
        raise UpdateRefused("an update of the cluster is under way")


def _described(plan: Plan) -> str:
    return "the update" if plan.action is Action.INSTALL else "the way back"


def _places(name: str, appliances: Sequence[Appliance]) -> list[str]:
    return [place for each in appliances if each.name == name for place in each.agents]


def _entry(journal: Journal, before: Plan, plan: Plan) -> list[Put]:
    """Return the event of a step that people want to know of."""
    severity = Severity.INFO
    if plan.phase is Phase.STOPPED:
        kind, severity = "update_stopped", Severity.ALARM
        text = f"the update of the appliances stopped: {plan.cause}"
    elif plan.phase is Phase.DONE:
        kind, text = "update_done", "the update of all appliances is done"
    elif plan.current and plan.current != before.current:
        kind, text = "appliance_updating", f"{plan.current} is updated now"
    elif len(plan.done) > len(before.done):
        kind, text = "appliance_updated", f"{plan.done[-1]} is updated"
    else:
        return []
    details = {"version": plan.version, "remedy": plan.remedy}
    told = {name: value for name, value in details.items() if value}
    return [journal.entry(kind, text, SYSTEM, severity=severity, **told)]
