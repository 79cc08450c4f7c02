"""This appliance's own place among the members of etcd, kept up while it runs."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from cairn_appliance.cluster.bootstrap import Local
from cairn_appliance.cluster.errors import LocalStateUnusable, RemovedFromCluster
from cairn_appliance.cluster.members import EtcdMembers
from cairn_appliance.domain.cluster import EtcdMember
from cairn_appliance.domain.errors import CairnError
from cairn_appliance.store.connection import Endpoints
from cairn_appliance.store.port import StoreError

log = logging.getLogger(__name__)

_LOOKED_AT_EVERY_S = 2.0
_PROMOTED_EVERY_S = 0.5  # while it has no vote
_WELL_LOOKS = 3  # in a row, before the store goes back to the own etcd after a failure


class OwnMember:
    """Gets the vote, keeps the address right, follows who the others are, and has the store use
    the own etcd where that is well: not where it failed, or waits for a slow disk."""

    def __init__(
        self,
        local: Local,
        etcd: EtcdMembers,
        endpoints: Endpoints,
        joined: Callable[[str], Awaitable[None]],
        is_slow: Callable[[], bool],
    ) -> None:
        self._local = local
        self._etcd = etcd
        self._endpoints = endpoints
        self._joined = joined
        self._is_slow = is_slow
        self._others = local.others()
        self._was_learner = False
        self._well_looks = 0

    async def run(self) -> None:
        """Do so until cancelled; what can't be done now is done later."""
        while True:
            wait_s = _LOOKED_AT_EVERY_S
            try:
                wait_s = await self._look()
            except (StoreError, CairnError) as error:
                log.info("membership not kept up reason=%s", error)
            await asyncio.sleep(wait_s * random.uniform(0.7, 1.0))

    async def leads(self) -> bool:
        """Return whether the etcd of this appliance leads the others."""
        own = _own(await self._etcd.members(), self._local)
        state = await self._etcd.state(own) if own else None
        return own is not None and state is not None and state.leader == own.id

    async def _look(self) -> float:
        members = await self._etcd.members()
        own = _own(members, self._local)
        if own is None:
            return _LOOKED_AT_EVERY_S  # removed: etcd itself learns of it and ends
        self._follow(members, own)
        if own.is_learner:
            self._was_learner = True
            return await self._promote(own)
        if self._was_learner:
            await self._joined(self._local.member)
            self._was_learner = False
        await self._bring_home(own)
        url = self._local.settings.peer_url
        if own.peer_urls != (url,):
            log.info("the etcd of this appliance is reached at url=%s from now on", url)
            await self._etcd.move(own.id, url)
        return _LOOKED_AT_EVERY_S

    async def _bring_home(self, own: EtcdMember) -> None:
        """Let the own etcd be used again once it has been well for a few looks.

        One that waits for its disk keeps readers waiting, too: each write of its database holds up
        all reads.
        """
        if self._is_slow():
            self._well_looks = 0
            self._endpoints.avoid_home()
            return
        if not self._endpoints.is_away:
            return
        state = await self._etcd.state(own)
        is_well = state is not None and state.leader != 0 and not state.errors
        self._well_looks = self._well_looks + 1 if is_well else 0
        if self._well_looks >= _WELL_LOOKS:
            self._well_looks = 0
            log.info("back to the etcd of this appliance endpoint=%s", self._local.etcd_endpoint)
            self._endpoints.go_home()

    async def _promote(self, own: EtcdMember) -> float:
        """Ask for the vote; etcd refuses it until this member has caught up."""
        try:
            await self._etcd.promote(own.id)
        except StoreError as error:
            log.info("no vote yet reason=%s", error)
        else:
            log.info("this appliance has its vote name=%s", self._local.member)
        return _PROMOTED_EVERY_S

    def _follow(self, members: tuple[EtcdMember, ...], own: EtcdMember) -> None:
        others = tuple(place for each in members if each.id != own.id for place in each.endpoints)
        if others == self._others:
            return
        log.info("the other members of etcd are at endpoints=%s", ",".join(others) or "none")
        self._others = others
        self._endpoints.replace((self._local.etcd_endpoint, *others))
        try:
            self._local.keep_others(others)
        except LocalStateUnusable as error:
            log.warning("the other members could not be written down reason=%s", error)


async def check_not_removed(local: Local, etcd: EtcdMembers) -> None:
    """Raise RemovedFromCluster where the quorum does not have this appliance (any more)."""
    if _own(await etcd.members(certain=True), local) is None:
        raise removed_from_cluster(local)


def removed_from_cluster(local: Local) -> RemovedFromCluster:
    """Return the error that says so, with what to do."""
    return RemovedFromCluster(
        "this appliance was removed from the cluster",
        f"if its data were damaged, `cairn-appliance rebuild --data-dir {local.data_dir}`; else "
        "delete that directory and join again with a new join string, if it is to be part of it",
    )


def _own(members: tuple[EtcdMember, ...], local: Local) -> EtcdMember | None:
    """Return the own member: by its name, which a learner that never ran has not told yet."""
    url = local.settings.peer_url
    for member in members:
        if member.name == local.member or (not member.name and url in member.peer_urls):
            return member
    return None
