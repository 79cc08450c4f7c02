"""The codec of each domain value that lies in the store."""

from __future__ import annotations

from cairn_appliance.domain.access import ApiToken, Credentials, Session, User
from cairn_appliance.domain.backup import (
    Backup,
    BackupCheck,
    BackupFailure,
    BackupKey,
    BackupWish,
)
from cairn_appliance.domain.cluster import Appliance, Cluster, Joining, Replica
from cairn_appliance.domain.event import Event
from cairn_appliance.domain.forwarding import Forwarding
from cairn_appliance.domain.gateway import Beat, GatewayState, StationBatch, Trouble
from cairn_appliance.domain.member import Claim, Member
from cairn_appliance.domain.node import Copies, Node, Presence, Registration
from cairn_appliance.domain.oidc import Provider
from cairn_appliance.domain.output import Delivery, Receivers
from cairn_appliance.domain.restored import Restored
from cairn_appliance.domain.segment import Preflight, PreflightResult, ProbeKey, Segment
from cairn_appliance.domain.site import Site
from cairn_appliance.domain.token import Token
from cairn_appliance.domain.trust import Trust
from cairn_appliance.domain.update import Plan, Report
from cairn_appliance.domain.vsubnet import Psks, VSubnet
from cairn_appliance.store.codec import Codec, Quarantine

api_tokens = Codec(ApiToken)
appliances = Codec(Appliance)
backup_checks = Codec(BackupCheck)
backup_failures = Codec(BackupFailure)
backup_keys = Codec(BackupKey)
backup_wishes = Codec(BackupWish)
backups = Codec(Backup)
beats = Codec(Beat)
clusters = Codec(Cluster)
events = Codec(Event)
claims = Codec(Claim)
copies = Codec(Copies)
credentials = Codec(Credentials)
deliveries = Codec(Delivery)
forwardings = Codec(Forwarding)
gateway_states = Codec(GatewayState)
joinings = Codec(Joining)
members = Codec(Member)
nodes = Codec(Node)
preflight_results = Codec(PreflightResult)
preflights = Codec(Preflight)
presences = Codec(Presence)
probe_keys = Codec(ProbeKey)
providers = Codec(Provider)
receivers = Codec(Receivers)
registrations = Codec(Registration)
replicas = Codec(Replica)
restored = Codec(Restored)
segments = Codec(Segment)
sessions = Codec(Session)
sites = Codec(Site)
station_batches = Codec(StationBatch)
tokens = Codec(Token)
troubles = Codec(Trouble)
trust = Codec(Trust)
psks = Codec(Psks)
update_plans = Codec(Plan)
update_reports = Codec(Report)
users = Codec(User)
vsubnets = Codec(VSubnet)

quarantine = Quarantine()  # what this replica could not read: an alarm
