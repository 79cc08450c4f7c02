"""Answers of a large cluster, made by the API's own models so that they can't be others.

What a page does with a thousand nodes is asked of the browser, not of the appliance: the
appliance's own bars with a thousand agents are in tests/sim.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

from cairn_appliance.api.ops_v1.models import (
    EventOut,
    MemberOut,
    NodeOut,
    PolicyModel,
    PreflightOut,
    SegmentOut,
    StationOut,
    VSubnetOut,
)
from cairn_appliance.api.ops_v1.models_views import LatencyOut, TableOut, TopologyOut

VSUBNET = {"id": str(uuid.UUID(int=7)), "name": "office-lan", "vni": 4711}
SEGMENT = str(uuid.UUID(int=8))
TASK = "9f0c"
_NOW = datetime.now(UTC)


def node_id(index: int) -> str:
    """Return the ID of a node."""
    return str(uuid.UUID(int=0x10000 + index))


def ref(index: int, name: str = "") -> dict[str, str]:
    """Return a node as others name it."""
    return {"id": node_id(index), "name": name or f"vm-{index}"}


def segment(name: str = "office") -> dict[str, Any]:
    """Return a segment with a forwarder, one that stands by, and one that could not."""
    guards = {"dhcp": False, "router_advertisements": False, "silent_hosts": []}
    guards |= {"mac_limit": 1024, "bum_pps": 1000, "source_bum_pps": 200}
    counters = {"dhcp_dropped": 12, "bum_dropped": 3456, "loops": 0}
    common = {"port": "eth1", "vlan": 0, "stations": 12, "counters": counters, "code": ""}
    well = {**common, "able": True, "why_not": "", "heard_ago_s": 0.3}
    ill = {**common, "able": False, "why_not": "the port eth1 has no carrier"}
    shown = {
        "id": SEGMENT,
        "name": name,
        "vsubnet": VSUBNET,
        "preference": "safety",
        "bridging": True,
        "guards": guards,
        "created_at": _NOW,
        "forwarder": ref(0),
        "next": None,
        "term": 4,
        "since": _NOW - timedelta(hours=3),
        "held_down": False,
        "gateways": [
            {**well, "node": ref(0), "forwards": True},
            {**well, "node": ref(1), "forwards": False},
            {**ill, "node": ref(2), "forwards": False, "heard_ago_s": None, "vlan": 20},
        ],
    }
    return SegmentOut.model_validate(shown).model_dump(mode="json")


def stations(count: int = 12) -> list[dict[str, Any]]:
    """Return machines on the LAN; the last one moved too often."""
    return [
        StationOut(
            mac=f"02:00:00:00:00:{index:02x}",
            ips=[f"10.7.0.{index + 10}"],
            since=_NOW - timedelta(minutes=index),
            moves=6 if index == count - 1 else 0,
            frozen=index == count - 1,
        ).model_dump(mode="json")
        for index in range(count)
    ]


def preflight(*, done: bool = True) -> dict[str, Any]:
    """Return a pre-flight that says no."""
    heard = [
        ("dhcp_server", "handled", "a DHCP server at 10.7.0.1", "its answers do not cross"),
        ("duplicate_ip", "no_go", "10.7.0.12 is on both sides", "give one another address first"),
    ]
    keys = ("code", "level", "what", "guard")
    shown = {
        "task": TASK,
        "node": ref(0),
        "vsubnet": VSUBNET,
        "port": "eth1",
        "vlan": 0,
        "listen_s": 20.0,
        "asked_at": _NOW,
        "done": done,
        "go": False,
        "heard_s": 20.0,
        "frames": 4120,
        "findings": [dict(zip(keys, each, strict=True)) for each in heard] if done else [],
        "error": "",
    }
    return PreflightOut.model_validate(shown).model_dump(mode="json")


def topology(nodes: int, sites: int, peers: int, name: str = "vm-{}") -> dict[str, Any]:
    """Return nodes in sites, each with sessions to the next `peers` of them."""
    health = ["up"] * 17 + ["stale", "down", "pending"]
    shown = [
        {
            "id": node_id(index),
            "name": name.format(index),
            "site": f"site-{index % sites}",
            "state": "approved",
            "health": health[index % 20] if nodes > 20 else "up",
            "connected": True,
            "role": "gateway" if index % 50 == 0 else "host",
            "gateways": [SEGMENT] if index == 0 else [],
            "vsubnets": [VSUBNET["id"]],
            "reported_at": _NOW,
            "stale": False,
        }
        for index in range(nodes)
    ]
    pairs = {
        tuple(sorted((index, (index + step) % nodes)))
        for index in range(nodes)
        for step in range(1, peers + 1)
        if nodes > 1
    }
    edges = [
        {
            "a": node_id(a),
            "b": node_id(b),
            "vsubnets": [VSUBNET["id"]],
            "path": ("direct", "relayed", "gateway")[(a + b) % 3],
            "rtt_ms": None if (a + b) % 31 == 0 else float((a * 7 + b) % 200),
            "loss": 0.0,
            "mtu": 1400,
            "up": (a + b) % 40 != 0,
            "stale": False,
            "at": _NOW,
        }
        for a, b in sorted(pairs)
        if a != b
    ]
    lan = {"id": SEGMENT, "name": "office", "vsubnet": VSUBNET["id"], "forwarder": node_id(0)}
    picture = {
        "at": _NOW,
        "sites": [{"name": f"site-{index}"} for index in range(sites)],
        "nodes": shown,
        "edges": edges,
        "segments": [{**lan, "gateways": [node_id(0)], "state": "forwarding"}],
    }
    return TopologyOut.model_validate(picture).model_dump(mode="json")


def nodes(count: int) -> list[dict[str, Any]]:
    """Return nodes as a list has them: connected, away, waiting, one of them a copy."""
    shown = []
    for index in range(count):
        away, waits = index % 20 == 7, index % 100 == 3
        link = {"connected": not away, "since": _NOW - timedelta(hours=2), "last_seen": _NOW}
        link |= {"replica": "m1", "loaded_revision": 100 + index, "refused": ""}
        member = {"vsubnet": VSUBNET, "mac": _mac(index), "ips": [_ip(index)], "role": "host"}
        node = {
            **ref(index),
            "state": "pending" if waits else "approved",
            "site": f"site-{index % 13}",
            "labels": {"tier": "web" if index % 2 else "db"},
            "token": "t1",
            "created_at": _NOW - timedelta(days=30),
            "registered_at": _NOW - timedelta(hours=2),
            "generation": 1,
            "agent_version": "0.1.0",
            "dataplane_version": "0.1.0",
            "offloads": {},
            "endpoints": [f"198.51.{index // 250}.{index % 250 + 1}:8002"],
            "seen_address": f"198.51.{index // 250}.{index % 250 + 1}",
            "machine": {"machine_id": f"{index:032x}"},
            "link": None if waits else link,
            "members": [] if waits else [member],
            "wanted": [VSUBNET] if waits else [],
            "removed_at": None,
            "removed_why": "",
            "copy_of": ref(1) if index == 103 else None,
            "frozen_at": None,
        }
        shown.append(NodeOut.model_validate(node).model_dump(mode="json"))
    return shown


def vsubnet(members: int) -> dict[str, Any]:
    """Return the vSubnet that all of them are on."""
    shown = {
        **VSUBNET,
        "prefixes": ["10.7.0.0/16"],
        "reserved": [],
        "mtu": 1400,
        "suite": 1,
        "policy": PolicyModel(),
        "members": members,
        "created_at": _NOW - timedelta(days=30),
    }
    return VSubnetOut.model_validate(shown).model_dump(mode="json")


def members(count: int) -> list[dict[str, Any]]:
    """Return the members of the vSubnet."""
    return [
        MemberOut.model_validate(
            {
                "vsubnet": VSUBNET,
                "node": ref(index),
                "mac": _mac(index),
                "ips": [_ip(index)],
                "role": "gateway" if index % 50 == 0 else "host",
                "created_at": _NOW - timedelta(days=index % 30),
            }
        ).model_dump(mode="json")
        for index in range(count)
    ]


def table(count: int) -> dict[str, Any]:
    """Return the L2 table of the vSubnet, with a conflict and a frozen station in it."""
    entries = [
        {
            "mac": _mac(index),
            "ips": [_ip(index)],
            "node": node_id(index),
            "node_name": f"vm-{index}",
            "kind": "station" if index % 10 == 9 else "member",
            "gateway_segment": SEGMENT if index % 10 == 9 else None,
            "age_s": float(index % 60),
            "moves": 6 if index == 9 else 0,
            "frozen": index == 9,
            "conflict": "duplicate_ip" if index == 19 else "",
        }
        for index in range(count)
    ]
    counted = {"frames": 12_345, "frames_per_s": 1.5, "dropped": 0}
    by_node = [{**counted, "node": node_id(index)} for index in range(count)]
    bum = {"frames_per_s": 1.5 * count, "dropped_per_s": 0.5, "by_node": by_node}
    whole = {"at": _NOW, "entries": entries, "multicast": [], "bum": bum}
    return TableOut.model_validate(whole).model_dump(mode="json")


def latency(nodes: int, peers: int) -> dict[str, Any]:
    """Return what each node measures to the next `peers` of them."""
    rows = [
        {
            "a": node_id(index),
            "b": node_id(index + step),
            "rtt_ms": float((index * 7 + step) % 200) + 0.4,
            "rtt_max_ms": float((index * 7 + step) % 200) + 3.1,
            "loss": 0.02 if index % 97 == 0 else 0.0,
            "jitter_ms": 0.6,
            "path": "direct",
            "at": _NOW,
        }
        for index in range(nodes)
        for step in range(1, peers + 1)
        if index + step < nodes
    ]
    return LatencyOut.model_validate({"at": _NOW, "rows": rows}).model_dump(mode="json")


def events(count: int) -> list[dict[str, Any]]:
    """Return events of all severities, newest first."""
    return [
        EventOut.model_validate(
            {
                "id": f"{10**13 - index}-x",
                "sequence": 10_000 - index,
                "at": _NOW - timedelta(minutes=index),
                "severity": ("info", "info", "warning", "alarm")[index % 4],
                "kind": ("node_enrolled", "vsubnet_changed", "dhcp_server", "node_frozen")[
                    index % 4
                ],
                "text": f"node vm-{index} has done what it does, and it was written down",
                "by": {"kind": "node", "name": node_id(index), "address": "198.51.100.7"},
                "node": ref(index),
                "vsubnet": VSUBNET,
                "details": {},
            }
        ).model_dump(mode="json")
        for index in range(count)
    ]


def _mac(index: int) -> str:
    return f"02:00:00:00:{index // 256:02x}:{index % 256:02x}"


def _ip(index: int) -> str:
    return f"10.7.{index // 250}.{index % 250 + 1}"
