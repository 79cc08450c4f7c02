"""Netmap copies of many agents in one process, that share what is equal.

Each agent applies every line with every check of the real agent. But a vSubnet is the same
octets for all its members, so a line that was applied once to a held vSubnet is not worked
out again for the next agent that holds the same: it gets the same result. Without this a
thousand agents with a thousand members each would hold three gigabytes and spend all of the
machine on hashing. Copies that came to the same from different beginnings, each by checks of
its own, share from then on, and so do members whose octets are the same, whatever line they
came with. The signature over an agent's own document is checked each time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from cairn_agent.netmap.held import HeldMember, HeldVSubnet, Netmap, NetmapCopy, NetmapRefused
from cairn_agent.protocol import netmap as wire

_LINES = 512
_RESULTS = 512
_VERSIONS = 256
_MEMBERS = 16_384
_LINE_MIN = 200  # octets: shorter ones cost less than looking them up


class Shared:
    """What the copies of one process have in common."""

    def __init__(self) -> None:
        self._lines: OrderedDict[bytes, wire.ReceivedMessage] = OrderedDict()
        self._results: OrderedDict[
            tuple[int, int], tuple[HeldVSubnet | None, wire.ReceivedVSubnet, HeldVSubnet]
        ] = OrderedDict()
        self._versions: OrderedDict[tuple[int, int, str], HeldVSubnet] = OrderedDict()
        self._members: OrderedDict[bytes, tuple[str, HeldMember]] = OrderedDict()
        self._word: tuple[bytes, wire.ReceivedMessage] = b"\n", wire.InSync(0)  # no line is that
        self.verified = 0  # vSubnet lines that were worked out

    def decoded(self, line: bytes) -> wire.ReceivedMessage:
        """Return the message of a line; raise msgspec.MsgspecError."""
        if len(line) < _LINE_MIN:
            if line != self._word[0]:  # the streams of a round have the same last word
                self._word = line, wire.decode_received(line)
            return self._word[1]
        known = self._lines.get(line)
        if known is None:
            known = wire.decode_received(line)
            if not isinstance(known, wire.ReceivedVSubnet):
                return known
            self._lines[line] = known
            if len(self._lines) > _LINES:
                self._lines.popitem(last=False)
        return known

    def member(
        self, octets: bytes, worked_out: Callable[[], tuple[str, HeldMember]]
    ) -> tuple[str, HeldMember]:
        """Return a member that came with these octets before, or what is worked out now."""
        known = self._members.get(octets)
        if known is None:
            self._members[octets] = known = worked_out()
            if len(self._members) > _MEMBERS:
                self._members.popitem(last=False)
        return known

    def result(
        self, before: HeldVSubnet | None, update: wire.ReceivedVSubnet
    ) -> HeldVSubnet | None:
        """Return what the update made of the vSubnet when another copy applied it."""
        known = self._results.get((id(before), id(update)))
        return known[2] if known else None

    def remember(
        self, before: HeldVSubnet | None, update: wire.ReceivedVSubnet, made: HeldVSubnet
    ) -> HeldVSubnet:
        """Keep a result, with what it was made of: an ID is only good while its object lives.

        Returns what another copy made that has the same digest at the same revision, if one did.
        """
        self.verified += 1
        after = self._versions.setdefault((update.vni, made.revision, made.digest), made)
        if len(self._versions) > _VERSIONS:
            self._versions.popitem(last=False)
        self._results[id(before), id(update)] = (before, update, after)
        if len(self._results) > _RESULTS:
            self._results.popitem(last=False)
        return after


class SharingCopy(NetmapCopy):
    """The netmap copy of one agent among many."""

    def __init__(self, shared: Shared, *, cluster_id: str, node_id: str, map_key: str) -> None:
        super().__init__(cluster_id=cluster_id, node_id=node_id, map_key=map_key)
        self._shared = shared

    def _member(self, vni: int, octets: bytes) -> tuple[str, HeldMember]:
        worked_out = partial(super()._member, vni, octets)
        return self._shared.member(octets, worked_out)

    def _with_vsubnet(self, base: Netmap, update: wire.ReceivedVSubnet) -> Netmap:
        before = base.held.get(update.vni)
        start = None if update.full else before
        known = self._shared.result(start, update)
        if known is None or (before is not None and before.revision >= update.revision):
            made = super()._with_vsubnet(base, update)
            if made is base:
                return made
            after = self._shared.remember(start, update, made.held[update.vni])
            return replace(made, held={**made.held, update.vni: after})
        floor_key = (base.incarnation, f"vsubnet {update.vni}")
        floor = self._floors.get(floor_key, 0)
        if update.revision < floor:
            raise NetmapRefused(f"vSubnet {update.vni} is older than {floor}")
        self._floors[floor_key] = update.revision
        return replace(base, held={**base.held, update.vni: known})
