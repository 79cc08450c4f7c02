"""What is set aside of the store although it can be read."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cairn_appliance.domain.damaged import problems_of_values
from cairn_appliance.domain.member import Member
from cairn_appliance.domain.node import Node, NodeState, Registration
from cairn_appliance.domain.segment import Gateway, Guards, Preflight, Segment
from cairn_appliance.domain.soundness import flaw_of
from cairn_appliance.domain.vsubnet import Policy, Psk, Psks, VSubnet

KEY = "A" * 43 + "="
VSUBNET = VSubnet("v", 7, "red", 0.0, ("10.7.0.0/24", "fd00:7::/64"))
MEMBER = Member("v", "n", "02:00:00:00:00:01", 0.0, ("10.7.0.2", "fd00:7::2"))
NODE = Node("n", "web", NodeState.APPROVED, KEY, "", 0.0)
SEGMENT = Segment("s", "lan", "v", 0.0, (Gateway("n", "eth1.7", 7),))


@pytest.mark.parametrize(
    "value",
    [
        VSUBNET,
        replace(VSUBNET, prefixes=()),
        Psks("v", (Psk(65535, "", 0.0),)),
        MEMBER,
        replace(MEMBER, ips=()),
        NODE,
        Registration("n"),
        SEGMENT,
        Preflight("t", "n", "eth1", 0, "v", 0.0),
    ],
)
def test_what_is_sound_has_no_flaw(value: object) -> None:
    assert flaw_of(value) == ""


@pytest.mark.parametrize(
    ("value", "flaw"),
    [
        (replace(VSUBNET, vni=0), "VNI 0 can't be"),
        (replace(VSUBNET, vni=1 << 24), "VNI 16777216 can't be"),
        (replace(VSUBNET, prefixes=("x",)), "'x' is no prefix"),
        (replace(VSUBNET, mtu=0), "an MTU of 0 octets can't be"),
        (replace(VSUBNET, suite=-1), "suite -1 can't be"),
        (replace(VSUBNET, policy=Policy(bum_pps=-1)), "limits of broadcast"),
        (replace(VSUBNET, policy=Policy(shared_ips=("x",))), "'x' does not appear"),
        (Psks("v", (Psk(0, "", 0.0),)), "an epoch can't be"),
        (replace(MEMBER, mac="02:00"), "the MAC address can't be"),
        (replace(MEMBER, mac="03:00:00:00:00:01"), "the MAC address can't be"),
        (replace(MEMBER, ips=("10.7.0.2/24",)), "'10.7.0.2/24' does not appear"),
        (replace(NODE, data_public_key="AAAA"), "the public key can't be"),
        (replace(NODE, data_public_key="no"), "the public key can't be"),
        (Registration("n", sessions_since=-1), "the generation can't be"),
        (replace(SEGMENT, gateways=(Gateway("n", "../x"),)), "name of an interface"),
        (replace(SEGMENT, gateways=(Gateway("n", "eth1", 5000),)), "no VLAN 5000"),
        (replace(SEGMENT, guards=Guards(bum_pps=0)), "limits of frames"),
        (Preflight("t", "n", "eth1", 0, "v", 0.0, listen_s=-1.0), "pre-flight listens"),
    ],
)
def test_what_can_t_be_is_named(value: object, flaw: str) -> None:
    assert flaw in flaw_of(value)


def test_values_that_are_left_out_are_one_problem_that_names_them() -> None:
    assert problems_of_values({}) == ()
    damaged = {f"/cairn/1/map/vsubnets/{n}": f"reason {n}" for n in range(5)}
    (problem,) = problems_of_values(damaged)
    assert problem.name == "values_unreadable" and problem.is_urgent
    assert "/cairn/1/map/vsubnets/0 (reason 0)" in problem.cause
    assert "and 2 more" in problem.cause
    assert problem.remedy
