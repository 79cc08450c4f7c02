"""What doesn't cross a gateway's bridge: one nftables table of the bridge family, loaded whole.

Per vSubnet and direction one chain, entered between LAN port and TAP (and between the TAP and
the host itself, which has its address on the bridge in one-NIC mode). Counters and what was
seen outlive each load; the limits begin anew.

Link-local groups are the kernel's matter, except for BPDUs: a Linux bridge without STP forwards
those. PAUSE and LLDP to 01:80:c2:00:00:0e end before any hook, and so are not counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cairn_agent.errors import AgentError, Environment
from cairn_agent.protocol.gateway import MAX_FROZEN, Guards

log = logging.getLogger(__name__)

TABLE: Final = "cairn_gateway"
PROBE_ETHERTYPE: Final = 0x88B5  # of the loop probes: IEEE 802 local experimental 1
LAN, OVERLAY = "lan", "overlay"  # where a frame comes from
_SEEN: Final = ("rogue_dhcp", "rogue_ra", "spoofed_mac", "storm")
_SEEN_S: Final = 600
_MOST_SEEN: Final = 1024
_MOST_SOURCES: Final = 4096  # stations whose broadcasts are counted at once, per direction
_SOURCE_S: Final = 10
_ADDRESS_TYPES: Final = {"ip4": "ipv4_addr", "ip6": "ipv6_addr"}
_MOST_ADDRESSES: Final = 2048  # of the stations of one LAN, per family
_ADDRESS_S: Final = 600
_FROZEN_S: Final = 600  # unless it is said for how long
_NFT_S: Final = 10.0
_TAGGED_TWICE: Final = [0x8100, 0x88A8, 0x9100]
COUNTERS: Final = (
    "passed",
    "loop_probe",
    "link_local_group",
    "vendor_group",
    "pause",
    "qinq",
    "malformed_arp",
    "malformed_nd",
    "dhcp",
    "router_advertisement",
    "spoofed_mac",
    "frozen",
    "source_storm",
    "storm",
)


@dataclass(frozen=True, slots=True)
class GuardsWanted:
    """The guards of one bridge."""

    vni: int
    lan: str  # the LAN port's interface
    tap: str
    guards: Guards
    overlay_macs: frozenset[str]
    has_host: bool  # the bridge has the host's own address


@dataclass(frozen=True, slots=True)
class Seen:
    """Who did what isn't let across."""

    code: str  # `rogue_dhcp`, `rogue_ra`, `spoofed_mac`, `storm`
    port: str  # the interface that it came in by
    mac: str


@dataclass(frozen=True, slots=True)
class Noted:
    """What the guards of a bridge wrote down within the last ten minutes."""

    seen: tuple[Seen, ...]
    addresses: Mapping[str, tuple[str, ...]]  # MAC on the LAN -> IPs it speaks ARP or ND for


async def ensure_guards(wanted: Sequence[GuardsWanted]) -> bool:
    """Load the table unless it is as it should be; return whether it was loaded.

    One transaction: there is no moment without guards, or with half of them. Without bridges
    there is no table.
    """
    if not wanted:
        return await remove_guards()
    digest = _digest(wanted)
    if _has(await _list("counters"), "counter", digest):
        return False
    present = await _list()
    # nft can't add a dynamic set that is there already: it takes it for another one.
    ruleset = [c for c in _ruleset(wanted, digest) if not _adds_present_set(c, present)]
    await _nft({"nftables": [*ruleset, *_left_over(wanted, digest, present)]})
    return True


async def remove_guards() -> bool:
    """Take the table away, with its counters; return whether there was one."""
    if not await _list():
        return False
    await _nft({"nftables": [{"delete": {"table": _named(TABLE)}}]})
    return True


async def read_counters(vni: int) -> dict[str, int]:
    """Return frames by counter and direction (`dhcp_from_lan`), since the bridge was made."""
    return (await read_all_counters()).get(vni, {})


async def read_all_counters() -> dict[int, dict[str, int]]:
    """Return the counters of all bridges, by VNI."""
    found: dict[int, dict[str, int]] = {}
    for item in await _list("counters"):
        counter = item.get("counter")
        if counter is None or counter["table"] != TABLE or counter["family"] != "bridge":
            continue
        vni, _, name = counter["name"].removeprefix("v").partition("_")
        if vni.isdigit():
            found.setdefault(int(vni), {})[name] = int(counter["packets"])
    return found


async def read_noted(vni: int) -> Noted:
    """Return who did what isn't let across any bridge, and who has which address on this LAN."""
    seen: list[Seen] = []
    spoken: list[tuple[str, str, int]] = []
    of_lan = {_addresses(vni, family) for family in _ADDRESS_TYPES}
    for item in await _list():
        name = item.get("set", {}).get("name")
        if name in _SEEN:
            seen += [Seen(name, port, mac) for port, mac, _ in _elements(item["set"])]
        elif name in of_lan:
            spoken += _elements(item["set"])
    seen.sort(key=lambda seen: (seen.code, seen.port, seen.mac))
    return Noted(tuple(seen), last_speakers(spoken))


def last_speakers(spoken: Iterable[tuple[str, str, int]]) -> dict[str, tuple[str, ...]]:
    """Return MAC -> addresses from (MAC, address, seconds until that is forgotten).

    An address that went to another machine, as one of VRRP does, is that one's alone; of two
    that spoke for it within one second both have it.
    """
    spoken = list(spoken)
    latest: dict[str, int] = {}
    for _, address, left_s in spoken:
        latest[address] = max(left_s, latest.get(address, 0))
    found: dict[str, set[str]] = {}
    for mac, address, left_s in spoken:
        if left_s == latest[address]:
            found.setdefault(mac, set()).add(address)
    return {mac: tuple(sorted(addresses)) for mac, addresses in found.items()}


def _elements(listed: Mapping[str, Any]) -> list[tuple[str, str, int]]:
    """Return the elements of a set that has two fields, with the seconds that each has left."""
    elements = (element["elem"] for element in listed.get("elem", []))
    return [(*each["val"]["concat"], int(each["expires"])) for each in elements]


async def hold_frozen(vni: int, frozen: Mapping[str, int]) -> None:
    """Let nothing across of these MACs (-> whole seconds that are left) from the LAN, others may.

    The kernel lets each go by itself, also where nobody is there any more to say so. Without
    the bridge's guards there is nothing to do: nothing crosses.
    """
    listed = next(
        (item["set"] for item in await _list() if item.get("set", {}).get("name") == _frozen(vni)),
        None,
    )
    if listed is None:
        return
    held = {element["elem"]["val"] for element in listed.get("elem", [])}
    commands = [_element("delete", vni, mac) for mac in sorted(held - frozen.keys())]
    commands += [
        _element("add", vni, {"elem": {"val": mac, "timeout": max(1, left_s)}})
        for mac, left_s in sorted(frozen.items())
        if mac not in held
    ]
    if commands:
        await _nft({"nftables": commands})


def _digest(wanted: Sequence[GuardsWanted]) -> str:
    """Return the name of the counter that says which ruleset is loaded."""
    octets = json.dumps(_ruleset(wanted, ""), sort_keys=True).encode()
    return f"as_{hashlib.sha256(octets).hexdigest()[:16]}"


def _ruleset(wanted: Sequence[GuardsWanted], digest: str) -> list[dict[str, Any]]:
    commands = [_add("table", {"family": "bridge", "name": TABLE})]
    commands += [_add("counter", _named(digest))] if digest else []
    commands += [_add("set", _seen_set(name)) for name in _SEEN]
    for hook in ("forward", "input", "output"):
        base = {"type": "filter", "hook": hook, "prio": -200, "policy": "accept"}
        commands += _chain(hook, [], base)
    for one in sorted(wanted, key=lambda one: one.vni):
        commands += _declarations(one)
        for side in (LAN, OVERLAY):
            commands += _chain(f"v{one.vni}_{side}_storm", _storm_chain(one, side))
            commands += _chain(f"v{one.vni}_{side}", _rules(one, side))
        commands += _chain(f"v{one.vni}_host", _host_rules(one))
        commands += _entrances(one)
    return commands


def _declarations(one: GuardsWanted) -> list[dict[str, Any]]:
    macs = {"name": _macs(one), "type": "ether_addr"}
    commands = [_add("set", _in_table(macs)), {"flush": {"set": _named(_macs(one))}}]
    if one.overlay_macs:
        elements = {"elem": sorted(one.overlay_macs)}
        commands.append(_add("element", _named(_macs(one)) | elements))
    frozen = {"name": _frozen(one.vni), "type": "ether_addr", "size": MAX_FROZEN}
    commands.append(_add("set", _in_table(frozen | _expiring(_FROZEN_S))))
    for side in (LAN, OVERLAY):
        commands += [_add("counter", _named(_counter(one, name, side))) for name in COUNTERS]
        sources = {"name": _sources(one, side), "type": "ether_addr", "size": _MOST_SOURCES}
        commands.append(_add("set", _in_table(sources | _expiring(_SOURCE_S))))
    for family, kind in _ADDRESS_TYPES.items():
        addresses = {"name": _addresses(one.vni, family), "type": ["ether_addr", kind]}
        body = addresses | {"size": _MOST_ADDRESSES} | _expiring(_ADDRESS_S)
        commands.append(_add("set", _in_table(body)))
    return commands


def _entrances(one: GuardsWanted) -> list[dict[str, Any]]:
    """Return the rules of the hooks; the names of ports are all that a rule can go by.

    (NFT_BRIDGE_META, which knows the bridge, is not in every kernel.)
    """
    lan, tap = one.lan, one.tap
    ended = (_group_match(), _match("!=", _field("ether", "daddr"), "01:80:c2:00:00:00"))
    rules = [
        ("forward", [_iif(lan), _oif(tap), _goto(one, LAN)]),
        ("forward", [_iif(tap), _oif(lan), _goto(one, OVERLAY)]),
        # What isn't between the two ports of one bridge has no way through either.
        *(("forward", [match, *_drop()]) for port in (lan, tap) for match in (_iif(port),)),
        *(("forward", [match, *_drop()]) for port in (lan, tap) for match in (_oif(port),)),
        # Of these the kernel forwards none but BPDUs; the others end here, for the host's LLDP.
        ("input", [_iif(lan), *ended, *_count(one, "link_local_group", LAN), _accept()]),
        ("input", [_iif(tap), *ended, *_count(one, "link_local_group", OVERLAY), *_drop()]),
    ]
    if one.has_host:
        rules += [
            ("input", [_iif(tap), {"jump": {"target": f"v{one.vni}_host"}}]),
            ("output", [_oif(tap), _goto(one, LAN)]),
        ]
    else:
        # A bridge without address: the host takes no part, neither by answering ARP nor by
        # reports of its own groups; only the bridge itself asks who listens.
        for port in (lan, tap):
            rules.append(("input", [_iif(port), *_drop()]))
            rules += [("output", [_oif(port), *asks, _accept()]) for asks in _QUERIES]
            rules.append(("output", [_oif(port), *_drop()]))
    return [_rule(chain, expression) for chain, expression in rules]


def _rules(one: GuardsWanted, side: str) -> list[list[dict[str, Any]]]:
    def refuse(name: str, *matches: dict[str, Any]) -> list[dict[str, Any]]:
        return [*matches, *_count(one, name, side), *_drop()]

    def note(code: str, *matches: dict[str, Any]) -> list[dict[str, Any]]:
        # A rule of its own: where the set is full the rule ends, and the drop must not.
        return [*matches, {"set": {"op": "update", "elem": _WHO, "set": f"@{code}"}}]

    rules = [
        refuse("loop_probe", _ether("type", PROBE_ETHERTYPE)),
        refuse("pause", _ether("type", 0x8808)),
        refuse("link_local_group", _group_match()),
        refuse("link_local_group", _ether("type", [0x88CC, 0x8809, 0x888E])),  # to other groups
        refuse("vendor_group", _ether("daddr", "01:00:0c:cc:cc:cc")),
        refuse("vendor_group", _ether("daddr", "01:00:0c:cc:cc:cd")),
        *(refuse("qinq", match) for match in _QINQ),
        refuse("qinq", _ether("type", "8021q"), _equal(_field("vlan", "type"), _TAGGED_TWICE)),
    ]
    if side == LAN:
        spoofed = _equal(_field("ether", "saddr"), f"@{_macs(one)}")
        lying = _equal(_field("arp", "saddr ether"), f"@{_macs(one)}")
        for spoof in ([spoofed], [_ARP, lying]):
            rules += [note("spoofed_mac", *spoof), refuse("spoofed_mac", *spoof)]
        held = f"@{_frozen(one.vni)}"
        rules += [
            refuse("frozen", _equal(_field("ether", "saddr"), held)),
            refuse("frozen", _ARP, _equal(_field("arp", "saddr ether"), held)),
        ]
    rules += [refuse("malformed_arp", _ARP, match) for match in _BAD_ARP]
    rules += [refuse("malformed_nd", *_ND, match) for match in _BAD_ND]
    rules.append(refuse("malformed_nd", *_FRAGMENTED_ND))
    if not one.guards.dhcp:
        for served in _DHCP_SERVER:
            rules += [note("rogue_dhcp", *served), refuse("dhcp", *served)]
    if not one.guards.router_advertisements:
        rules += [note("rogue_ra", *_RA), refuse("router_advertisement", *_RA)]
    rules += _limits(one, side, refuse, note)
    rules += _address_rules(one) if side == LAN else []
    rules.append(_count(one, "passed", side))
    return rules


def _host_rules(one: GuardsWanted) -> list[list[dict[str, Any]]]:
    """Return what keeps the overlay's servers and routers from the host's own address.

    Not counted: what goes to many passes the forward chain too, which counts it.
    """
    rules = [[_ether("type", PROBE_ETHERTYPE), *_drop()]]
    if not one.guards.dhcp:
        rules += [[*served, *_drop()] for served in _DHCP_SERVER]
    if not one.guards.router_advertisements:
        rules += [[*_RA, *_drop()], [*_FRAGMENTED_ND, *_drop()]]
    return rules


def _limits(one: GuardsWanted, side: str, refuse: Any, note: Any) -> list[list[dict[str, Any]]]:
    """Return the rules that limit what is copied to many; bursts are within the rate."""
    sources, source_pps = _sources(one, side), one.guards.source_bum_pps
    over = {"op": "update", "elem": _field("ether", "saddr"), "set": f"@{sources}"}
    per_source = {"set": over | {"stmt": [_limit_over(source_pps)]}}
    chain = {"jump": {"target": f"v{one.vni}_{side}_storm"}}
    return [
        [_TO_MANY, per_source, chain],
        refuse("storm", _TO_MANY, _limit_over(one.guards.bum_pps)),
    ]


def _address_rules(one: GuardsWanted) -> list[list[dict[str, Any]]]:
    """Return the rules that write down who speaks for which address; they let all pass."""

    def note(family: str, address: dict[str, Any]) -> dict[str, Any]:
        who = {"concat": [_field("ether", "saddr"), address]}
        return {"set": {"op": "update", "elem": who, "set": f"@{_addresses(one.vni, family)}"}}

    sender, source = _field("arp", "saddr ip"), _field("ip6", "saddr")
    return [  # who asks whether an address is free has none yet; link-local ones tell nothing
        [_ARP, _match("!=", sender, "0.0.0.0"), note("ip4", sender)],
        [*_ND, _match("!=", source, "::"), _match("!=", source, _LINK_LOCAL), note("ip6", source)],
    ]


def _limit_over(rate: int) -> dict[str, Any]:
    """Return a match of what is over; in no second more than `rate` frames are under it."""
    burst = max(1, rate // 10)
    each = max(1, rate - burst)
    return {"limit": {"rate": each, "burst": burst, "per": "second", "inv": True}}


def _storm_chain(one: GuardsWanted, side: str) -> list[list[dict[str, Any]]]:
    return [
        [{"set": {"op": "update", "elem": _WHO, "set": "@storm"}}],
        [*_count(one, "source_storm", side), *_drop()],
    ]


def _left_over(
    wanted: Sequence[GuardsWanted], digest: str, present: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return commands that take away what the ruleset no longer has: chains, then the rest."""
    kept = {
        command["add"][kind]["name"]
        for command in _ruleset(wanted, digest)
        if "add" in command
        for kind in command["add"]
        if "name" in command["add"][kind]
    }
    commands: list[dict[str, Any]] = []
    for kind in ("chain", "set", "counter"):
        names = [item[kind]["name"] for item in present if kind in item]
        gone = [name for name in names if name not in kept]
        if kind == "chain":
            commands += [{"flush": {"chain": _named(name)}} for name in gone]
        commands += [{"delete": {kind: _named(name)}} for name in gone]
    return commands


def _chain(
    name: str, rules: Iterable[list[dict[str, Any]]], base: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    commands = [_add("chain", _named(name) | dict(base or {})), {"flush": {"chain": _named(name)}}]
    return commands + [_rule(name, expression) for expression in rules]


def _rule(chain: str, expression: list[dict[str, Any]]) -> dict[str, Any]:
    return _add("rule", {"family": "bridge", "table": TABLE, "chain": chain, "expr": expression})


def _add(kind: str, body: Mapping[str, Any]) -> dict[str, Any]:
    return {"add": {kind: dict(body)}}


def _named(name: str) -> dict[str, Any]:
    if name == TABLE:
        return {"family": "bridge", "name": TABLE}
    return {"family": "bridge", "table": TABLE, "name": name}


def _in_table(body: Mapping[str, Any]) -> dict[str, Any]:
    return {"family": "bridge", "table": TABLE, **body}


def _seen_set(name: str) -> dict[str, Any]:
    body = {"name": name, "type": ["ifname", "ether_addr"], "size": _MOST_SEEN}
    return _in_table(body | _expiring(_SEEN_S))


def _expiring(seconds: int) -> dict[str, Any]:
    # nft makes it dynamic by itself for the rules that add to it; 1.0.6 has no word for that.
    return {"flags": ["timeout"], "timeout": seconds}


def _counter(one: GuardsWanted, name: str, side: str) -> str:
    return f"v{one.vni}_{name}_from_{side}"


def _macs(one: GuardsWanted) -> str:
    return f"v{one.vni}_macs"


def _frozen(vni: int) -> str:
    return f"v{vni}_frozen"


def _addresses(vni: int, family: str) -> str:
    return f"v{vni}_{family}"


def _element(verb: str, vni: int, element: object) -> dict[str, Any]:
    return {verb: {"element": _named(_frozen(vni)) | {"elem": [element]}}}


def _sources(one: GuardsWanted, side: str) -> str:
    return f"v{one.vni}_sources_{side}"


def _count(one: GuardsWanted, name: str, side: str) -> list[dict[str, Any]]:
    return [{"counter": _counter(one, name, side)}]


def _drop() -> list[dict[str, Any]]:
    return [{"drop": None}]


def _accept() -> dict[str, Any]:
    return {"accept": None}


def _goto(one: GuardsWanted, side: str) -> dict[str, Any]:
    """Return a jump that doesn't come back: what the chain lets pass has passed."""
    return {"goto": {"target": f"v{one.vni}_{side}"}}


def _field(protocol: str, field: str) -> dict[str, Any]:
    return {"payload": {"protocol": protocol, "field": field}}


def _meta(key: str) -> dict[str, Any]:
    return {"meta": {"key": key}}


def _match(op: str, left: dict[str, Any], right: object) -> dict[str, Any]:
    return {"match": {"op": op, "left": left, "right": right}}


def _equal(left: dict[str, Any], right: object) -> dict[str, Any]:
    return _match("==", left, {"set": right} if isinstance(right, list) else right)


def _ether(field: str, value: object) -> dict[str, Any]:
    return _equal(_field("ether", field), value)


def _iif(port: str) -> dict[str, Any]:
    return _equal(_meta("iifname"), port)


def _oif(port: str) -> dict[str, Any]:
    return _equal(_meta("oifname"), port)


def _masked(field: str, mask: str, value: str) -> dict[str, Any]:
    return _equal({"&": [_field("ether", field), mask]}, value)


def _group_match() -> dict[str, Any]:
    """Match 01:80:c2:00:00:00 to :0f, which IEEE 802.1D says no bridge forwards."""
    return _masked("daddr", "ff:ff:ff:ff:ff:f0", "01:80:c2:00:00:00")


# Of what a frame holds inside one tag too: `meta protocol` is what is in the tag.
_ARP: Final = _equal(_meta("protocol"), "arp")
_IP4: Final = _equal(_meta("protocol"), "ip")
_IP6: Final = _equal(_meta("protocol"), "ip6")
_WHO: Final = {"concat": [_meta("iifname"), _field("ether", "saddr")]}
_TO_MANY: Final = _masked("daddr", "01:00:00:00:00:00", "01:00:00:00:00:00")
_QINQ: Final = (
    _equal(_field("ether", "type"), [0x88A8, 0x9100]),
    _equal(_meta("protocol"), _TAGGED_TWICE),
)
_BAD_ARP: Final = (
    _match("!=", _field("arp", "htype"), 1),
    _match("!=", _field("arp", "ptype"), 0x0800),
    _match("!=", _field("arp", "hlen"), 6),
    _match("!=", _field("arp", "plen"), 4),
    _match(">", _field("arp", "operation"), 9),
    _match("<", _meta("length"), 28),
)
_ND: Final = (
    _IP6,
    _match("==", _field("icmpv6", "type"), {"range": [133, 137]}),
)
_BAD_ND: Final = (_match("!=", _field("ip6", "hoplimit"), 255),)
_LINK_LOCAL: Final = {"prefix": {"addr": "fe80::", "len": 10}}
# RFC 6980: never in fragments; RFC 7113: that is how RAs slip through. They come from link-local.
_FRAGMENTED_ND: Final = (
    _IP6,
    _equal(_field("ip6", "saddr"), _LINK_LOCAL),
    _equal(_field("ip6", "hoplimit"), 255),
    _equal({"exthdr": {"name": "frag"}}, True),
)
_RA: Final = (_IP6, _equal(_field("icmpv6", "type"), ["nd-router-advert", "nd-redirect"]))
_QUERIES: Final = (
    (_IP4, _equal(_field("igmp", "type"), 0x11)),
    (_IP6, _equal(_field("icmpv6", "type"), 130)),
)
_DHCP_SERVER: Final = (
    (_IP4, _equal(_field("udp", "sport"), 67)),
    (_IP4, _equal(_field("udp", "dport"), 68)),
    (_IP6, _equal(_field("udp", "sport"), 547)),
    (_IP6, _equal(_field("udp", "dport"), 546)),
)


async def _list(what: str = "table") -> list[dict[str, Any]]:
    """Return what is loaded; nothing where the table isn't."""
    command = {"list": {"table": _named(TABLE)}}
    if what == "counters":
        command = {"list": {"counters": {"family": "bridge", "table": TABLE}}}
    try:
        listed = await _nft({"nftables": [command]})
    except Environment as error:
        if "No such file" in error.cause:
            return []
        raise
    return [item for item in listed if "metainfo" not in item]


def _adds_present_set(command: Mapping[str, Any], present: Iterable[Mapping[str, Any]]) -> bool:
    added = command.get("add", {}).get("set")
    return added is not None and _has(present, "set", added["name"])


def _has(present: Iterable[Mapping[str, Any]], kind: str, name: str) -> bool:
    return any(kind in item and item[kind]["name"] == name for item in present)


async def _nft(commands: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Give nft its commands; raise Environment with what it says."""
    pipe = asyncio.subprocess.PIPE
    try:
        process = await asyncio.create_subprocess_exec(
            "nft", "-j", "-f", "-", stdin=pipe, stdout=pipe, stderr=pipe
        )
    except OSError as error:
        raise Environment(
            f"the guards can't be loaded: nft: {error.strerror}",
            "install nftables (apt install nftables)",
        ) from error
    try:
        async with asyncio.timeout(_NFT_S):
            out, err = await process.communicate(json.dumps(commands).encode())
    except TimeoutError:
        raise _failed(f"nft did not end within {_NFT_S:g} s") from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode != 0:
        raise _failed(" ".join(err.decode(errors="replace").split())[:300])
    listed: list[dict[str, Any]] = json.loads(out)["nftables"] if out.strip() else []
    return listed


def _failed(what: str) -> AgentError:
    return Environment(
        f"the guards of the gateway can't be loaded: {what}",
        "nothing is bridged without them; look at `nft list ruleset` and the kernel's modules "
        "(nf_tables, nf_tables_bridge)",
    )
