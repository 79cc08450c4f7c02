"""The codec of each domain value that lies in the store."""

from __future__ import annotations

from cairn_appliance.domain.backup import Backup, BackupFailure, BackupKey, BackupWish
from cairn_appliance.domain.cluster import Appliance, Cluster, Joining, Replica
from cairn_appliance.domain.event import Event
from cairn_appliance.domain.member import Claim, Member
from cairn_appliance.domain.node import Copies, Node, Presence, Registration
from cairn_appliance.domain.restored import Restored
from cairn_appliance.domain.site import Site
from cairn_appliance.domain.token import Token
from cairn_appliance.domain.trust import Trust
from cairn_appliance.domain.vsubnet import Psks, VSubnet
from cairn_appliance.store.codec import Codec, Quarantine

appliances = Codec(Appliance)
backup_failures = Codec(BackupFailure)
backup_keys = Codec(BackupKey)
backup_wishes = Codec(BackupWish)
backups = Codec(Backup)
clusters = Codec(Cluster)
events = Codec(Event)
claims = Codec(Claim)
copies = Codec(Copies)
joinings = Codec(Joining)
members = Codec(Member)
nodes = Codec(Node)
presences = Codec(Presence)
registrations = Codec(Registration)
replicas = Codec(Replica)
restored = Codec(Restored)
sites = Codec(Site)
tokens = Codec(Token)
trust = Codec(Trust)
psks = Codec(Psks)
vsubnets = Codec(VSubnet)

quarantine = Quarantine()  # what this replica could not read: an alarm
