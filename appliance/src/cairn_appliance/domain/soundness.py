"""What a stored value must be like, beyond its types, for a netmap to be made of it.

What comes by the APIs is checked there. What was edited by hand, or written by something that
went wrong, was not: one such value is set aside, and no reason to serve nobody.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress

from cairn_appliance.domain.errors import Invalid
from cairn_appliance.domain.member import Member
from cairn_appliance.domain.node import Node, Registration
from cairn_appliance.domain.segment import (
    Preflight,
    Segment,
    checked_guards,
    checked_listening,
    checked_port,
    checked_vlan,
    is_station,
)
from cairn_appliance.domain.vsubnet import (
    VNI_MAX,
    Psks,
    VSubnet,
    checked_mtu,
    checked_policy,
    checked_prefixes,
)

_KEY_OCTETS = 32
_EPOCH_MAX = 0xFFFF
_SUITE_MAX = 0xFF
_COUNTER_MAX = 1 << 53  # that any JSON reader takes as it is


def flaw_of(value: object) -> str:
    """Return what is wrong with a value, as a part of a sentence; empty where nothing is."""
    try:
        _check(value)
    except Invalid as error:
        return error.cause
    except ValueError as error:
        return str(error)
    return ""


def _check(value: object) -> None:
    match value:
        case VSubnet():
            _check_vsubnet(value)
        case Psks():
            _require(all(1 <= psk.epoch <= _EPOCH_MAX for psk in value.epochs), "an epoch")
        case Member():
            _require(is_station(value.mac), "the MAC address")
            for ip in value.ips:
                ipaddress.ip_address(ip)
        case Node():
            _check_key(value.data_public_key)
        case Registration():
            _require(0 <= value.sessions_since < _COUNTER_MAX, "the generation")
        case Segment():
            checked_guards(value.guards)
            for gateway in value.gateways:
                checked_port(gateway.port)
                checked_vlan(gateway.vlan)
        case Preflight():
            checked_port(value.port)
            checked_vlan(value.vlan)
            checked_listening(value.listen_s)
        case _:
            pass


def _check_vsubnet(vsubnet: VSubnet) -> None:
    _require(1 <= vsubnet.vni <= VNI_MAX, f"VNI {vsubnet.vni}")
    _require(0 <= vsubnet.suite <= _SUITE_MAX, f"suite {vsubnet.suite}")
    checked_prefixes(vsubnet.prefixes)
    checked_mtu(vsubnet.mtu)
    checked_policy(vsubnet.policy)
    for ip in vsubnet.policy.shared_ips:
        ipaddress.ip_address(ip)


def _check_key(text: str) -> None:
    try:
        is_key = len(base64.b64decode(text, validate=True)) == _KEY_OCTETS
    except binascii.Error:
        is_key = False
    _require(is_key, "the public key")


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise Invalid(f"{what} can't be")
