"""Where each object lies in the store.

Everything is below one versioned prefix. What netmaps are made of lies together below
`MAP`, so that one `follow(MAP)` gives a replica all of it in one order. What only guards
an invariant (a name, an address, a VNI is taken) is a key of its own: creating it in the
same transaction as the object is what makes it unique, at any number of replicas.

    /cairn/1/cluster/info                         id, incarnation, public keys
    /cairn/1/cluster/secrets/<name>               sealed under the KEK
    /cairn/1/cluster/last-name                    number of the appliance named last
    /cairn/1/cluster/format                       the newest format that may be written; none: 1
    /cairn/1/cluster/fenced/<appliance>           taken out since its copy was damaged
    /cairn/1/cluster/joinings/<joining>           join string: hash, name, limits
    /cairn/1/cluster/backup-key                   public half of the recovery key
    /cairn/1/cluster/backup-check                 the last backup still had all when looked at
    /cairn/1/cluster/backup-failure               why the last backup could not be made
    /cairn/1/cluster/backup-wish                  a key was replaced, and no backup made since
    /cairn/1/cluster/restored                     the last restore from a backup
    /cairn/1/cluster/update                       the update that is under way, or was last
    /cairn/1/backups/<name of the file>           a backup that was made
    /cairn/1/updates/<appliance>                  how its machine stands with its slots
    /cairn/1/map/appliances/<appliance>           addresses of an appliance, running or not
    /cairn/1/map/trust                            authorities and map keys, sealed, when replaced
    /cairn/1/map/sites/<site>                     Site
    /cairn/1/map/vsubnets/<vsubnet>               VSubnet
    /cairn/1/map/psks/<vsubnet>                   sealed epochs of a vSubnet
    /cairn/1/map/nodes/<node>                     Node: identity, approval, public keys
    /cairn/1/map/registrations/<node>             endpoints, facts, generation: changes often
    /cairn/1/map/members/<vsubnet>/<node>         Member
    /cairn/1/map/segments/<segment>               Segment: LAN, gateways, guards
    /cairn/1/map/probe-keys/<vsubnet>             sealed key of the loop probes of its segments
    /cairn/1/map/preflights/<node>/<task>         what a node is to listen to
    /cairn/1/reassertion-conflicts/<vsubnet>/<node>  what a node had before a restore
    /cairn/1/copies/<node>                        machines that came with a node's identity
    /cairn/1/names/<kind>/<folded name>           ID of the object that has the name
    /cairn/1/segment-ports/<node>/<vlan>/<port>   ID of the segment that has the port
    /cairn/1/vnis/<6 hex digits>                  ID of the vSubnet
    /cairn/1/addresses/<vsubnet>/ip/<address>     holder, or quarantined until
    /cairn/1/addresses/<vsubnet>/mac/<address>    holder
    /cairn/1/tokens/<token>                       enrolment token: hash, uses, limits
    /cairn/1/users/<user>                         operator
    /cairn/1/sessions/<hash of the secret>        operator's session
    /cairn/1/login-failures/<user>                wrong passwords of late
    /cairn/1/credentials/<user>                   last login; TOTP, sealed; recovery codes, hashed
    /cairn/1/api-tokens/<hash of the string>      what a program signs in with
    /cairn/1/oidc/provider                        who logs in by way of which identity provider
    /cairn/1/oidc/used/<hash of the state>        a login that has been: it opens once
    /cairn/1/idempotency/<hash>                   answer to a POST, sealed under its Idempotency-Key
    /cairn/1/events/<event>                       IDs sort by weight, then by time
    /cairn/1/audit/<appliance>/<12 digits>        a record of the audit, in order
    /cairn/1/audit/<appliance>/head               where that chain begins and ends, signed
    /cairn/1/outputs/receivers                    who outside is told of events
    /cairn/1/outputs/sender                       which replica sends, under its lease
    /cairn/1/outputs/deliveries/<receiver>        how far a receiver has been told
    /cairn/1/gateways/beats/<node>                last beat: twice a second, so not in the map
    /cairn/1/gateways/states/<node>               what it said of its segments, for people
    /cairn/1/gateways/forwardings/<segment>       who forwards, in which term
    /cairn/1/gateways/stations/<segment>/<batch>  machines on the LAN
    /cairn/1/gateways/troubles/<segment>/<code>   what gateways reported last
    /cairn/1/preflight-results/<task>             what a pre-flight has heard
    /cairn/1/presence/<replica>/<batch>           under the replica's lease
    /cairn/1/replicas/<replica>                   under the replica's lease
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from typing import Literal
from urllib.parse import quote

NameKind = Literal["site", "vsubnet", "node", "user", "token", "segment"]

ROOT = "/cairn/1/"
CLUSTER_INFO = ROOT + "cluster/info"
CLUSTER_SECRETS = ROOT + "cluster/secrets/"
LAST_NAME = ROOT + "cluster/last-name"
CLUSTER_FORMAT = ROOT + "cluster/format"
JOININGS = ROOT + "cluster/joinings/"
FENCED = ROOT + "cluster/fenced/"
BACKUP_KEY = ROOT + "cluster/backup-key"
BACKUP_CHECK = ROOT + "cluster/backup-check"
BACKUP_FAILURE = ROOT + "cluster/backup-failure"
BACKUP_WISH = ROOT + "cluster/backup-wish"
UPDATE = ROOT + "cluster/update"
UPDATES = ROOT + "updates/"
BACKUPS = ROOT + "backups/"
RESTORED = ROOT + "cluster/restored"
MAP = ROOT + "map/"
APPLIANCES = MAP + "appliances/"
TRUST = MAP + "trust"
SITES = MAP + "sites/"
VSUBNETS = MAP + "vsubnets/"
PSKS = MAP + "psks/"
NODES = MAP + "nodes/"
REGISTRATIONS = MAP + "registrations/"
MEMBERS = MAP + "members/"
SEGMENTS = MAP + "segments/"
PROBE_KEYS = MAP + "probe-keys/"
PREFLIGHTS = MAP + "preflights/"
SEGMENT_PORTS = ROOT + "segment-ports/"
GATEWAYS = ROOT + "gateways/"
BEATS = GATEWAYS + "beats/"
GATEWAY_STATES = GATEWAYS + "states/"
FORWARDINGS = GATEWAYS + "forwardings/"
STATIONS = GATEWAYS + "stations/"
TROUBLES = GATEWAYS + "troubles/"
PREFLIGHT_RESULTS = ROOT + "preflight-results/"
COPIES = ROOT + "copies/"
REASSERTION_CONFLICTS = ROOT + "reassertion-conflicts/"
NAMES = ROOT + "names/"
VNIS = ROOT + "vnis/"
ADDRESSES = ROOT + "addresses/"
TOKENS = ROOT + "tokens/"
USERS = ROOT + "users/"
SESSIONS = ROOT + "sessions/"
LOGIN_FAILURES = ROOT + "login-failures/"
CREDENTIALS = ROOT + "credentials/"
API_TOKENS = ROOT + "api-tokens/"
OIDC_PROVIDER = ROOT + "oidc/provider"
OIDC_USED = ROOT + "oidc/used/"
IDEMPOTENCY = ROOT + "idempotency/"
EVENTS = ROOT + "events/"
AUDIT = ROOT + "audit/"
OUTPUTS = ROOT + "outputs/"
RECEIVERS = OUTPUTS + "receivers"
SENDER = OUTPUTS + "sender"
DELIVERIES = OUTPUTS + "deliveries/"
PRESENCE = ROOT + "presence/"
REPLICAS = ROOT + "replicas/"

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


def cluster_secret(name: str) -> str:
    """Return the key of a sealed secret of the cluster, for example `ca_key`."""
    return CLUSTER_SECRETS + _id(name)


def joining(joining_id: str) -> str:
    """Return the key of a join string."""
    return JOININGS + _id(joining_id)


def fenced(name: str) -> str:
    """Return the key that says that an appliance was taken out, damaged."""
    return FENCED + _id(name)


def appliance(name: str) -> str:
    """Return the key of what an appliance says of itself."""
    return APPLIANCES + _id(name)


def backup(name: str) -> str:
    """Return the key of a backup, by the name of its file."""
    return BACKUPS + _id(name)


def update(appliance_name: str) -> str:
    """Return the key of how an appliance's machine stands with its slots."""
    return UPDATES + _id(appliance_name)


def site(site_id: str) -> str:
    """Return the key of a site."""
    return SITES + _id(site_id)


def vsubnet(vsubnet_id: str) -> str:
    """Return the key of a vSubnet."""
    return VSUBNETS + _id(vsubnet_id)


def psks(vsubnet_id: str) -> str:
    """Return the key of a vSubnet's sealed PSK epochs."""
    return PSKS + _id(vsubnet_id)


def node(node_id: str) -> str:
    """Return the key of a node."""
    return NODES + _id(node_id)


def registration(node_id: str) -> str:
    """Return the key of what a node last registered."""
    return REGISTRATIONS + _id(node_id)


def reassertion_conflict(vsubnet_id: str, node_id: str) -> str:
    """Return the key of what a node had before a restore, and another one has now."""
    return f"{REASSERTION_CONFLICTS}{_id(vsubnet_id)}/{_id(node_id)}"


def copies(node_id: str) -> str:
    """Return the key of the copies that a node was found to have."""
    return COPIES + _id(node_id)


def member(vsubnet_id: str, node_id: str) -> str:
    """Return the key of a node's attachment to a vSubnet."""
    return members_of(vsubnet_id) + _id(node_id)


def members_of(vsubnet_id: str) -> str:
    """Return the prefix of all members of a vSubnet."""
    return f"{MEMBERS}{_id(vsubnet_id)}/"


def segment(segment_id: str) -> str:
    """Return the key of a LAN segment."""
    return SEGMENTS + _id(segment_id)


def segment_port(node_id: str, port: str, vlan: int) -> str:
    """Return the key that gives a port of a node, or a VLAN of it, to one segment."""
    return f"{SEGMENT_PORTS}{_id(node_id)}/{vlan:d}/{quote(port, safe='')}"


def probe_key(vsubnet_id: str) -> str:
    """Return the key of what authenticates a vSubnet's loop probes."""
    return PROBE_KEYS + _id(vsubnet_id)


def preflight(node_id: str, task: str) -> str:
    """Return the key of a pre-flight that waits for its node."""
    return f"{PREFLIGHTS}{_id(node_id)}/{_id(task)}"


def preflight_result(task: str) -> str:
    """Return the key of what a pre-flight has heard."""
    return PREFLIGHT_RESULTS + _id(task)


def beat(node_id: str) -> str:
    """Return the key of a gateway's last beat."""
    return BEATS + _id(node_id)


def gateway_state(node_id: str) -> str:
    """Return the key of what a gateway said of its segments."""
    return GATEWAY_STATES + _id(node_id)


def forwarding(segment_id: str) -> str:
    """Return the key of who forwards for a segment."""
    return FORWARDINGS + _id(segment_id)


def stations_of(segment_id: str) -> str:
    """Return the prefix of the machines on a segment's LAN."""
    return f"{STATIONS}{_id(segment_id)}/"


def stations(segment_id: str, batch: str) -> str:
    """Return the key of one batch of them."""
    return stations_of(segment_id) + _id(batch)


def troubles_of(segment_id: str) -> str:
    """Return the prefix of what a segment's gateways reported."""
    return f"{TROUBLES}{_id(segment_id)}/"


def trouble(segment_id: str, code: str) -> str:
    """Return the key of what a segment's gateways reported last under this code."""
    return troubles_of(segment_id) + _id(code)


def name(kind: NameKind, text: str) -> str:
    """Return the key that makes a name unique among its kind, whatever its case.

    NFKC and case folding, so that two names that look alike are the same name.
    """
    folded = unicodedata.normalize("NFKC", text).casefold().strip()
    if not folded:
        raise ValueError("a name has at least one visible character")
    return f"{NAMES}{kind}/{quote(folded, safe='')}"


def vni(number: int) -> str:
    """Return the key that makes a VNI unique; 24 bits, not zero."""
    if not 0 < number < 1 << 24:
        raise ValueError(f"a VNI is 1 to 16777215, not {number}")
    return f"{VNIS}{number:06x}"


def addresses_of(vsubnet_id: str) -> str:
    """Return the prefix of all IP and MAC addresses that a vSubnet has given out."""
    return f"{ADDRESSES}{_id(vsubnet_id)}/"


def ips_of(vsubnet_id: str) -> str:
    """Return the prefix of all IP addresses that a vSubnet has given out."""
    return addresses_of(vsubnet_id) + "ip/"


def macs_of(vsubnet_id: str) -> str:
    """Return the prefix of all MAC addresses that a vSubnet has given out."""
    return addresses_of(vsubnet_id) + "mac/"


def ip(vsubnet_id: str, address: str) -> str:
    """Return the key that makes an IP address (no prefix length) unique in its vSubnet."""
    return ips_of(vsubnet_id) + str(ipaddress.ip_address(address))


def mac(vsubnet_id: str, address: str) -> str:
    """Return the key that makes a MAC address unique in its vSubnet."""
    lower = address.lower()
    if not _MAC.fullmatch(lower):
        raise ValueError(f"not a MAC address: {address!r}")
    return macs_of(vsubnet_id) + lower


def token(token_id: str) -> str:
    """Return the key of an enrolment token."""
    return TOKENS + _id(token_id)


def user(user_id: str) -> str:
    """Return the key of an operator."""
    return USERS + _id(user_id)


def session(secret_hash: str) -> str:
    """Return the key of an operator's session, by the hash of its secret."""
    return SESSIONS + _id(secret_hash)


def login_failures(user_id: str) -> str:
    """Return the key of an operator's wrong passwords of late."""
    return LOGIN_FAILURES + _id(user_id)


def credentials(user_id: str) -> str:
    """Return the key of what an operator has beside the password."""
    return CREDENTIALS + _id(user_id)


def api_token(secret_hash: str) -> str:
    """Return the key of an API token, by the hash of its string."""
    return API_TOKENS + _id(secret_hash)


def oidc_used(state_hash: str) -> str:
    """Return the key that says that a login by way of the provider has been."""
    return OIDC_USED + _id(state_hash)


def idempotency(key_hash: str) -> str:
    """Return the key of the answer to a POST, by the hash of who sent it with which key."""
    return IDEMPOTENCY + _id(key_hash)


def event(event_id: str) -> str:
    """Return the key of an event; event IDs sort by weight (services/events.py), then time."""
    return EVENTS + _id(event_id)


def audit_of(appliance_name: str) -> str:
    """Return the prefix of one appliance's audit."""
    return f"{AUDIT}{_id(appliance_name)}/"


def audit_record(appliance_name: str, index: int) -> str:
    """Return the key of a record; the keys of a chain sort by index, its head last."""
    return f"{audit_of(appliance_name)}{index:012d}"


def audit_head(appliance_name: str) -> str:
    """Return the key of a chain's head."""
    return audit_of(appliance_name) + "head"


def presence_of(replica_id: str) -> str:
    """Return the prefix of the presence that one replica has written."""
    return f"{PRESENCE}{_id(replica_id)}/"


def presence(replica_id: str, batch: str) -> str:
    """Return the key of one batch of presence."""
    return presence_of(replica_id) + _id(batch)


def replica(replica_id: str) -> str:
    """Return the key of a running replica of the appliance."""
    return REPLICAS + _id(replica_id)


def delivery(receiver_id: str) -> str:
    """Return the key of how far a receiver of events has been told."""
    return DELIVERIES + _id(receiver_id)


def last_part(key: str) -> str:
    """Return what follows the last slash: the ID, for keys that end in one."""
    return key.rpartition("/")[2]


def is_id(text: str) -> bool:
    """Return whether it may be a part of a key."""
    return _ID.fullmatch(text) is not None


def _id(text: str) -> str:
    """Refuse what could leave its own place in the tree."""
    if not _ID.fullmatch(text):
        raise ValueError(f"not an ID: {text!r}")
    return text
