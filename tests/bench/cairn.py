"""Cairn on a pair: two data planes as `make setup` built them, and the bench as their agent."""

from __future__ import annotations

import base64
import json
import socket
import uuid
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from tests.bench.pair import INNER_MTU, End, Pair
from tests.lab import ROOT, LabError, until

BINARY = ROOT / "build" / "bin" / "cairn-dataplane"
_VNI, _TAP = 7, "cairn7"
_PSK = base64.b64encode(b"\x07" * 32).decode()
_AES_256_GCM = 1
_SEGMENTS = 65_507 // (INNER_MTU + 14 + 34)  # Ethernet header; ours, prefix and tag


def start(pair: Pair) -> None:
    """Start both data planes and tell each of the other (docs/protocol.md, Control socket)."""
    cluster = str(uuid.uuid4())
    keys = {end.number: X25519PrivateKey.generate() for end in pair.ends}
    for end in pair.ends:
        _make_tap(end)
        end.address(_TAP, mtu=INNER_MTU)
        command = [str(BINARY), "--socket", str(end.directory / "dp.sock")]
        end.own(end.machine.start(command, name="cairn-dataplane"))
    for end, other in (pair.ends, pair.ends[::-1]):
        state = _state(end, other, keys, cluster)
        until("the data plane listens", lambda end=end: _listens(end), within_s=5)  # type: ignore[misc]
        ask(end.directory / "dp.sock", "apply", generation=1, state=state)


def _make_tap(end: End) -> None:
    end.machine.sysctl(net__ipv6__conf__default__disable_ipv6=1)  # else its ND is in the figures
    end.machine.ip(
        f"tuntap add dev {_TAP} mode tap vnet_hdr multi_queue",
        # As the agent makes it (cairn_agent.host.taps): a superframe fits one send.
        f"link set {_TAP} address {_mac(end)} txqueuelen 1000 "
        f"gso_max_segs {_SEGMENTS} gso_max_size 65536",
    )


def _listens(end: End) -> bool:
    with socket.socket(socket.AF_UNIX) as stream:
        return stream.connect_ex(str(end.directory / "dp.sock")) == 0


def _mac(end: End) -> str:
    return f"02:00:00:00:00:{end.number:02x}"


def _id(end: End) -> str:
    return str(uuid.UUID(int=end.number))


def _state(
    end: End, other: End, keys: dict[int, X25519PrivateKey], cluster: str
) -> dict[str, object]:
    peer = {
        "id": _id(other),
        "name": other.machine.name,
        "public_key": base64.b64encode(keys[other.number].public_key().public_bytes_raw()).decode(),
        "role": "host",
        "macs": [_mac(other)],
        "ips": [other.inner],
        "endpoints": [f"{other.underlay}:8002"],
        "warm": True,
    }
    vsubnet = {
        "vni": _VNI,
        "suite": _AES_256_GCM,
        "tap": _TAP,
        "mtu": INNER_MTU,
        "psks": [{"epoch": 1, "key": _PSK}],
        "role": "host",
        "macs": [_mac(end)],
        "ips": [end.inner],
        "peers": [peer],
    }
    private = base64.b64encode(keys[end.number].private_bytes_raw()).decode()
    return {
        "cluster_id": cluster,
        "node": {"id": _id(end), "private_key": private},
        "port": 8002,
        "revision": 1,
        "vsubnets": [vsubnet],
    }


def ask(path: Path, op: str, **fields: object) -> dict[str, Any]:
    """Return the data plane's answer to a request."""
    with socket.socket(socket.AF_UNIX) as stream:
        stream.settimeout(10)
        stream.connect(str(path))
        stream.sendall(json.dumps({"id": 1, "op": op, **fields}).encode() + b"\n")
        with stream.makefile("rb") as lines:
            answer: dict[str, Any] = json.loads(lines.readline())
    if not answer.get("ok"):
        raise LabError(f"the data plane refused {op}: {answer}")
    return answer
