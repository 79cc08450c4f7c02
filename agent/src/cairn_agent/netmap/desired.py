"""Netmap, identity and host facts -> what the data plane and the host should be."""

from __future__ import annotations

import base64
import binascii
import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from cairn_agent.netmap.held import HeldVSubnet, Netmap
from cairn_agent.netmap.trust import is_trusted
from cairn_agent.protocol.gateway import Guards
from cairn_agent.protocol.netmap import Member, Policy, Psk

# VNI and node ID -> since which generation the sessions with the member count
Generations = Mapping[tuple[int, str], int]
TAP_PREFIX: Final = "cairn"
_LEAST_MTU = 1280  # below it a host has no IPv6 (RFC 8200 5)
_KEY_OCTETS: Final = {1: 32, 2: 33}  # by suite


class PeerState(msgspec.Struct, frozen=True):
    """A peer as the data plane must know it (docs/protocol.md 2.1)."""

    id: str
    name: str
    public_key: str
    role: str
    macs: list[str]
    ips: list[str]
    endpoints: list[str]
    warm: bool


class SwitchPolicy(msgspec.Struct, frozen=True):
    """The part of a vSubnet's policy that the data plane enforces."""

    bum_pps: int
    bum_burst: int
    ageing_s: int
    gateway_bum_pps: int = Guards().bum_pps
    gateway_source_bum_pps: int = Guards().source_bum_pps
    shared_ips: list[str] = []  # bound to nobody, and any member may claim them


class VSubnetState(msgspec.Struct, frozen=True):
    """A vSubnet as the data plane must know it."""

    vni: int
    suite: int
    tap: str
    mtu: int
    psks: list[Psk]
    role: str
    macs: list[str]
    ips: list[str]
    policy: SwitchPolicy
    peers: list[PeerState]


class NodeKey(msgspec.Struct, frozen=True):
    """The node and its X25519 private key."""

    id: str
    private_key: str

    def __repr__(self) -> str:
        return f"NodeKey(id={self.id!r}, ...)"


class DataPlaneState(msgspec.Struct, frozen=True, omit_defaults=True):
    """The whole desired state of the data plane."""

    cluster_id: str
    node: NodeKey
    port: int
    revision: int
    behind_nat: bool
    vsubnets: list[VSubnetState]
    timers: Mapping[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Tap:
    """A TAP as the host should have it."""

    name: str
    vni: int
    mac: str
    mtu: int  # octets of the inner IP packet
    addresses: tuple[str, ...]  # with prefix length
    is_up: bool


@dataclass(frozen=True, slots=True)
class Desired:
    """All that follows from a netmap; `problems` are sentences for people, by VNI."""

    taps: tuple[Tap, ...]
    state: DataPlaneState
    problems: Mapping[int, str]
    generations: Generations = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Own:
    """What of the node itself goes into the desired state."""

    node_id: str
    data_key: str
    cluster_id: str
    port: int
    behind_nat: bool = False
    timers: Mapping[str, int] | None = None
    offline_trust_s: int | None = None  # test setting, overrides every policy
    carried_mtu: int | None = None  # what the underlay interfaces leave for an inner IP packet


def nothing(own: Own) -> Desired:
    """Return the desired state of a node that takes part in no vSubnet."""
    return Desired((), _state(own, 0, []), {})


def desired(netmap: Netmap, own: Own, *, warm: frozenset[str], offline_s: float) -> Desired:
    """Return what the host and the data plane should be; always the same for the same input.

    A vSubnet whose offline trust has ended keeps its TAP, which goes down, and has no sessions.
    """
    taps: list[Tap] = []
    states: list[VSubnetState] = []
    problems: dict[int, str] = {}
    for vni, vsubnet in netmap.vsubnets.items():
        held = vsubnet.members.get(own.node_id)
        me = held.member if held else None
        if me is None or not me.macs:
            problems[vni] = "the netmap doesn't say which MAC address this node has here yet"
            continue
        trusted = is_trusted(vsubnet.header, offline_s, own.offline_trust_s)
        mtu = tap_mtu(vsubnet.header.mtu, own.carried_mtu)
        taps.append(_tap(vsubnet, me, mtu, is_up=trusted))
        if trusted:
            states.append(_vsubnet_state(vsubnet, me, mtu, warm, _guards(netmap, vni)))
        else:
            problems[vni] = "no appliance has answered for longer than this vSubnet allows"
    generations = {
        (vni, member.node_id): member.generation
        for vni, vsubnet in netmap.vsubnets.items()
        for member in vsubnet.readable()
    }
    state = _state(own, netmap.revision, states)
    return Desired(tuple(taps), state, problems, generations)


def forgetting(
    state: DataPlaneState, before: Generations, after: Generations
) -> DataPlaneState | None:
    """Return the state without the peers whose sessions have to be forgotten; None: nobody's.

    Applied before the state itself it ends those sessions, and new ones are made: after a
    snapshot of a member was restored, and all of them where the member is this node.
    """
    changed = {key for key, value in after.items() if before.get(key, value) != value}
    if not changed:
        return None
    vsubnets = [
        msgspec.structs.replace(
            vsubnet,
            peers=[]
            if (vsubnet.vni, state.node.id) in changed
            else [peer for peer in vsubnet.peers if (vsubnet.vni, peer.id) not in changed],
        )
        for vsubnet in state.vsubnets
    ]
    return msgspec.structs.replace(state, vsubnets=vsubnets)


def tap_name(vni: int) -> str:
    """Return the name of a vSubnet's TAP; at most 13 characters."""
    return f"{TAP_PREFIX}{vni}"


def tap_mtu(mtu: int, carried: int | None) -> int:
    """Return a TAP's MTU: the vSubnet's, unless this machine's own underlay carries less."""
    return mtu if carried is None else min(mtu, max(carried, _LEAST_MTU))


def link_local(mac: str) -> str:
    """Return the IPv6 link-local address of a MAC address (RFC 4291 appendix A)."""
    octets = bytes.fromhex(mac.replace(":", ""))
    interface = bytes([octets[0] ^ 0x02]) + octets[1:3] + b"\xff\xfe" + octets[3:]
    return str(ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + interface))


def _state(own: Own, revision: int, vsubnets: list[VSubnetState]) -> DataPlaneState:
    return DataPlaneState(
        cluster_id=own.cluster_id,
        node=NodeKey(own.node_id, own.data_key),
        port=own.port,
        revision=revision,
        behind_nat=own.behind_nat,
        vsubnets=vsubnets,
        timers=own.timers or None,
    )


def _tap(vsubnet: HeldVSubnet, me: Member, mtu: int, *, is_up: bool) -> Tap:
    header = vsubnet.header
    addresses: tuple[str, ...] = (*me.ips, f"{link_local(me.macs[0])}/64")
    if me.role == "gateway":
        addresses = ()  # a port of the bridge; the machine itself takes no part
    return Tap(tap_name(header.vni), header.vni, me.macs[0], mtu, addresses, is_up)


def _guards(netmap: Netmap, vni: int) -> Guards:
    """Return the guards of the LAN that this node bridges into a vSubnet, or the usual ones."""
    duties = netmap.node.document.gateways if netmap.node else []
    return next((duty.guards for duty in duties if duty.vni == vni), Guards())


def _policy(policy: Policy, guards: Guards) -> SwitchPolicy:
    return SwitchPolicy(
        policy.bum_pps,
        policy.bum_burst,
        policy.ageing_s,
        guards.bum_pps,
        guards.source_bum_pps,
        list(policy.shared_ips or []),
    )


def _vsubnet_state(
    vsubnet: HeldVSubnet, me: Member, mtu: int, warm: frozenset[str], guards: Guards
) -> VSubnetState:
    header = vsubnet.header
    return VSubnetState(
        vni=header.vni,
        suite=header.suite,
        tap=tap_name(header.vni),
        mtu=mtu,
        psks=header.psks,
        role=me.role,
        macs=me.macs,
        ips=_plain_addresses(me),
        policy=_policy(header.policy, guards),
        peers=[
            _peer_state(member, is_warm=member.node_id in warm)
            for member in _usable(vsubnet, me.node_id)
        ],
    )


def _peer_state(member: Member, *, is_warm: bool) -> PeerState:
    return PeerState(
        id=member.node_id,
        name=member.name,
        public_key=member.public_key,
        role=member.role,
        macs=member.macs,
        ips=_plain_addresses(member),
        endpoints=[each for each in member.endpoints if _is_endpoint(each)],
        warm=is_warm,
    )


def _plain_addresses(member: Member) -> list[str]:
    """Return the member's addresses without prefix length, the link-local ones included.

    Every host speaks from its link-local address in neighbour discovery, so it belongs to
    what the receivers' source check allows. A gateway's machine doesn't speak.
    """
    own = [address.partition("/")[0] for address in member.ips]
    if member.role == "gateway":
        return own
    return own + [local for local in map(link_local, member.macs) if local not in own]


def _usable(vsubnet: HeldVSubnet, own_id: str) -> Iterator[Member]:
    """Yield the peers that the data plane can take: one bad entry must not block the others."""
    seen: set[str] = set()
    for member in vsubnet.readable():
        if member.node_id == own_id or member.public_key in seen:
            continue
        if _has_key(member, vsubnet.header.suite):
            seen.add(member.public_key)
            yield member


def _has_key(member: Member, suite: int) -> bool:
    try:
        octets = len(base64.b64decode(member.public_key, validate=True))
    except (binascii.Error, ValueError):
        return False
    return octets == _KEY_OCTETS.get(suite)


def _is_endpoint(text: str) -> bool:
    """Return whether this is "192.0.2.7:8002" or "[2001:db8::7]:8002"."""
    host, _, port = text.rpartition(":")
    is_bracketed = host.startswith("[") and host.endswith("]")
    try:
        address = ipaddress.ip_address(host[1:-1] if is_bracketed else host)
    except ValueError:
        return False
    is_port = port.isascii() and port.isdecimal() and 0 < int(port) < 65536
    return is_port and is_bracketed == (address.version == 6)
