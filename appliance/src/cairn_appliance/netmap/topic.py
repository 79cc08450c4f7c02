"""One vSubnet's document: its versions, their deltas, and the whole of the newest."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile

from cairn_agent.protocol import netmap as wire

Sign = Callable[[int, int, str], str]  # VNI, revision, digest -> base64 signature

HISTORY_DELTAS = 1024
HISTORY_OCTETS = 1 << 20


@dataclass(frozen=True, slots=True)
class Delta:
    """What changed after `base` and up to `revision`, as the line that goes out."""

    base: int
    revision: int
    line: bytes


class Topic:
    """The document of one vSubnet, built up change by change, in order.

    A delta names every member that was touched, also one that ended as it began: a reader
    may come from another replica, which made its versions at other revisions in between.
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
        self._history_octets = 0
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
        present = sorted(self._touched & self._members.keys())
        absent = sorted(self._touched - self._members.keys())
        base = self._changed_at
        self._version(revision)
        self._changed_at = revision
        line = self._line([self._members[node_id] for node_id in present], absent, full=False)
        self._remember(Delta(base, revision, line))
        return True

    def sign_anew(self) -> None:
        """Have the next version made although nothing changed: another key signs it.

        What the key before has signed is refused from then on by who has seen the new one, so
        it goes to nobody any more: who missed it gets the whole.
        """
        self._header_touched = True
        self._history.clear()
        self._history_octets = 0

    def full(self) -> bytes:
        """Return the line that holds the whole of the newest version, encoded once."""
        if self._full is None:
            everyone = [self._members[node_id] for node_id in sorted(self._members)]
            self._full = self._line(everyone, [], full=True)
        return self._full

    def since(self, revision: int) -> list[bytes]:
        """Return the lines that bring a copy at `revision` up to the newest version."""
        if revision >= self._changed_at:
            return []
        missing = self._after(revision)
        if not missing or missing[0].base > revision:
            return [self.full()]
        lines = [delta.line for delta in missing]
        if len(lines) > 1 and sum(map(len, lines)) > len(self.full()):
            return [self.full()]
        return lines

    def _after(self, revision: int) -> list[Delta]:
        """Return the deltas after a revision, from the newest back: most ask for one or two."""
        newest_first = takewhile(lambda delta: delta.revision > revision, reversed(self._history))
        return list(newest_first)[::-1]

    def _version(self, revision: int) -> None:
        self._revision = revision
        self._digest = wire.vsubnet_digest(self._header, self._digests.items())
        self._signature = self._sign(self.vni, revision, self._digest)
        self._full = None
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
        self._history_octets += len(delta.line)
        while len(self._history) > HISTORY_DELTAS or (
            self._history_octets > HISTORY_OCTETS and len(self._history) > 1
        ):
            self._history_octets -= len(self._history.popleft().line)
