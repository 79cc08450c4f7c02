"""The membership of an etcd that is none: it does what etcd does, as far as ours relies on it."""

from __future__ import annotations

from dataclasses import replace

from cairn_appliance.domain.cluster import EtcdAlarm, EtcdMember, EtcdState
from cairn_appliance.domain.joining import ClusterKeys
from cairn_appliance.store.port import Unavailable

CLUSTER_KEYS = ClusterKeys(b"kek-kek-kek-kek-kek-kek-kek-kek!", b"ca", b"sealed")


class FakeEtcd:
    """Members by name; those in `silent` give no answer."""

    def __init__(self, *addresses: str) -> None:
        self._members: dict[int, EtcdMember] = {}
        self._next = 1
        self.silent: set[str] = set()
        self.behind: dict[str, int] = {}  # by how many entries of the log
        self.leader = 1
        self.refusals = 0  # so many changes are refused first
        self.all_alarms: tuple[EtcdAlarm, ...] = ()
        for number, address in enumerate(addresses or ("192.0.2.1",), 1):
            self.put(f"m{number}", f"https://{address}:2380")

    def put(self, name: str, url: str, *, is_learner: bool = False) -> EtcdMember:
        client = url.replace(":2380", ":2379")
        member = EtcdMember(self._next, name, (url,), (client,) if name else (), is_learner)
        self._members[member.id] = member
        self._next += 1
        return member

    def starts(self, name: str) -> None:
        """Let the learner that has not run yet do so."""
        found = next(each for each in self._members.values() if not each.name)
        self._members[found.id] = replace(found, name=name)

    async def members(self) -> tuple[EtcdMember, ...]:
        return tuple(self._members.values())

    async def add_learner(self, peer_url: str) -> tuple[EtcdMember, ...]:
        self._refuse()
        if any(each.is_learner for each in self._members.values()):
            raise Unavailable("too many learner members in cluster")
        self.put("", peer_url, is_learner=True)
        return await self.members()

    async def remove(self, member_id: int) -> None:
        self._refuse()
        del self._members[member_id]
        if self.leader == member_id:
            self.leader = min(self._members)

    async def states(self, members: tuple[EtcdMember, ...]) -> dict[int, EtcdState | None]:
        return {each.id: self._state(each.name) for each in members}

    async def alarms(self) -> tuple[EtcdAlarm, ...]:
        return self.all_alarms

    async def hand_over(self, leader: EtcdMember, to: EtcdMember) -> None:
        self.leader = to.id

    def _state(self, name: str) -> EtcdState | None:
        if name in self.silent:
            return None
        applied = 100 - self.behind.get(name, 0)
        return EtcdState("3.6.0", self.leader, 100, applied, 1 << 20, 1 << 19)

    def _refuse(self) -> None:
        if self.refusals:
            self.refusals -= 1
            raise Unavailable("UNAVAILABLE: etcdserver: unhealthy cluster")
