"""After a restore: nodes say what the cluster had told them, before it tells them anything.

Theory of operation. The appliance that was restored listens for a while, and refuses all else
(`restoring`): agents go on with the netmap that they have. Each agent says which documents it
holds; the newest of each vSubnet is shown once, by one of them, and taken over at the end
(absorption.py). Documents are signed by the cluster's own key, so nobody is believed but the
cluster itself, whoever brings them. Then it serves, and what agents get is what they have.

Who comes later (its site was cut off meanwhile) says first what it holds as well, for as long
as a node may be without an appliance; then documents add what is free and take away nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import replace

from cairn_agent.protocol.reassertion import ReassertedVSubnet, ReassertRequest

from cairn_appliance.domain.errors import CairnError, Invalid, NodeRemoved, Restoring
from cairn_appliance.domain.event import Severity
from cairn_appliance.domain.identity import SYSTEM
from cairn_appliance.domain.restored import Restored
from cairn_appliance.netmap.document import Checker, NodeDocument, Order, VSubnetDocument
from cairn_appliance.netmap.netmaps import Netmaps
from cairn_appliance.netmap.render import is_approved
from cairn_appliance.pki.authority import BACKDATE
from cairn_appliance.services.absorption import Absorption, NodeKeys, Report
from cairn_appliance.services.directory import living_node
from cairn_appliance.services.enrolment import checked_data_key
from cairn_appliance.services.events import Journal
from cairn_appliance.services.restoration import Restoration
from cairn_appliance.services.stored import read
from cairn_appliance.store import keys, records
from cairn_appliance.store.port import Compare, Conflict, Put, Store, StoreError

log = logging.getLogger(__name__)

_LOOKED_AT_EVERY_S = 0.2
_AT_LEAST_S = 3.0  # listened, also where everybody who is known has come
_ASKED_AGAIN_S = 3.0  # for a document that was asked for and has not come
_FOLLOWED_EVERY_S = 2.0  # by replicas that don't absorb themselves
_AGAIN_S = 1.0
_NAMED_MAX = 20


class Reassertions:
    """What nodes say after a restore, on one replica."""

    def __init__(
        self,
        store: Store,
        restoration: Restoration,
        absorption: Absorption,
        checker: Checker,
        netmaps: Netmaps,
        journal: Journal,
        replica: str,
    ) -> None:
        self._store = store
        self._restoration = restoration
        self._absorption = absorption
        self._checker = checker
        self._netmaps = netmaps
        self._journal = journal
        self._replica = replica
        self._heard: set[str] = set()
        self._nodes: dict[str, NodeDocument] = {}
        self._keys: dict[str, NodeKeys] = {}  # of those that came
        self._documents: dict[int, VSubnetDocument] = {}  # newest, by VNI
        self._asked: dict[int, tuple[Order, float]] = {}  # by VNI: what was asked for, and when
        self._unchanged: dict[int, Order] = {}  # VNIs of which nothing happened after the data
        self._turn = asyncio.Lock()

    async def run(self) -> None:
        """Listen and take over, where that is this replica's; follow how far it is otherwise."""
        restored = self._restoration.restored
        is_own = restored is not None and restored.appliance == self._replica
        if restored is not None and is_own and self._restoration.is_absorbing:
            await self._listen(restored)
            await self._until_absorbed()
        while self._restoration.takes_reassertions:
            await asyncio.sleep(_FOLLOWED_EVERY_S if self._restoration.is_absorbing else 60.0)
            try:
                await self._restoration.load()
            except StoreError as error:
                log.warning("how far the restore is could not be read reason=%s", error)

    async def check(self, node_id: str, issued_at: float) -> None:
        """Raise Restoring where the node has to say first what it holds.

        `issued_at` is when its certificate begins: a node that the data don't know can
        have enrolled only after them.
        """
        self._restoration.check_open()
        restored = self._restoration.restored
        if restored is None or not self._restoration.takes_reassertions:
            return
        if node_id in self._netmaps.snapshot.nodes or await self._store.get(keys.node(node_id)):
            return
        if issued_at >= restored.made_at - 2 * BACKDATE.total_seconds():
            raise Restoring("the node enrolled in the time that the cluster has lost")

    def heard(self, node_id: str) -> None:
        """Note that a node has come that has nothing to say."""
        self._heard.add(node_id)

    def wants(self, incarnation: int) -> bool:
        """Return whether a node that holds a netmap of this incarnation has to show it."""
        restored = self._restoration.restored
        return (
            restored is not None
            and self._restoration.takes_reassertions
            and 0 < incarnation < restored.incarnation
        )

    async def take(
        self, node_id: str, control_key: str, issued_at: float, request: ReassertRequest
    ) -> list[int]:
        """Note what a node holds; return the VNIs of the documents that it is to show.

        Raises Invalid for what the cluster has not signed, NodeRemoved.
        """
        restored = self._restoration.restored
        if restored is None or not self.wants(request.incarnation):
            return []
        held = self._checker.node(request.incarnation, node_id, request.node)
        own = NodeKeys(control_key, checked_data_key(request.data_public_key))
        await self._check_may(node_id, issued_at)
        offered = {
            vni: (request.incarnation, request.vsubnets.get(str(vni), 0))
            for vni in held.document.vnis
        }
        if not self._restoration.is_absorbing:
            async with self._turn:
                await self._absorption.adopt(held, own, Report())
            return [vni for vni, order in offered.items() if await self._is_news(vni, order)]
        self._heard.add(node_id)
        self._keys[node_id] = own
        self._nodes[node_id] = max(held, self._nodes.get(node_id, held), key=_order)
        return [
            vni
            for vni, order in offered.items()
            if self._asks(restored, vni, order, (request.incarnation, request.revision))
        ]

    async def take_vsubnet(self, node_id: str, issued_at: float, shown: ReassertedVSubnet) -> None:
        """Take a document that was asked for; raise Invalid, NodeRemoved."""
        if not self.wants(shown.incarnation):
            return
        document = self._checker.vsubnet(shown.incarnation, shown.document)
        if node_id not in {member.node_id for member in document.members}:
            raise Invalid("the node is no member of the vSubnet that it shows")
        await self._check_may(node_id, issued_at)
        vni = document.header.vni
        if self._restoration.is_absorbing:
            known = self._documents.get(vni)
            if known is None or document.order > known.order:
                self._documents[vni] = document
            return
        async with self._turn:
            if await self._is_news(vni, document.order):
                await self._take_late(document)

    async def _check_may(self, node_id: str, issued_at: float) -> None:
        """Raise NodeRemoved for one that was no node as of the data, or is none now."""
        restored = self._restoration.restored
        if await self._store.get(keys.node(node_id)):
            await living_node(self._store, node_id)
        elif restored and issued_at < restored.made_at - 2 * BACKDATE.total_seconds():
            raise NodeRemoved("this cluster does not know the node")

    def _asks(self, restored: Restored, vni: int, order: Order, in_sync: Order) -> bool:
        """Return whether this node is the one to show a document."""
        if not restored.is_later(*order):
            if restored.is_reached(*in_sync):
                self._unchanged[vni] = (order[0], restored.base_revision)
            return False
        known = self._documents.get(vni)
        if known is not None and known.order >= order:
            return False
        now = time.monotonic()
        asked, at = self._asked.get(vni, ((0, 0), 0.0))
        if asked >= order and now - at < _ASKED_AGAIN_S:
            return False
        self._asked[vni] = (order, now)
        return True

    async def _listen(self, restored: Restored) -> None:
        """Return when everybody who is known has come, or when it has been long enough."""
        begun = time.monotonic()
        log.warning(
            "%s: listening to nodes for up to %.0f s base_revision=%d",
            restored.how,
            restored.absorb_s,
            restored.base_revision,
        )
        while (passed_s := time.monotonic() - begun) < restored.absorb_s:
            await asyncio.sleep(_LOOKED_AT_EVERY_S)
            is_enough = passed_s >= min(_AT_LEAST_S, restored.absorb_s)
            if is_enough and self._netmaps.revision and not self._missing() and self._has_all():
                break
        log.info("listened to nodes heard=%d documents=%d", len(self._heard), len(self._documents))

    def _missing(self) -> set[str]:
        """Return the nodes that are members by what is known, and have not come."""
        snapshot = self._netmaps.snapshot
        expected: set[str] = set()
        for vsubnet in snapshot.vsubnets.values():
            if vsubnet.vni not in self._documents:
                members = snapshot.members_of(vsubnet.id)
                expected.update(each for each in members if is_approved(snapshot.nodes.get(each)))
        for document in self._documents.values():
            expected.update(member.node_id for member in document.members)
        return expected - self._heard

    def _has_all(self) -> bool:
        """Return whether every document that was asked for has come."""
        return all(
            vni in self._documents and self._documents[vni].order >= order
            for vni, (order, _) in self._asked.items()
        )

    async def _until_absorbed(self) -> None:
        """Take everything over; what the store refuses is tried again, nothing is served before."""
        while True:
            try:
                await self._absorb()
            except (StoreError, CairnError) as error:
                log.warning("what nodes said could not be taken over yet reason=%s", error)
                await asyncio.sleep(_AGAIN_S)
            else:
                return

    async def _absorb(self) -> None:
        report, absorbed = Report(), dict[str, Order]()
        documents = sorted(self._documents.values(), key=_order)
        for document in documents:
            vsubnet_id = await self._absorption.take(document, self._keys, report)
            absorbed[vsubnet_id] = document.order
        for document, vsubnet_id in zip(documents, list(absorbed), strict=True):
            await self._absorption.take_out(vsubnet_id, document, report)
        for node_id, held in self._nodes.items():
            await self._absorption.adopt(held, self._keys[node_id], report)
        for vni, order in self._unchanged.items():
            item = await self._store.get(keys.vni(vni))
            if item is not None:
                absorbed.setdefault(item.value.decode(), order)
        await self._conclude(report, absorbed)

    async def _conclude(self, report: Report, absorbed: Mapping[str, Order]) -> None:
        found = await read(self._store, records.restored, keys.RESTORED)
        assert found is not None  # it was there when this began, and nobody deletes it
        places = (await self._store.list(keys.VSUBNETS)).items
        unheard = {keys.last_part(item.key) for item in places} - absorbed.keys()
        restored = replace(
            found.value,
            is_absorbed=True,
            absorbed=dict(absorbed),
            unheard=tuple(sorted(unheard)),
        )
        names = {m.node_id: m.name for held in self._documents.values() for m in held.members}
        unseen = {names.get(node_id) or self._name(node_id) for node_id in self._missing()}
        missing = sorted(unseen - set(report.set_aside))
        entry = self._journal.entry(
            "restore_absorbed",
            f"nodes told what happened in the time that is lost: {len(report.vsubnets)} vSubnets, "
            f"{len(report.nodes)} nodes and {report.attached} memberships came back, "
            f"{report.detached} ended; {len(missing)} nodes have not been seen",
            SYSTEM,
            severity=Severity.WARNING if missing or report.set_aside else Severity.INFO,
            made=_named(report.vsubnets + report.nodes),
            waiting=_named(report.set_aside),
            not_seen=_named(missing),
        )
        put = Put(keys.RESTORED, records.restored.encode(restored))
        await self._store.commit([Compare(keys.RESTORED, found.revision)], [put, entry])
        self._restoration.restored = restored
        self._documents.clear()
        self._nodes.clear()
        log.warning("restored: the cluster serves again nodes=%d missing=%d",
                    len(self._heard), len(missing))  # fmt: skip

    def _name(self, node_id: str) -> str:
        node = self._netmaps.snapshot.nodes.get(node_id)
        return node.name if node else node_id

    async def _is_news(self, vni: int, order: Order) -> bool:
        """Return whether a document says more than what was taken over of its vSubnet."""
        restored = self._restoration.restored
        if restored is None or not restored.is_later(*order):
            return False
        item = await self._store.get(keys.vni(vni))
        known = restored.absorbed.get(item.value.decode()) if item else None
        return known is None or order > tuple(known)

    async def _take_late(self, document: VSubnetDocument) -> None:
        item = await self._store.get(keys.vni(document.header.vni))
        restored = self._restoration.restored
        is_first = restored is not None and (
            item is None or item.value.decode() not in restored.absorbed
        )
        report = Report()
        vsubnet_id = await self._absorption.take(
            document, self._keys, report, is_late=True, takes_header=is_first
        )
        log.info("a document came late vni=%d attached=%d conflicts=%d",
                 document.header.vni, report.attached, report.conflicts)  # fmt: skip
        while True:
            found = await read(self._store, records.restored, keys.RESTORED)
            if found is None:
                return
            absorbed = {**found.value.absorbed, vsubnet_id: document.order}
            unheard = tuple(each for each in found.value.unheard if each != vsubnet_id)
            restored = replace(found.value, absorbed=absorbed, unheard=unheard)
            put = Put(keys.RESTORED, records.restored.encode(restored))
            try:
                await self._store.commit([Compare(keys.RESTORED, found.revision)], [put])
            except Conflict:
                continue
            self._restoration.restored = restored
            return


def _order(held: NodeDocument | VSubnetDocument) -> Order:
    return held.order


def _named(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED_MAX} more" if len(names) > _NAMED_MAX else ""
    return ", ".join(sorted(names)[:_NAMED_MAX]) + more
