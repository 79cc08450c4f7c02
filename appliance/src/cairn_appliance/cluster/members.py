"""The members of the etcd cluster: who they are, how they are, and changing them.

Membership changes are never repeated blindly: where an answer was lost, the list is read
again (it says what came of it). etcd refuses a change while it would endanger the quorum,
and for some seconds after the change before; both are `Unavailable` here, with its words.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import grpc.aio

from cairn_appliance.domain.cluster import QUOTA_OCTETS, Digest, EtcdAlarm, EtcdMember, EtcdState
from cairn_appliance.store import keys, rpc_pb2, rpc_pb2_grpc
from cairn_appliance.store.connection import Caller, Compacted, Endpoints, Link, bounded
from cairn_appliance.store.port import StoreError, Unavailable

_STATE_WITHIN_S = 1.5
_TERM_WITHIN_S = 0.6
_HAND_OVER_WITHIN_S = 6.0  # the heir's vote is written to disks, one of which is slow
_COMPACT_WITHIN_S = 60.0
_HASH_WITHIN_S = 20.0
_DEFRAGMENT_WITHIN_S = 120.0  # 2 GiB, read and written
_ALARMS = {1: "NOSPACE", 2: "CORRUPT"}


class EtcdMembers:
    """Asks and changes the membership; `endpoints` are those of the store."""

    def __init__(self, endpoints: Endpoints) -> None:
        self._endpoints = endpoints
        self._caller = Caller(endpoints, Counter())

    async def members(self, *, certain: bool = False) -> tuple[EtcdMember, ...]:
        """Return the members as the asked member knows them: also without a quorum.

        With `certain` as the quorum knows them: a member that was removed can't answer that.
        """
        request = rpc_pb2.MemberListRequest(linearizable=certain)
        answer = await self._caller.read(_member_list, request)
        return _members(answer)

    async def add_learner(self, peer_url: str) -> tuple[EtcdMember, ...]:
        """Add a member that has no vote yet and return all members; raise Unavailable."""
        request = rpc_pb2.MemberAddRequest(peerURLs=[peer_url], isLearner=True)
        try:
            answer = await self._write(lambda c: rpc_pb2_grpc.ClusterStub(c).MemberAdd, request)
        except Unavailable as error:
            if "already exists" not in str(error):
                raise
            return await self.members()  # the answer to the try before was lost
        return _members(answer)

    async def promote(self, member_id: int) -> None:
        """Give a learner its vote; raise Unavailable while it is not in sync."""
        request = rpc_pb2.MemberRequest(ID=member_id)
        await self._write(lambda c: rpc_pb2_grpc.ClusterStub(c).MemberPromote, request)

    async def remove(self, member_id: int) -> None:
        """Remove a member; its data directory can never be used again."""
        request = rpc_pb2.MemberRequest(ID=member_id)
        try:
            await self._write(lambda c: rpc_pb2_grpc.ClusterStub(c).MemberRemove, request)
        except Unavailable as error:
            if "member not found" not in str(error):  # else the try before has done it
                raise

    async def move(self, member_id: int, peer_url: str) -> None:
        """Tell the other members where a member is reached from now on."""
        request = rpc_pb2.MemberUpdateRequest(ID=member_id, peerURLs=[peer_url])
        await self._write(lambda c: rpc_pb2_grpc.ClusterStub(c).MemberUpdate, request)

    async def alarms(self) -> tuple[EtcdAlarm, ...]:
        """Return what etcd itself complains of."""
        request = rpc_pb2.AlarmRequest()
        answer = await self._caller.read(lambda c: rpc_pb2_grpc.MaintenanceStub(c).Alarm, request)
        return tuple(
            EtcdAlarm(each.memberID, _ALARMS.get(each.alarm, str(each.alarm)))
            for each in answer.alarms
        )

    async def state(self, member: EtcdMember) -> EtcdState | None:
        """Return what a member says of itself; None where it gives no answer in time."""
        for address in member.endpoints:
            try:
                async with asyncio.timeout(_STATE_WITHIN_S):
                    return _state(await self._ask(address, _status, rpc_pb2.StatusRequest()))
            except (StoreError, TimeoutError):
                continue
        return None

    async def states(self, members: tuple[EtcdMember, ...]) -> dict[int, EtcdState | None]:
        """Ask all of them at once, so that the silent ones cost their time only once."""
        found = await asyncio.gather(*map(self.state, members))
        return dict(zip((member.id for member in members), found, strict=True))

    async def are_together(self) -> bool:
        """Say whether all voters answer, and know the same term of raft.

        What is asked for they have in memory: it is so, too, where writes and reads wait for slow
        disks, and never where one is dead, or cut off from this one.
        """
        try:
            async with asyncio.timeout(_TERM_WITHIN_S):  # the member in use has to answer
                members = await self.members()
        except TimeoutError:
            return False
        voters = [each for each in members if not each.is_learner]
        terms = set(await asyncio.gather(*map(self._term, voters)))
        return len(terms) == 1 and None not in terms

    async def _term(self, member: EtcdMember) -> int | None:
        """Return the term of raft that a member knows; None where it gives no answer in time."""
        request = rpc_pb2.MemberListRequest(linearizable=False)
        try:
            async with asyncio.timeout(_TERM_WITHIN_S):
                answer = await self._ask_at(member, _member_list, request)
        except (StoreError, TimeoutError):
            return None
        return int(answer.header.raft_term)

    async def compact(self, leader: EtcdMember) -> None:
        """Forget all that was ever overwritten or deleted; who lags behind lists again."""
        request = rpc_pb2.CompactionRequest(revision=await self.revision(), physical=True)
        with contextlib.suppress(Compacted):  # to this revision already
            await self._ask_at(leader, _compact, request, _COMPACT_WITHIN_S)

    async def defragment(self, member: EtcdMember) -> None:
        """Give what its database doesn't use back to the disk; it answers nobody meanwhile."""
        request = rpc_pb2.DefragmentRequest()
        await self._ask_at(member, _defragment, request, _DEFRAGMENT_WITHIN_S)

    async def disarm(self, alarm: EtcdAlarm) -> None:
        """Take back an alarm of etcd's; it raises it again where it still has reason to."""
        request = rpc_pb2.AlarmRequest(
            action=rpc_pb2.AlarmRequest.DEACTIVATE,
            memberID=alarm.member,
            alarm=alarm.kind,
        )
        await self._write(lambda c: rpc_pb2_grpc.MaintenanceStub(c).Alarm, request)

    async def revision(self) -> int:
        """Return the revision of now."""
        anything = rpc_pb2.RangeRequest(key=keys.CLUSTER_INFO.encode(), keys_only=True)
        answer = await self._caller.read(lambda c: rpc_pb2_grpc.KVStub(c).Range, anything)
        return int(answer.header.revision)

    async def digest(self, member: EtcdMember, revision: int) -> Digest | None:
        """Return the hash of all that a member has at a revision; None where it can't say."""
        request = rpc_pb2.HashKVRequest(revision=revision)
        try:
            answer = await self._ask_at(member, _hash, request, _HASH_WITHIN_S)
        except StoreError:
            return None
        return Digest(answer.hash, answer.compact_revision)

    async def hand_over(self, leader: EtcdMember, to: EtcdMember) -> None:
        """Let the leader make another member the leader; raise Unavailable."""
        request = rpc_pb2.MoveLeaderRequest(targetID=to.id)
        await self._ask_at(leader, _move_leader, request, _HAND_OVER_WITHIN_S)

    async def close(self) -> None:
        """Close the connection."""
        await self._caller.close()

    async def _write(self, method: Callable[[grpc.aio.Channel], Any], request: object) -> Any:
        return await self._caller.write(method, request)

    async def _ask_at(
        self,
        member: EtcdMember,
        method: Callable[[grpc.aio.Channel], Any],
        request: object,
        within_s: float = _STATE_WITHIN_S,
    ) -> Any:
        """Call one member where it is reached first."""
        for address in member.endpoints:
            return await self._ask(address, method, request, within_s)
        raise Unavailable(f"{member.name} has no address for clients")

    async def _ask(
        self,
        address: str,
        method: Callable[[grpc.aio.Channel], Any],
        request: object,
        within_s: float = _STATE_WITHIN_S,
    ) -> Any:
        """Call one member and no other."""
        link = Link(address, self._endpoints.open(address))
        try:
            await link.ready(_STATE_WITHIN_S)
            return await bounded(method(link.channel)(request), within_s)
        finally:
            await link.channel.close(None)


def _status(channel: grpc.aio.Channel) -> Any:
    return rpc_pb2_grpc.MaintenanceStub(channel).Status


def _member_list(channel: grpc.aio.Channel) -> Any:
    return rpc_pb2_grpc.ClusterStub(channel).MemberList


def _move_leader(channel: grpc.aio.Channel) -> Any:
    return rpc_pb2_grpc.MaintenanceStub(channel).MoveLeader


def _hash(channel: grpc.aio.Channel) -> Any:
    return rpc_pb2_grpc.MaintenanceStub(channel).HashKV


def _compact(channel: grpc.aio.Channel) -> Any:
    return rpc_pb2_grpc.KVStub(channel).Compact


def _defragment(channel: grpc.aio.Channel) -> Any:
    return rpc_pb2_grpc.MaintenanceStub(channel).Defragment


def _members(answer: Any) -> tuple[EtcdMember, ...]:
    return tuple(sorted(map(_member, answer.members), key=lambda each: (each.name, each.id)))


def _member(member: Any) -> EtcdMember:
    return EtcdMember(
        member.ID,
        member.name,
        tuple(member.peerURLs),
        tuple(member.clientURLs),
        member.isLearner,
    )


def _state(answer: Any) -> EtcdState:
    return EtcdState(
        version=answer.version,
        leader=answer.leader,
        raft_index=answer.raftIndex,
        raft_applied=answer.raftAppliedIndex,
        db_octets=answer.dbSize,
        db_used_octets=answer.dbSizeInUse,
        errors=tuple(answer.errors),
        db_quota_octets=answer.dbSizeQuota or QUOTA_OCTETS,
    )
