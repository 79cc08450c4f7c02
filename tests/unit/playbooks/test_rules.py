"""What the Ansible collection decides, by its pure rules."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cairn_appliance.pki.authority import Authority, pin_of, utc_now

from playbooks.plugins.module_utils import rules
from playbooks.plugins.module_utils.rules import Told

SUMS = (
    f"{'a' * 64}  cairn-agent_0.1.0-1_amd64.deb\n"
    f"{'b' * 64}  cairn-agent-0.1.0-1.x86_64.rpm\n"
    f"{'c' * 64}  cairn-agent-0.1.0-1.x86_64.tar.gz\n"
    f"{'d' * 64}  VERSION\n"
    f"{'e' * 64}  ../../etc/passwd\n"
)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("deb", "cairn-agent_0.1.0-1_amd64.deb"),
        ("rpm", "cairn-agent-0.1.0-1.x86_64.rpm"),
        ("tar.gz", "cairn-agent-0.1.0-1.x86_64.tar.gz"),
    ],
)
def test_a_system_gets_the_package_of_its_kind(kind: str, name: str) -> None:
    """And a list can't name a path."""
    assert rules.package_of(kind, SUMS) == name
    assert len(rules.listed(SUMS)) == 4
    with pytest.raises(Told, match="what to do: run `make packages`"):
        rules.package_of(kind, "")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("error: nobody answers:\n  timeout\n  what to do: try\n  again\n",
         "nobody answers: timeout; what to do: try again"),
        ("error: nobody answers\n", "nobody answers"),
        ("Traceback\n  ValueError: x\n", "Traceback ValueError: x"),
        ("", ""),
    ],
)  # fmt: skip
def test_what_a_command_says_is_one_sentence(text: str, said: str) -> None:
    """Wherever its lines were broken."""
    assert rules.said_by_command(text) == said


def test_a_fingerprint_is_compared_however_it_is_written() -> None:
    """As `init` prints it, with colons, or with the name of the hash before it."""
    one, other = (Authority.create(name, utc_now()).certificate.decode() for name in ("a", "b"))
    digest = pin_of(one)
    pairs = ":".join(digest[n : n + 2] for n in range(0, 64, 2))
    for written in (digest, digest.upper(), pairs, f"sha256:{digest}", f"SHA256:{pairs} "):
        assert rules.certificate_with(written, other + one).strip() == one.strip()
    with pytest.raises(Told, match="nothing was sent"):
        rules.certificate_with(digest, other)
    with pytest.raises(Told, match="nothing was sent"):
        rules.certificate_with(digest, "<html>")


def test_an_error_of_the_api_is_told_with_its_remedy() -> None:
    """And whoever answers otherwise is no appliance."""
    body = {"code": "name_taken", "detail": "there is a lab already.", "remedy": "take another"}
    told = rules.problem_of(409, json.dumps(body))
    assert str(told) == "there is a lab already; what to do: take another"
    assert told.code == "name_taken"
    for other in ("<html>", "[]", "{}", '"x"'):
        assert "no Cairn appliance (HTTP 502)" in str(rules.problem_of(502, other))


def test_only_what_differs_is_changed() -> None:
    """What is left out stays; the order of a list is the appliance's."""
    now = {"mtu": 1400, "prefixes": ["fd00:7::/64", "10.7.0.0/24"], "policy": {"a": 1, "b": 2}}
    same = {"mtu": None, "prefixes": ["10.7.0.0/24", "fd00:7::/64"], "policy": {"a": 1, "b": None}}
    assert rules.changes(same, now) == {}
    assert rules.changes({"policy": {"a": 1, "b": 3}}, now) == {"policy": {"b": 3}}
    assert rules.changes({"mtu": 1350, "prefixes": []}, now) == {"mtu": 1350, "prefixes": []}
    assert rules.changes({"mtu": 1350}, {}) == {"mtu": 1350}


def _check(name: str, verdict: str) -> dict[str, str]:
    return {"name": name, "verdict": verdict, "found": "found", "remedy": "do this"}


def _status(*sessions: str, **more: Any) -> dict[str, Any]:
    peers = [{"name": f"p{n}", "session": each} for n, each in enumerate(sessions)]
    return {
        "state": "approved",
        "name": "a1",
        "vsubnets": [{"name": "prod"}],
        "peers": peers,
    } | more


def test_a_failed_check_stops_and_a_warning_does_not() -> None:
    """With the doctor's own words."""
    checks = [
        _check("TAP device", "ok"),
        _check("clock", "warning"),
        _check("data plane", "failed"),
    ]
    failures, warnings = rules.findings(checks, _status(), ["prod"], [], may_wait=False)
    assert failures == [("data plane: found", "do this")]
    assert warnings == [("clock: found", "do this")]


def test_a_peer_that_is_off_stops_only_a_host_that_no_peer_answers() -> None:
    """It may be broken itself; a host that reaches nobody is."""
    checks = [_check("UDP to p0", "failed"), _check("UDP to p1", "ok")]
    failures, warnings = rules.findings(
        checks, _status("handshaking", "up"), [], [], may_wait=False
    )
    assert not failures and warnings == [("UDP to p0: found", "do this")]
    failures, _ = rules.findings(checks, _status("handshaking", "down"), [], [], may_wait=False)
    assert failures == [("UDP to p0: found", "do this")]


def test_a_node_is_in_the_vsubnets_that_it_should_be_in() -> None:
    """What to do is a command that can be pasted."""
    failures, _ = rules.findings([], _status(), ["prod", "lab"], [], may_wait=False)
    assert failures == [("the node is not in vSubnet lab", "cairn member create lab a1")]


def test_a_gateway_forwards_or_stands_by() -> None:
    """One that is unable says why, one that isn't there yet that it isn't."""
    gateways = [
        {"name": "a", "state": "standby"},
        {"name": "b", "state": "unable", "why": "eth1 is down; plug it in"},
    ]
    status = _status(gateways=gateways)
    failures, _ = rules.findings([], status, [], ["a", "b", "c"], may_wait=False)
    assert failures == [
        ("segment b: unable eth1 is down", "plug it in"),
        ("segment c: no gateway", ""),
    ]


def test_a_node_that_waits_passes_only_where_it_is_meant_to() -> None:
    """It has no vSubnet yet, and that is no further fault."""
    waiting = _status(state="pending", vsubnets=[])
    said = ("the node waits for approval", "cairn node approve a1")
    assert rules.findings([], waiting, ["prod"], [], may_wait=True) == ([], [said])
    assert rules.findings([], waiting, ["prod"], [], may_wait=False) == ([said], [])


@pytest.mark.parametrize(
    ("states", "standing"),
    [
        ([], "host"),
        (["standby"], "standby"),
        (["unable"], "standby"),
        (["standby", "forwarding"], "forwarding"),
    ],
)
def test_who_forwards_for_any_lan_goes_last(states: list[str], standing: str) -> None:
    """A gateway that can't forward is a gateway all the same."""
    assert rules.standing({"gateways": [{"state": state} for state in states]}) == standing
    assert rules.standing({}) == "host"


def _node(name: str, **more: Any) -> dict[str, Any]:
    vsubnet = {"vsubnet": {"name": "prod"}, "ips": ["10.7.0.2"], "role": "host"}
    return {
        "id": "0123456789abcdef", "name": name, "state": "approved", "site": "cloud-a",
        "labels": {"tier": "web"}, "agent_version": "0.1.0", "link": {"connected": True},
        "members": [vsubnet], "endpoints": ["[2001:db8::1]:8002", "192.0.2.1:8002"],
        "seen_address": "198.51.100.7",
    } | more  # fmt: skip


def test_a_node_in_the_inventory() -> None:
    """By its first endpoint, or by what the appliance sees where it has none."""
    assert rules.host_vars(_node("a"), "endpoint")["ansible_host"] == "2001:db8::1"
    assert rules.host_vars(_node("a"), "seen")["ansible_host"] == "198.51.100.7"
    assert rules.host_vars(_node("a", endpoints=[]), "endpoint")["ansible_host"] == "198.51.100.7"
    assert "ansible_host" not in rules.host_vars(_node("a"), "name")
    assert rules.host_vars(_node("a", link=None), "name")["cairn_node_is_connected"] is False
    groups = ["cairn_site_cloud-a", "cairn_vsubnet_prod", "cairn_label_tier_web"]
    assert rules.host_groups(_node("a")) == groups
    gateway = {"vsubnet": {"name": "prod"}, "ips": [], "role": "gateway"}
    assert rules.host_groups(_node("a", members=[gateway]))[-1] == "cairn_gateways"


def test_nodes_of_one_name_are_several_hosts() -> None:
    """Each has part of its ID after the name."""
    nodes = [_node("a", id="1" * 32), _node("b"), _node("a", id="2" * 32)]
    assert rules.host_names(nodes) == ["a-11111111", "b", "a-22222222"]


def test_a_diff_shows_what_was_asked_for_and_no_more() -> None:
    """Before and after have the same fields."""
    now = {"name": "lab", "id": "x", "mtu": 1400, "policy": {"a": 1, "b": 2}}
    wanted = {"mtu": 1350, "prefixes": None, "policy": {"b": 3}}
    after = json.loads(rules.shown(now, wanted, rules.changes(wanted, now)))
    assert after == {"name": "lab", "mtu": 1350, "policy": {"a": 1, "b": 3}}
    assert json.loads(rules.shown(now, wanted)) == {k: now[k] for k in ("name", "mtu", "policy")}
    assert rules.shown(None, wanted) == ""
