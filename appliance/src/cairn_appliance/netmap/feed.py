"""One stream: what it has sent, and what it has to send next."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from cairn_agent.protocol import netmap as wire

from cairn_appliance.netmap.netmaps import Netmaps

_UNREADABLE_AFTER_MS = 5000


class Feed:
    """The position of one node's stream in all documents that concern it."""

    __slots__ = (
        "_in_sync",
        "_is_begun",
        "_lost_keys",
        "_netmaps",
        "_node_digest",
        "_node_id",
        "_resumes",
        "_sent",
        "_signer",
        "_start",
        "_trust_digest",
        "is_finished",
    )

    def __init__(
        self, netmaps: Netmaps, node_id: str, incarnation: int, after: int, trust: str = ""
    ) -> None:
        self._netmaps = netmaps
        self._node_id = node_id
        cluster = netmaps.cluster
        self._resumes = after > 0 and incarnation == cluster.incarnation
        self._start = after if self._resumes else 0
        self._is_begun = False
        self._node_digest = ""
        self._trust_digest = trust  # of what the node keeps
        self._signer = netmaps.signer
        self._lost_keys: tuple[str, ...] | None = None  # as of the beginning
        self._sent: dict[int, int] = {}  # VNI -> revision that the copy is at
        self._in_sync = b""  # the last word
        self.is_finished = False

    def pull(self, *, is_touched: bool = True) -> Iterator[bytes]:
        """Yield the lines that bring the node up to the revision of now.

        They end with `in_sync`, also when there was nothing else to say: the heartbeat. Where
        nothing was touched that the node's own document is made of, it isn't made again.
        Once the node is removed the last line says so, and the feed is finished.
        """
        netmaps = self._netmaps
        reason = netmaps.removed_why(self._node_id)
        if reason is not None:
            self.is_finished = True
            yield _line(wire.Removed(reason, netmaps.removed_code(self._node_id)))
            return
        if netmaps.is_unreadable(self._node_id):
            # Not removed, and nothing true can be said: another replica may understand it.
            self.is_finished = True
            yield _line(wire.GoAway(_UNREADABLE_AFTER_MS))
            return
        lost_keys = netmaps.snapshot.nodes[self._node_id].lost_keys
        if self._lost_keys is None:
            self._lost_keys = lost_keys
        if self._lost_keys != lost_keys:
            # Another machine is the node now: whoever this is has to show its key again.
            self.is_finished = True
            yield _line(wire.GoAway(0))
            return
        if not self._is_begun:
            self._is_begun = True
            if not self._resumes:
                yield _line(wire.Reset(netmaps.cluster.id, netmaps.cluster.incarnation))
        revision = netmaps.revision
        own = self._node_lines() if is_touched else ()
        yield from [*self._trust_lines(), *own, *self._vsubnet_lines()]
        self._in_sync = _in_sync(revision)
        yield self._in_sync

    def last_word(self) -> bytes:
        """Return the `in_sync` of the last `pull` again: the node holds this, and all is well.

        Nothing is compared, so that it costs little; what has changed since wakes the stream.
        """
        return self._in_sync

    def _trust_lines(self) -> Iterator[bytes]:
        """Yield whom to trust, before anything that a new map key has signed."""
        current = self._netmaps.trust_line
        if current is not None and current[0] != self._trust_digest:
            yield current[1]
        if current is not None:
            self._trust_digest = current[0]

    def _node_lines(self) -> Iterator[bytes]:
        document = self._netmaps.node_document(self._node_id)
        digest, signer = wire.node_digest(document), self._netmaps.signer
        if (digest, signer) == (self._node_digest, self._signer):
            return
        self._node_digest, self._signer = digest, signer
        revision = self._netmaps.revision
        signature = self._netmaps.sign("node", self._node_id, revision, digest)
        yield _line(wire.NodeUpdate(document, revision, signature))

    def _vsubnet_lines(self) -> Iterator[bytes]:
        topics = self._netmaps.topics_of(self._node_id)
        for vni in sorted(self._sent.keys() - topics.keys()):
            del self._sent[vni]
            yield _line(wire.Gone(vni))
        for vni, (topic, joined_at) in sorted(topics.items()):
            at = self._sent.get(vni, self._start)
            # A copy from before the node left and joined again is not worth a delta.
            line = topic.full() if at < joined_at else topic.since(at)
            if line is not None:
                yield line
            self._sent[vni] = self._netmaps.revision


@lru_cache(1)
def _in_sync(revision: int) -> bytes:
    """Return the word that all streams of a round have in common."""
    return _line(wire.InSync(revision))


def _line(message: wire.StreamMessage) -> bytes:
    return wire.encode(message) + b"\n"
