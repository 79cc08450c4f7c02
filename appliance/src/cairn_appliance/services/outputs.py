"""Tells receivers outside of events, at least once and in order, through every failure.

One replica sends: the one that has put its name into the store under its lease. How far each
receiver has been told lies in the store as well, written after it was told; so whoever takes
over tells a little again and leaves nothing out. Events carry an ID by which a receiver knows
what it has already. A receiver that fails holds up nobody but itself: its events wait in the
store, where they lie anyway.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import random
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from cairn_appliance.domain.errors import Invalid, NotFound
from cairn_appliance.domain.event import Event, Severity
from cairn_appliance.domain.identity import SYSTEM, Actor
from cairn_appliance.domain.output import (
    RECEIVERS_MAX,
    REFUSALS_TO_SKIP,
    SKIPPED_AFTER_S,
    Delivery,
    Position,
    Receiver,
    Receivers,
    Webhook,
    problem_of,
    wants,
)
from cairn_appliance.domain.problem import Problem
from cairn_appliance.pki.sealing import Sealer
from cairn_appliance.services.backlog import LOOKED_AFTER_S, Backlog
from cairn_appliance.services.clock import Clock, wall_clock
from cairn_appliance.services.events import Journal
from cairn_appliance.services.receivers import (
    WITHIN_S,
    ContentRefused,
    Line,
    Lines,
    NotDelivered,
    secret_name,
)
from cairn_appliance.services.stored import Stored, read
from cairn_appliance.store import keys, records
from cairn_appliance.store.port import (
    Compare,
    Conflict,
    Delete,
    Events,
    Item,
    Lease,
    Put,
    Reset,
    Store,
    StoreError,
)

log = logging.getLogger(__name__)

LEASE_S = 10
_TURN_S = 2.0
_SAVED_EVERY_S = 1.0
_FAILURE_SAVED_EVERY_S = 20.0
_AGAIN_S, _AGAIN_MAX_S = 0.5, 60.0
_CLOSE_S = 1.0
_TEST_WITHIN_S = WITHIN_S + 1.0


@dataclass(frozen=True, slots=True)
class Tried:
    """How a test of a receiver went; `error` is empty where it took it."""

    receiver: str
    error: str = ""


class Gone(Exception):
    """The receiver is no more, or another replica sends."""


class Outputs:
    """The receivers, and what is sent to them from this replica when it is its turn."""

    def __init__(
        self,
        store: Store,
        sealer: Sealer,
        journal: Journal,
        lines: Lines,
        replica: str,
        clock: Clock = wall_clock,
        lease_s: int = LEASE_S,
    ) -> None:
        self._store = store
        self._sealer = sealer
        self._journal = journal
        self._lines = lines
        self._replica = replica
        self._clock = clock
        self._lease_s = lease_s
        self.backlog = Backlog(store)
        self._receivers = Receivers()
        self._deliveries: dict[str, Delivery] = {}
        self._sender = ""
        self._changed = asyncio.Event()
        self.sent = 0  # by this replica

    async def run(self) -> None:
        """Follow settings and events, and send when it is this replica's turn."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.backlog.run(), name="follow events")
            tasks.create_task(self._follow(), name="follow receivers of events")
            tasks.create_task(self._take_turns(), name="send events")

    @property
    def sends(self) -> bool:
        """True while this replica is the one that sends."""
        return self._sender == self._replica

    def states(self) -> list[tuple[Receiver, Delivery]]:
        """Return each receiver with how far it has been told, as seen here."""
        return [
            (each, self._deliveries.get(each.id, Delivery(each.id, Position(0))))
            for each in self._receivers.all
        ]

    def problems(self) -> tuple[Problem, ...]:
        """Return what is wrong with receivers; from memory."""
        return tuple(problem for _, problem in self.problems_by_receiver())

    def problems_by_receiver(self) -> list[tuple[Receiver, Problem]]:
        """Return the same, with whose problem it is."""
        now = self._clock()
        return [
            (receiver, problem_of(receiver, delivery))
            for receiver, delivery in self.states()
            if delivery.fails(now) or delivery.leaves_out(now)
        ]

    async def get(self) -> Stored[Receivers]:
        """Return the receivers; at revision 0 none was ever set."""
        stored = await read(self._store, records.receivers, keys.RECEIVERS)
        return stored or Stored(Receivers(), 0)

    async def deliveries(self) -> Mapping[str, Delivery]:
        """Return how far each has been told."""
        items = (await self._store.list(keys.DELIVERIES)).items
        found = records.deliveries.decode_all(items, records.quarantine)
        return {each.receiver: each for each in found}

    async def set(
        self,
        wanted: Receivers,
        secrets: Mapping[str, str],
        by: Actor,
        *,
        expected: int | None = None,
    ) -> Stored[Receivers]:
        """Replace all receivers; `secrets` has those that are new, by ID. Raise Invalid, Changed.

        A new one is told from now on; one that has left is forgotten.
        """
        if len(wanted.all) > RECEIVERS_MAX:
            raise Invalid(f"there are at most {RECEIVERS_MAX} receivers of events")
        ids = [each.id for each in wanted.all]
        if len(set(ids)) != len(ids):
            raise Invalid("two receivers have the same ID", "leave the ID of a new one out")
        current = await self.get()
        sealed = {each.id: each.secret for each in current.value.webhooks}
        webhooks = tuple(self._with_secret(each, secrets, sealed) for each in wanted.webhooks)
        value = replace(wanted, webhooks=webhooks)
        listing = await self._store.list(keys.DELIVERIES)
        known = {keys.last_part(item.key) for item in listing.items}
        began = Position(listing.revision + 1)
        fresh = [Delivery(each, began) for each in ids if each not in known]
        writes: list[Put | Delete] = [
            Put(keys.delivery(each.receiver), records.deliveries.encode(each)) for each in fresh
        ]
        writes += [Delete(keys.delivery(each)) for each in sorted(known - set(ids))]
        places = ", ".join(each.place for each in value.all) or "nobody"
        text = f"events are told to {places} from now on"
        entry = self._journal.entry("event_outputs_changed", text, by, severity=Severity.WARNING)
        put = Put(keys.RECEIVERS, records.receivers.encode(value))
        revision = current.revision if expected is None else expected
        await self._store.commit([Compare(keys.RECEIVERS, revision)], [put, *writes, entry])
        return await self.get()

    async def test(self, receiver_id: str, by: Actor) -> Sequence[Tried]:
        """Send a test to one receiver, or to all; raise NotFound."""
        receivers = (await self.get()).value.all
        chosen = [each for each in receivers if receiver_id in ("", each.id)]
        if not chosen:
            raise NotFound("there is no such receiver of events", "cairn event-output list")
        now = self._clock()
        event = Event(f"{int(now * 1000):014d}-test", "test", "This is a test of Cairn.", now, by)
        return await asyncio.gather(*(self._try(each, event) for each in chosen))

    async def _try(self, receiver: Receiver, event: Event) -> Tried:
        line = self._lines(receiver)
        try:
            async with asyncio.timeout(_TEST_WITHIN_S):
                await line.send(event)
        except NotDelivered as error:
            return Tried(receiver.id, str(error))
        except TimeoutError:
            return Tried(receiver.id, "no answer in time")
        finally:
            await line.close()
        return Tried(receiver.id)

    def _with_secret(
        self, webhook: Webhook, secrets: Mapping[str, str], sealed: Mapping[str, str]
    ) -> Webhook:
        secret = secrets.get(webhook.id, "")
        if secret:
            octets = self._sealer.seal(secret_name(webhook.id), secret.encode())
            return replace(webhook, secret=base64.b64encode(octets).decode())
        if webhook.id not in sealed:
            raise Invalid(
                f"the webhook {webhook.id} has no secret to sign with",
                "give it one of 16 characters or more, which the receiver knows too",
                code="secret_required",
            )
        return replace(webhook, secret=sealed[webhook.id])

    async def _follow(self) -> None:
        async with aclosing(self._store.follow(keys.OUTPUTS)) as changes:
            async for change in changes:
                match change:
                    case Reset(items=items):
                        self._receivers, self._sender = Receivers(), ""
                        self._deliveries.clear()
                        for item in items:
                            self._put(item)
                    case Events(puts_and_deletes=writes):
                        for write in writes:
                            if isinstance(write, Item):
                                self._put(write)
                            else:
                                self._forget(write.key)
                    case _:
                        continue
                self._changed.set()

    def _put(self, item: Item) -> None:
        if item.key == keys.SENDER:
            self._sender = item.value.decode(errors="replace")
        elif item.key == keys.RECEIVERS:
            for value in records.receivers.decode_all([item], records.quarantine):
                self._receivers = value
        else:
            for delivery in records.deliveries.decode_all([item], records.quarantine):
                self._deliveries[delivery.receiver] = delivery

    def _forget(self, key: str) -> None:
        if key == keys.SENDER:
            self._sender = ""
        elif key == keys.RECEIVERS:
            self._receivers = Receivers()
        else:
            self._deliveries.pop(keys.last_part(key), None)

    async def _take_turns(self) -> None:
        while True:
            if self._receivers.all and not self._sender:
                try:
                    await self._send_under_lease()
                except StoreError as error:
                    log.warning("events are not sent from here now reason=%s", error)
            await asyncio.sleep(_TURN_S * random.uniform(0.25, 1.0))

    async def _send_under_lease(self) -> None:
        lease = await self._store.lease(self._lease_s)
        try:
            mine = Put(keys.SENDER, self._replica.encode(), lease.id)
            try:
                await self._store.commit([Compare(keys.SENDER, 0)], [mine])
            except Conflict:
                return
            log.info("events are sent from here")
            await self._serve(lease)
        finally:
            await _close(lease)

    async def _serve(self, lease: Lease) -> None:
        """Have a task for each receiver, while the lease lasts and there is one."""
        working: dict[str, tuple[Receiver, asyncio.Task[None]]] = {}
        async with asyncio.TaskGroup() as tasks:
            while not lease.is_lost and self._receivers.all:
                self._changed.clear()
                wanted = {each.id: each for each in self._receivers.all}
                for receiver_id, (receiver, task) in list(working.items()):
                    if wanted.get(receiver_id) != receiver or task.done():
                        task.cancel()
                        await asyncio.wait({task})
                        del working[receiver_id]
                for receiver in wanted.values():
                    if receiver.id not in working:
                        name = f"send events to {receiver.id}"
                        task = tasks.create_task(self._keep_sending(receiver), name=name)
                        working[receiver.id] = receiver, task
                await self._wait_for_change()
            for _, task in working.values():
                task.cancel()

    async def _wait_for_change(self) -> None:
        try:
            async with asyncio.timeout(_TURN_S):
                await self._changed.wait()
        except TimeoutError:
            return

    async def _keep_sending(self, receiver: Receiver) -> None:
        """Send what the receiver wants, until cancelled or it is no more."""
        worker = Worker(self, self._store, self._journal, receiver, self._lines(receiver))
        try:
            while True:
                try:
                    await worker.send()
                except StoreError as error:
                    log.info("what to send can't be read or noted now reason=%s", error)
                    await asyncio.sleep(random.uniform(0.5, 1.0) * _TURN_S)
        except Gone:
            log.info("a receiver of events is no more id=%s", receiver.id)
        finally:
            await worker.close()

    def now(self) -> float:
        """Return the time."""
        return self._clock()


class Worker:
    """Sends to one receiver and notes how far it is."""

    def __init__(
        self, outputs: Outputs, store: Store, journal: Journal, receiver: Receiver, line: Line
    ) -> None:
        self._outputs = outputs
        self._store = store
        self._journal = journal
        self._receiver = receiver
        self._line = line
        self._known: Stored[Delivery] | None = None
        self._saved_at = 0.0

    async def send(self) -> None:
        """Send all there is after what was sent, for ever; raise StoreError, Gone."""
        self._known = await read(self._store, records.deliveries, keys.delivery(self._receiver.id))
        if self._known is None:
            raise Gone
        delivery = self._known.value
        backlog = self._outputs.backlog
        while True:
            seen = backlog.newest
            for event in await backlog.after(delivery.position):
                if wants(self._receiver, event):
                    delivery = await self._deliver(event, delivery)
                delivery = replace(delivery, position=Position.of(event))
                if self._is_due(_SAVED_EVERY_S):
                    await self._save(delivery)
            is_saved = delivery == self._known.value
            await backlog.wait(seen, LOOKED_AFTER_S if is_saved else _SAVED_EVERY_S)
            if self._is_due(_SAVED_EVERY_S):
                await self._save(delivery)

    async def close(self) -> None:
        """Close the line."""
        await self._line.close()

    async def _deliver(self, event: Event, delivery: Delivery) -> Delivery:
        """Try until the receiver has it, ever more seldom, or has refused this one for long."""
        again_s = _AGAIN_S
        refusals, refused_since = 0, 0.0
        while True:
            try:
                await self._line.send(event)
            except NotDelivered as error:
                now = self._outputs.now()
                is_refusal = isinstance(error, ContentRefused)
                refusals = refusals + 1 if is_refusal else 0
                refused_since = now if refusals <= 1 else refused_since
                if refusals >= REFUSALS_TO_SKIP and now - refused_since >= SKIPPED_AFTER_S:
                    return await self._leave_out(delivery, event, str(error))
                delivery = await self._note_failure(delivery, str(error))
            else:
                self._outputs.sent += 1
                return await self._note_success(delivery)
            await asyncio.sleep(random.uniform(0.5, 1.0) * again_s)
            again_s = min(2 * again_s, _AGAIN_MAX_S)

    async def _note_failure(self, delivery: Delivery, error: str) -> Delivery:
        now = self._outputs.now()
        is_first = not delivery.failing_since
        delivery = delivery.failed(now, error)
        tell = delivery.fails(now) and not delivery.is_told
        if is_first:
            log.warning("a receiver does not take events id=%s reason=%s", self._receiver.id, error)
        if tell:
            delivery = replace(delivery, is_told=True)
            text = f"events don't reach {self._receiver.place}: {delivery.last_error}"
            await self._save(delivery, self._entry("receiver_fails", text, Severity.WARNING))
        elif is_first or self._is_due(_FAILURE_SAVED_EVERY_S):
            await self._save(delivery)
        return delivery

    async def _leave_out(self, delivery: Delivery, event: Event, error: str) -> Delivery:
        """Go on without an event that is refused again and again; say so."""
        delivery = delivery.left_out(self._outputs.now(), event, error)
        delivery = replace(delivery, position=Position.of(event))
        text = (
            f"{self._receiver.place} refuses the event {event.id} ({event.kind}) again and again: "
            f"{error}; it is left out"
        )
        await self._save(delivery, self._entry("event_left_out", text, Severity.WARNING))
        return delivery

    async def _note_success(self, delivery: Delivery) -> Delivery:
        if not delivery.failing_since:
            return delivery.went(self._outputs.now())
        told = delivery.is_told
        delivery = delivery.went(self._outputs.now())
        log.info("a receiver takes events again id=%s", self._receiver.id)
        text = f"events reach {self._receiver.place} again"
        entry = self._entry("receiver_works", text, Severity.INFO) if told else None
        await self._save(delivery, entry)
        return delivery

    def _entry(self, kind: str, text: str, severity: Severity) -> Put:
        return self._journal.entry(
            kind, text, SYSTEM, severity=severity, receiver=self._receiver.id
        )

    def _is_due(self, every_s: float) -> bool:
        return asyncio.get_running_loop().time() - self._saved_at >= every_s

    async def _save(self, delivery: Delivery, entry: Put | None = None) -> None:
        """Write how far it is; raise Gone where the receiver left or another one writes."""
        if self._known is None or delivery == self._known.value:
            return
        key = keys.delivery(self._receiver.id)
        put = Put(key, records.deliveries.encode(delivery))
        writes = [put] if entry is None else [put, entry]
        try:
            revision = await self._store.commit([Compare(key, self._known.revision)], writes)
        except Conflict as error:
            raise Gone from error
        self._known = Stored(delivery, revision)
        self._saved_at = asyncio.get_running_loop().time()


async def _close(lease: Lease) -> None:
    try:
        async with asyncio.timeout(_CLOSE_S):
            await lease.close()
    except (StoreError, TimeoutError) as error:
        log.info("the right to send will expire by itself reason=%s", error)
