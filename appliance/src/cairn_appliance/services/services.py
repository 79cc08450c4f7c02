"""The services that an API is built on, put together in one place."""

from __future__ import annotations

import time
from dataclasses import dataclass

from cairn_appliance.domain.cluster import Cluster
from cairn_appliance.netmap.document import Checker
from cairn_appliance.netmap.netmaps import Netmaps
from cairn_appliance.pki.audit_key import AuditKey
from cairn_appliance.pki.authority import AGENT_LIFE_DAYS
from cairn_appliance.pki.keyring import Keyring
from cairn_appliance.pki.sealing import Sealer
from cairn_appliance.services import receivers
from cairn_appliance.services.absorption import Absorption
from cairn_appliance.services.addressing import Addressing
from cairn_appliance.services.audit import Audit
from cairn_appliance.services.audit_disk import Files
from cairn_appliance.services.clock import Clock, wall_clock
from cairn_appliance.services.clones import Clones
from cairn_appliance.services.duplicates import Duplicates
from cairn_appliance.services.election import Election
from cairn_appliance.services.enrolment import Enrolment
from cairn_appliance.services.events import Events, Journal
from cairn_appliance.services.gateway_board import GatewayBoard
from cairn_appliance.services.gateway_health import GatewayHealths
from cairn_appliance.services.lan_reports import LanReports
from cairn_appliance.services.liveness import Liveness
from cairn_appliance.services.members import Members
from cairn_appliance.services.news import News
from cairn_appliance.services.nodes import Nodes
from cairn_appliance.services.outputs import Outputs
from cairn_appliance.services.picture import Picture
from cairn_appliance.services.preflights import Preflights
from cairn_appliance.services.presence import PresenceBoard
from cairn_appliance.services.reassertion import Reassertions
from cairn_appliance.services.receivers import Lines
from cairn_appliance.services.registry import Registry
from cairn_appliance.services.restoration import Restoration
from cairn_appliance.services.rotation import Rotation
from cairn_appliance.services.segments import ProbeKeys, Segments
from cairn_appliance.services.streams import Streams
from cairn_appliance.services.telemetry import TelemetryBoard
from cairn_appliance.services.tokens import Issuer, Tokens
from cairn_appliance.services.vsubnets import Epochs, VSubnets
from cairn_appliance.store.port import Store


@dataclass(frozen=True, slots=True)
class Services:
    """One of each; `access` (users and sessions) is built from the store on its own."""

    store: Store
    replica: str  # the name of this appliance
    vsubnets: VSubnets
    members: Members
    addressing: Addressing
    tokens: Tokens
    nodes: Nodes
    events: Events
    journal: Journal
    presence: PresenceBoard
    liveness: Liveness
    enrolment: Enrolment
    duplicates: Duplicates
    registry: Registry
    netmaps: Netmaps
    streams: Streams
    restoration: Restoration
    reassertions: Reassertions
    keyring: Keyring
    sealer: Sealer
    rotation: Rotation
    segments: Segments
    board: GatewayBoard
    election: Election
    lan_reports: LanReports
    preflights: Preflights
    gateway_health: GatewayHealths
    audit: Audit
    news: News
    telemetry: TelemetryBoard
    picture: Picture
    clones: Clones
    outputs: Outputs

    @property
    def cluster(self) -> Cluster:
        """The cluster as nodes are told of it now."""
        return self.netmaps.cluster


def build(
    *,
    store: Store,
    cluster: Cluster,
    keyring: Keyring,
    sealer: Sealer,
    replica: str,
    clock: Clock = wall_clock,
    certificate_days: float = AGENT_LIFE_DAYS,
    monotonic: Clock = time.monotonic,
    audit_files: Files | None = None,
    lines: Lines | None = None,
) -> Services:
    """Return the services of one replica; nothing runs yet. `lines` lead to who is told events."""
    journal = Journal(clock)
    epochs = Epochs(sealer, clock)
    vsubnets = VSubnets(store, epochs, journal, clock)
    restoration = Restoration(store, clock)
    addressing = Addressing(store, clock, monotonic)
    members = Members(store, vsubnets, addressing, journal, clock, restoration)
    events = Events(store)
    news = News(events)
    presence = PresenceBoard(store, replica, clock, news.changed)
    nodes = Nodes(store, members, presence, journal, clock, certificate_days)
    probe_keys = ProbeKeys(sealer)
    netmaps = Netmaps(cluster, epochs.open, keyring, probe_keys.open)
    segments = Segments(store, vsubnets, addressing, probe_keys, journal, clock, restoration)
    board = GatewayBoard(store, monotonic, news.stored)
    election = Election(store, netmaps, segments, board, journal, clock, monotonic)
    issuer = Issuer(lambda: netmaps.cluster.appliances, lambda: keyring.authority.pin)
    enrolment = Enrolment(store, keyring, nodes, journal, clock, certificate_days)
    streams = Streams(store, netmaps, presence, news.stored)
    liveness = Liveness(streams.answers, presence.elsewhere)
    telemetry = TelemetryBoard(netmaps, news, clock, monotonic)
    reassertions = Reassertions(
        store,
        restoration,
        Absorption(store, epochs, sealer, journal, clock),
        Checker(cluster.id, keyring.sign),
        netmaps,
        journal,
        replica,
    )
    lines = lines or receivers.lines(sealer, lambda: netmaps.cluster.id)
    return Services(
        store=store,
        replica=replica,
        vsubnets=vsubnets,
        members=members,
        addressing=addressing,
        tokens=Tokens(store, vsubnets, journal, issuer, clock),
        nodes=nodes,
        events=events,
        journal=journal,
        presence=presence,
        liveness=liveness,
        enrolment=enrolment,
        duplicates=Duplicates(store, enrolment, journal, clock),
        registry=Registry(
            store, nodes, presence, journal, clock, liveness.answers, netmaps.snapshot, monotonic
        ),
        netmaps=netmaps,
        streams=streams,
        restoration=restoration,
        reassertions=reassertions,
        keyring=keyring,
        sealer=sealer,
        rotation=Rotation(store, keyring, sealer, netmaps, presence, journal, clock),
        segments=segments,
        board=board,
        election=election,
        lan_reports=LanReports(store, netmaps, election, board, journal, clock),
        preflights=Preflights(store, vsubnets, netmaps, presence, journal, clock),
        gateway_health=GatewayHealths(netmaps, election, board, clock),
        audit=Audit(store, cluster.id, replica, AuditKey(sealer), journal, clock, audit_files),
        news=news,
        telemetry=telemetry,
        picture=Picture(netmaps, presence, telemetry, election, board, clock),
        clones=Clones(store, netmaps, telemetry, journal, clock),
        outputs=Outputs(store, sealer, journal, lines, replica, clock),
    )
