"""What would happen if this port were bridged: judged from frames that were heard. No I/O.

Each finding has a level: `info` (good to know), `handled` (a guard takes care of it, and says
which), `no_go` (nothing does: people must act first).
"""

from __future__ import annotations

import ipaddress
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from cairn_agent.gateway.probe import ETHERTYPE, MAGIC
from cairn_agent.netmap.held import HeldVSubnet
from cairn_agent.protocol.gateway import Finding, FindingLevel, Guards

_HEADER: Final = 14
_IPV4, _ARP, _IPV6, _NLB_HEARTBEAT = 0x0800, 0x0806, 0x86DD, 0x886F
_BRIDGE_GROUP: Final = bytes.fromhex("0180c2000000")
_PVST_GROUP: Final = bytes.fromhex("01000ccccccd")
_ICMPV6, _UDP, _VRRP = 58, 17, 112
_DHCP_OPTIONS: Final = 8 + 236 + 4  # octets of UDP before them: header, BOOTP, magic cookie
_DHCP_PAD, _DHCP_END, _DHCP_SERVER_ID = 0, 255, 54
_TOP: Final = 5
_NAMED: Final = 8  # of each kind, in a sentence
_MOST_DIFFERENT: Final = 10_000  # MACs, groups, addresses that are kept apart


@dataclass(frozen=True, slots=True)
class Overlay:
    """The vSubnet as its members are known; values are their names."""

    name: str
    mtu: int  # of the inner IP packet; 0: not known, nor are the members
    macs: Mapping[str, str]
    ips: Mapping[str, str]

    @staticmethod
    def of(vsubnet: HeldVSubnet | None) -> Overlay:
        """Return what a vSubnet's hosts are; of one that this node is no member of, nothing."""
        if vsubnet is None:
            return Overlay("the vSubnet", 0, {}, {})
        hosts = [member for member in vsubnet.readable() if member.role == "host"]
        return Overlay(
            vsubnet.header.name,
            vsubnet.header.mtu,
            {mac.lower(): member.name for member in hosts for mac in member.macs},
            {
                str(ipaddress.ip_interface(ip).ip): member.name
                for member in hosts
                for ip in member.ips
            },
        )


@dataclass(slots=True)
class Analysis:
    """Takes one frame after the other, and keeps no more than it needs of them."""

    overlay: Overlay
    vlan: int  # that would be bridged; 0: untagged
    frames: int = 0
    to_many: int = 0
    longest: int = 0  # IP packet
    longest_from: str = ""
    _found: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    def take(self, octets: bytes, length: int, tag: int = 0) -> None:
        """Take in the beginning of a frame, without its 802.1Q tag; `length` is all of it."""
        if tag != self.vlan:
            if not self.vlan and tag:
                self._note("tags", str(tag))
            return
        if len(octets) < _HEADER:
            return
        self.frames += 1
        source = _mac(octets[6:12])
        self._take_addresses(octets[:6], source)
        ethertype, payload = int.from_bytes(octets[12:14], "big"), octets[_HEADER:]
        if ethertype == _ARP:
            self._take_arp(payload)
        elif ethertype == _IPV4:
            self._take_ipv4(source, payload, length - _HEADER)
        elif ethertype == _IPV6:
            self._take_ipv6(source, payload, length - _HEADER)
        elif ethertype == _NLB_HEARTBEAT:
            self._note("nlb", source)
        elif ethertype == ETHERTYPE and payload.startswith(MAGIC):
            self._note("cairn_gateway", source)

    def findings(self, heard_s: float, guards: Guards) -> list[Finding]:
        """Return what it means; the worst first."""
        order: dict[FindingLevel, int] = {"no_go": 0, "handled": 1, "info": 2}
        return sorted(self._findings(heard_s, guards), key=lambda each: order[each.level])

    def _take_addresses(self, destination: bytes, source: str) -> None:
        if destination[0] & 1:
            self.to_many += 1
            self._note("groups", _mac(destination))
        if source in self.overlay.macs:
            self._note("duplicate_mac", source)
        if destination in (_BRIDGE_GROUP, _PVST_GROUP):
            self._note("stp", source)
        if source.startswith(("02:bf:", "03:bf:")):
            self._note("nlb", source)

    def _note(self, kind: str, what: str) -> None:
        kept = self._found[kind]
        if what in kept or len(kept) < _MOST_DIFFERENT:
            kept[what] += 1

    def _take_arp(self, payload: bytes) -> None:
        if len(payload) < 28 or payload[:6] != b"\x00\x01\x08\x00\x06\x04":
            return
        mac, ip = _mac(payload[8:14]), str(ipaddress.IPv4Address(payload[14:18]))
        self._note_address(ip, mac)
        if mac[:5] == "03:bf":
            self._note("nlb", f"{ip} at {mac}")

    def _take_ipv4(self, source: str, payload: bytes, length: int) -> None:
        if len(payload) < 20 or payload[0] >> 4 != 4:
            return
        self._note_length(source, length)
        address = str(ipaddress.IPv4Address(payload[12:16]))
        self._note_address(address, source)
        body = payload[(payload[0] & 15) * 4 :]
        if payload[9] == _VRRP and len(body) >= 8:
            # CARP has VRRP's number; seven words of authentication tell it.
            kind = "carp" if body[0] >> 4 == 2 and body[3] == 7 else "vrrp"
            self._note(kind, f"group {body[1]} of {address} ({source})")
        elif payload[9] == _UDP and len(body) >= 8:
            port = int.from_bytes(body[:2], "big")
            if port == 67 and not _is_relayed_request(body):
                self._note("dhcp_server", f"{address} ({source})")
            elif port == 68 and (server := _asked_server(body)):
                # What servers say goes to their client alone; whom it takes it tells to all.
                self._note("dhcp_server", f"{server} (by what {source} asks of it)")
            elif port == 1985:
                self._note("hsrp", f"{address} ({source})")

    def _take_ipv6(self, source: str, payload: bytes, length: int) -> None:
        if len(payload) < 40 or payload[0] >> 4 != 6:
            return
        self._note_length(source, length)
        address = str(ipaddress.IPv6Address(payload[8:24]))
        body = payload[40:]
        if payload[6] == _ICMPV6 and body[:1] == b"\x86":
            self._note("router_advertiser", f"{address} ({source})")
        elif payload[6] == _ICMPV6 and body[:1] == b"\x88" and len(body) >= 24:
            self._note_address(str(ipaddress.IPv6Address(body[8:24])), source)
        elif payload[6] == _UDP and body[:2] == (547).to_bytes(2, "big"):
            self._note("dhcp_server", f"{address} ({source})")
        elif payload[6] == _VRRP and len(body) >= 8:
            self._note("vrrp", f"group {body[1]} of {address} ({source})")
        else:
            self._note_address(address, source)

    def _note_address(self, address: str, mac: str) -> None:
        if address in self.overlay.ips and mac not in self.overlay.macs:
            self._note("duplicate_ip", f"{address} ({mac})")

    def _note_length(self, source: str, length: int) -> None:
        if length > self.longest:
            self.longest, self.longest_from = length, source

    def _findings(self, heard_s: float, guards: Guards) -> Iterator[Finding]:
        yield from self._conflicts()
        yield from self._guarded(guards)
        yield from self._load(heard_s, guards)
        if not self.overlay.mtu:
            what = "this node is no member of the vSubnet yet: addresses in use on both sides and "
            what += "too long packets can't be told"
            how = "listen again when it has been attached, and is a standby"
            yield Finding("not_compared", "info", what, how)
        if tags := self._named("tags"):
            what = f"frames with 802.1Q tags on this port: VLAN {tags}"
            how = "attach the port with --vlan, once for each VLAN that is to be bridged"
            yield Finding("vlan_tags", "info", what, how)
        if not self.frames:
            what = f"nothing was heard within {heard_s:.0f} s"
            how = "check that it is the right port and VLAN, and that its cable is in"
            yield Finding("silence", "info", what, how)

    def _conflicts(self) -> Iterator[Finding]:
        for mac in list(self._found["duplicate_mac"])[:_NAMED]:
            what = f"{mac} is on this LAN and of {self.overlay.macs[mac]} in {self.overlay.name}"
            how = "a machine is on both, or was cloned: take it off one, or change its MAC"
            yield Finding("duplicate_mac", "no_go", what, how)
        for found in list(self._found["duplicate_ip"])[:_NAMED]:
            member = self.overlay.ips[found.partition(" ")[0]]
            what = f"{found} on this LAN is the address of {member} in {self.overlay.name}"
            how = "change one of them: cairn member set --ip, or on the LAN"
            yield Finding("duplicate_ip", "no_go", what, how)

    def _guarded(self, guards: Guards) -> Iterator[Finding]:
        if servers := self._named("dhcp_server"):
            level, guard = _crossing(guards.dhcp, "DHCP guard: servers' answers don't cross")
            yield Finding("dhcp_server", level, f"DHCP server: {servers}", guard)
        if routers := self._named("router_advertiser"):
            level, guard = _crossing(guards.router_advertisements, "RA guard: RAs don't cross")
            yield Finding("router_advertiser", level, f"IPv6 router: {routers}", guard)
        if bridges := self._named("stp"):
            guard = "BPDUs never cross: the gateway is no part of this LAN's spanning tree"
            yield Finding("stp", "handled", f"spanning tree spoken by {bridges}", guard)
        for code, name in (("vrrp", "VRRP"), ("hsrp", "HSRP"), ("carp", "CARP")):
            if groups := self._named(code):
                guard = "crosses as it is: nobody in the vSubnet may have the same group"
                yield Finding(code, "info", f"{name}: {groups}", guard)
        if clusters := self._named("nlb"):
            guard = "storm guard: frames to a cluster's group MAC count as multicast"
            yield Finding("nlb", "handled", f"Windows NLB: {clusters}", guard)
        if others := self._named("cairn_gateway"):
            guard = "one forwards, the others stand by; probes find a second vSubnet's loop"
            yield Finding("cairn_gateway", "info", f"loop probes of a gateway: {others}", guard)

    def _load(self, heard_s: float, guards: Guards) -> Iterator[Finding]:
        if self.longest > self.overlay.mtu > 0:
            what = (
                f"packets of up to {self.longest:,} octets ({self.longest_from}), "
                f"{self.overlay.name} carries {self.overlay.mtu:,}"
            )
            guard = "too-big guard: the gateway answers with ICMP, and lowers the MSS of TCP"
            yield Finding("mtu", "handled", what, guard)
        rate = self.to_many / heard_s if heard_s > 0 else 0.0
        if rate > guards.bum_pps:
            what = f"{rate:,.0f} broadcast and multicast frames in a second"
            guard = f"storm guard: {guards.bum_pps:,} in a second cross, the rest is dropped"
            yield Finding("bum_rate", "handled", what, guard)
        if groups := self._found["groups"].most_common(_TOP):
            top = ", ".join(f"{mac} ({count / max(heard_s, 0.1):.1f}/s)" for mac, count in groups)
            what = f"{rate:,.1f} broadcast and multicast frames in a second; most: {top}"
            yield Finding("multicast", "info", what, "copied to members that listen")

    def _named(self, kind: str) -> str:
        found = self._found.get(kind)
        if not found:
            return ""
        names = [name for name, _ in found.most_common(_NAMED)]
        more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        return ", ".join(names) + more


def is_go(findings: list[Finding]) -> bool:
    """Return whether nothing forbids bridging."""
    return all(finding.level != "no_go" for finding in findings)


def _crossing(is_allowed: bool, guard: str) -> tuple[FindingLevel, str]:
    """Return level and guard for what a segment may be told to let across."""
    if is_allowed:
        return "info", "allowed across by this segment's guards"
    return "handled", guard


def _is_relayed_request(udp: bytes) -> bool:
    """Whether it is a relay's BOOTREQUEST: those have the server's port as source, too."""
    return len(udp) > 8 and udp[8] == 1


def _asked_server(udp: bytes) -> str:
    """Return the server that a DHCPREQUEST is for (RFC 2131 section 4.3.2); "" where none is."""
    if len(udp) < _DHCP_OPTIONS or udp[_DHCP_OPTIONS - 4 : _DHCP_OPTIONS] != b"\x63\x82\x53\x63":
        return ""
    at = _DHCP_OPTIONS
    while at + 2 <= len(udp) and udp[at] != _DHCP_END:
        if udp[at] == _DHCP_PAD:
            at += 1
            continue
        value = udp[at + 2 : at + 2 + udp[at + 1]]
        if udp[at] == _DHCP_SERVER_ID and len(value) == 4:
            return str(ipaddress.IPv4Address(value))
        at += 2 + udp[at + 1]
    return ""


def _mac(octets: bytes) -> str:
    return octets.hex(":")
