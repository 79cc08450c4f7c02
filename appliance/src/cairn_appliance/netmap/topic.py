"""One vSubnet's document: its versions, their deltas, and the whole of the newest."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile

from cairn_agent.protocol import netmap as wire

Sign = Callable[[int, int, str], str]  # VNI, revision, digest -> base64 signature

HISTORY_DELTAS = 1024
HISTORY_NAMES = 10_000  # of members, in all deltas together


@dataclass(frozen=True, slots=True)
class Delta:
    """Which members changed after `base` and up to `revision`."""

    base: int
    revision: int
    node_ids: frozenset[str]


class Topic:
    """The document of one vSubnet, built up change by change, in order.

    A delta names every member that was touched, also one that ended as it began: a reader
    may come from another replica, which made its versions at other revisions in between.
    Who has missed several gets one line with all of them, encoded once for each beginning.
    """

    def __init__(self, vni: int, header: wire.VSubnetHeader, sign: Sign) -> None:
        self.vni = vni
        self._header = header
        self._sign = sign
        self._members: dict[str, wire.Member] = {}
        self._digests: dict[str, bytes] = {}
        self._touched: set[str] = set()
        self._header_touched = False
        self._history: deque[Delta] = deque()
        self._history_names = 0
        self._lines: dict[int, bytes] = {}  # to the newest version, by the first delta's revision
        self._revision = 0  # of the newest version: signed
        self._changed_at = 0  # it has been like this since
        self._digest = ""
        self._signature = ""
        self._full: bytes | None = None

    @property
    def node_ids(self) -> set[str]:
        """The members, as last set."""
        return set(self._members)

    @property
    def digest(self) -> str:
        """The digest of the newest version."""
        return self._digest

    @property
    def is_pressing(self) -> bool:
        """True where the next version takes somebody out, or changes what holds for all."""
        return self._header_touched or not self._touched <= self._members.keys()

    def set_header(self, header: wire.VSubnetHeader) -> None:
        """Replace the header."""
        if header != self._header:
            self._header = header
            self._header_touched = True

    def set_member(self, node_id: str, member: wire.Member | None) -> None:
        """Replace a member, or take it out."""
        if member == self._members.get(node_id):
            return
        self._touched.add(node_id)
        if member is None:
            del self._members[node_id]
            del self._digests[node_id]
        else:
            self._members[node_id] = member
            self._digests[node_id] = wire.member_digest(member)

    def begin(self, revision: int, changed_at: int) -> None:
        """Make the first version; what is set before is known to be so since `changed_at`."""
        self._version(revision)
        self._changed_at = changed_at

    def cut(self, revision: int) -> bool:
        """Make a version of what was set since the last one; False if that is nothing."""
        if not self._touched and not self._header_touched:
            return False
        base, touched = self._changed_at, frozenset(self._touched)
        self._version(revision)
        self._changed_at = revision
        self._remember(Delta(base, revision, touched))
        return True

    def sign_anew(self) -> None:
        """Have the next version made although nothing changed: another key signs it.

        What the key before has signed is refused from then on by who has seen the new one, so
        it goes to nobody any more: who missed it gets the whole.
        """
        self._header_touched = True
        self._history.clear()
        self._history_names = 0

    def full(self) -> bytes:
        """Return the line that holds the whole of the newest version, encoded once."""
        if self._full is None:
            everyone = [self._members[node_id] for node_id in sorted(self._members)]
            self._full = self._line(everyone, [], full=True)
        return self._full

    def since(self, revision: int) -> bytes | None:
        """Return the line that brings a copy at `revision` up to the newest version, if any does.

        One that would name everybody is the whole.
        """
        if revision >= self._changed_at:
            return None
        missing = self._after(revision)
        if not missing or missing[0].base > revision:
            return self.full()
        begin = missing[0].revision
        if begin not in self._lines:
            self._lines[begin] = self._line_of(frozenset().union(*(d.node_ids for d in missing)))
        return self._lines[begin]

    def _line_of(self, touched: frozenset[str]) -> bytes:
        if len(touched) > 1 and len(touched) >= len(self._members):
            return self.full()
        present = sorted(touched & self._members.keys())
        absent = sorted(touched - self._members.keys())
        return self._line([self._members[node_id] for node_id in present], absent, full=False)

    def _after(self, revision: int) -> list[Delta]:
        """Return the deltas after a revision, from the newest back: most ask for one or two."""
        newest_first = takewhile(lambda delta: delta.revision > revision, reversed(self._history))
        return list(newest_first)[::-1]

    def _version(self, revision: int) -> None:
        self._revision = revision
        self._digest = wire.vsubnet_digest(self._header, self._digests.items())
        self._signature = self._sign(self.vni, revision, self._digest)
        self._full = None
        self._lines.clear()
        self._touched.clear()
        self._header_touched = False

    def _line(self, members: list[wire.Member], absent: list[str], *, full: bool) -> bytes:
        update = wire.VSubnetUpdate(
            vni=self.vni,
            revision=self._revision,
            full=full,
            header=self._header,
            set=members,
            remove=absent,
            digest=self._digest,
            signature=self._signature,
        )
        return wire.encode(update) + b"\n"

    def _remember(self, delta: Delta) -> None:
        self._history.append(delta)
        self._history_names += len(delta.node_ids)
        while len(self._history) > HISTORY_DELTAS or (
            self._history_names > HISTORY_NAMES and len(self._history) > 1
        ):
            self._history_names -= len(self._history.popleft().node_ids)
