"""All netmaps of a replica: changes in, lines for each stream out."""

from __future__ import annotations

import base64
import logging
from collections.abc import Iterable
from typing import Literal

from cairn_agent.protocol import netmap as wire

from cairn_appliance.domain.cluster import Cluster
from cairn_appliance.domain.node import NodeState
from cairn_appliance.domain.vsubnet import VSubnet
from cairn_appliance.netmap import render
from cairn_appliance.netmap.snapshot import Snapshot, Touched
from cairn_appliance.netmap.topic import Topic
from cairn_appliance.pki.errors import PkiError
from cairn_appliance.pki.keyring import Keyring
from cairn_appliance.store import keys
from cairn_appliance.store.port import Events, Progress, Reset

log = logging.getLogger(__name__)


class Netmaps:
    """The snapshot and a topic for each vSubnet of it."""

    def __init__(
        self,
        cluster: Cluster,
        open_psk: render.OpenPsk,
        keyring: Keyring,
        open_probe_key: render.OpenProbeKey = lambda _vsubnet, _sealed: "",
    ) -> None:
        self._without_appliances = cluster
        self.cluster = cluster  # with the addresses of its appliances as of `revision`
        self._open_psk = open_psk
        self._open_probe_key = open_probe_key
        self._keyring = keyring
        self._trust_line: tuple[str, bytes] | None = None  # digest, and the line
        self.snapshot = Snapshot()
        self._topics: dict[str, Topic] = {}  # by vSubnet ID
        self._is_loaded = False
        # The nodes whose own document the last `take` may have changed.
        self.touched: frozenset[str] = frozenset()
        self.is_pressing = False  # what it changed must not wait: somebody is out, keys are new

    @property
    def revision(self) -> int:
        """The revision that every document is true at; 0 before the first Reset."""
        return self.snapshot.revision

    @property
    def word_every_s(self) -> float:
        """How often every stream has a word, in seconds."""
        return self.cluster.word_every_s(len(self.snapshot.appliances))

    def take(self, changes: Iterable[Reset | Events | Progress]) -> set[str]:
        """Apply changes in order, make new versions, and return the nodes they concern.

        The work is proportional to the members of the vSubnets that changed. A node that
        registers again with nothing new is all by itself: its peers have no news of it.
        """
        concerned: set[str] = set()
        pending: set[str] = set()
        known = set(self._topics)
        for change in changes:
            if isinstance(change, Progress):
                if self._is_loaded:
                    self.snapshot.revision = max(self.revision, change.revision)
                continue
            touched = self.snapshot.apply(change)
            if touched.trust:
                pending |= self._take_trust()
            concerned |= touched.nodes
            pending |= self._render(touched)
            self._is_loaded = True
        self.touched = frozenset(concerned)
        appliances = self.snapshot.appliances_by_name()
        self.cluster = self._without_appliances.served_by(appliances)
        changed = [self._topics[each] for each in pending & known if each in self._topics]
        self.is_pressing = any(topic.is_pressing for topic in changed)
        for vsubnet_id in pending:
            topic = self._topics.get(vsubnet_id)
            if topic and (topic.cut(self.revision) or vsubnet_id not in known):
                concerned |= topic.node_ids
        return concerned

    def topics_of(self, node_id: str) -> dict[int, tuple[Topic, int]]:
        """Return VNI -> topic and the revision of joining, for an approved node."""
        if not render.is_approved(self.snapshot.nodes.get(node_id)):
            return {}
        found = {}
        for vsubnet_id in self.snapshot.vsubnets_of(node_id):
            topic = self._topics.get(vsubnet_id)
            if topic:
                found[topic.vni] = (topic, self.snapshot.joined_at(vsubnet_id, node_id))
        return found

    def removed_why(self, node_id: str) -> str | None:
        """Return why the node is none of ours (any more), None while it is."""
        node = self.snapshot.nodes.get(node_id)
        if node is None and not self.is_unreadable(node_id):
            return "the cluster does not know this node"
        if node and node.state is NodeState.REMOVED:
            return node.removed_why or "removed"
        return None

    def removed_code(self, node_id: str) -> str:
        """Return the code that goes with `removed_why`."""
        node = self.snapshot.nodes.get(node_id)
        return "node_became" if node and node.became else "node_removed"

    def is_unreadable(self, node_id: str) -> bool:
        """True where the node is in the store, but this version can't read it."""
        return node_id not in self.snapshot.nodes and self.snapshot.has(keys.node(node_id))

    def node_document(self, node_id: str) -> wire.NodeDocument:
        """Return the newest document of a node that is there."""
        node = self.snapshot.nodes[node_id]
        return render.node_document(self.snapshot, node, self.cluster, self._probe_key)

    @property
    def signer(self) -> str:
        """The map key that signs now."""
        return self._keyring.map_key.public

    @property
    def trust_line(self) -> tuple[str, bytes] | None:
        """Whom nodes are to trust, as digest and line; None while no key was ever replaced."""
        return self._trust_line

    def digests(self, node_id: str) -> dict[str, str]:
        """Return what a node that has loaded everything acknowledges."""
        own = {"node": wire.node_digest(self.node_document(node_id))}
        topics = self.topics_of(node_id).items()
        return own | {str(vni): topic.digest for vni, (topic, _) in topics}

    def sign(
        self, kind: Literal["node", "vsubnet", "trust"], key: str, revision: int, digest: str
    ) -> str:
        """Return the base64 signature of a document."""
        octets = wire.signed_octets(
            cluster_id=self.cluster.id,
            incarnation=self.cluster.incarnation,
            kind=kind,
            key=key,
            revision=revision,
            digest=digest,
        )
        return base64.b64encode(self._keyring.sign(octets)).decode()

    def _take_trust(self) -> set[str]:
        """Follow the cluster's keys; return the vSubnets that are to be signed anew."""
        trust = self.snapshot.trust
        if trust is None:
            return set()
        before = self._keyring.map_key.public
        try:
            self._keyring.take(trust)
            document = render.trust_document(trust)
        except PkiError as error:
            log.error("the cluster's keys can't be read reason=%s", error)  # noqa: TRY400
            return set()
        digest = wire.trust_digest(document)
        revision = self.snapshot.trust_at  # the same at every replica, whenever it read it
        signature = self.sign("trust", self.cluster.id, revision, digest)
        update = wire.TrustUpdate(render.successions(trust), document, revision, signature)
        self._trust_line = digest, wire.encode(update) + b"\n"
        if before == self._keyring.map_key.public:
            return set()
        for topic in self._topics.values():
            topic.sign_anew()
        return set(self._topics)

    def _render(self, touched: Touched) -> set[str]:
        """Bring the topics up to what was touched; return the vSubnets that have news."""
        vsubnets = touched.headers | {vsubnet for vsubnet, _ in touched.members}
        begun = {each for each in vsubnets if self._begin_or_end(each)}
        for vsubnet_id in touched.headers - begun:
            vsubnet = self.snapshot.vsubnets.get(vsubnet_id)
            header = self._header(vsubnet) if vsubnet else None
            if header:
                self._topics[vsubnet_id].set_header(header)
        for vsubnet_id, node_id in touched.members:
            vsubnet = self.snapshot.vsubnets.get(vsubnet_id)
            if vsubnet and vsubnet_id not in begun and vsubnet_id in self._topics:
                member = render.member(self.snapshot, vsubnet, node_id)
                self._topics[vsubnet_id].set_member(node_id, member)
        return vsubnets

    def _begin_or_end(self, vsubnet_id: str) -> bool:
        """Make the topic of a new vSubnet, drop that of a deleted one; True if one was made."""
        vsubnet = self.snapshot.vsubnets.get(vsubnet_id)
        if vsubnet is None:
            self._topics.pop(vsubnet_id, None)
            return False
        if vsubnet_id in self._topics:
            return False
        header = self._header(vsubnet)
        if header is None:
            return False
        topic = Topic(vsubnet.vni, header, self._sign_vsubnet)
        for node_id in self.snapshot.members_of(vsubnet_id):
            topic.set_member(node_id, render.member(self.snapshot, vsubnet, node_id))
        topic.begin(self.revision, self.snapshot.changed_at(vsubnet_id))
        self._topics[vsubnet_id] = topic
        return True

    def _header(self, vsubnet: VSubnet) -> wire.VSubnetHeader | None:
        """Return the header; None where it can't be made: what was sent before stays.

        One damaged object must not end the service of all the others.
        """
        try:
            return render.header(self.snapshot, vsubnet, self._open_psk)
        except (PkiError, ValueError) as error:
            log.error("netmap can't be made vsubnet=%s reason=%s", vsubnet.id, error)  # noqa: TRY400
            return None

    def _probe_key(self, vsubnet_id: str, sealed: str) -> str:
        """Return the key; nothing where it can't be opened: a gateway without one stays closed."""
        try:
            return self._open_probe_key(vsubnet_id, sealed)
        except (PkiError, ValueError) as error:
            log.error("probe key can't be opened vsubnet=%s reason=%s", vsubnet_id, error)  # noqa: TRY400
            return ""

    def _sign_vsubnet(self, vni: int, revision: int, digest: str) -> str:
        return self.sign("vsubnet", str(vni), revision, digest)
