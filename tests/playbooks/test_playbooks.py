"""The collection over real SSH: three systems without Python, an appliance, a control host.

One is managed as root, three by sudo; two has no package manager and takes the tarball.

`make ansible-test` sets it up and runs this. The tests go on where the one before ended: checked,
rolled out, run again, broken, upgraded, removed.
"""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import proofs
from tests.lab import Probes
from tests.lab.wait import until
from tests.packages.guest import Guest
from tests.playbooks.control import Played
from tests.playbooks.scene import COMMAND, Scene, set_up

pytestmark = [pytest.mark.root, pytest.mark.tun, pytest.mark.slow, pytest.mark.timeout(600)]

SYSTEMS = {"one": "debian-12-ssh", "two": "debian-12-ssh", "three": "debian-13-ssh"}
TALK = Path(__file__).with_name("talk.py")
MOST_SILENCE_S = 1.0  # B2, a fast restart; handed over it is less
OF_A_TARBALL = "mv /var/lib/dpkg/status /var/lib/dpkg/status.away"


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    """Boot the systems; nothing of Cairn is on them."""
    with set_up("playbooks") as scene:
        scene.variables.update(cairn_vsubnets=["prod"], cairn_site="cloud-a", cairn_ping=["peer"])
        for name, system in SYSTEMS.items():
            prepared = OF_A_TARBALL if name == "two" else "true"
            user = "ops" if name == "three" else "root"
            scene.boot(name, system, user=user, prepared=prepared)
        yield scene


def test_check_mode_on_untouched_hosts_says_what_would_be_done_and_does_nothing(
    scene: Scene,
) -> None:
    """No agent, no Python, no token: and it ends well."""
    tokens = scene.appliance.cairn("token", "list")
    played = scene.play("rollout", "--check", "--diff", release=0)
    assert {host.changed for host in played.hosts.values()} == {2}, played.text
    assert "+0.1.0-1" in played.text and "+joined" in played.text, played.text
    assert scene.appliance.cairn("token", "list") == tokens
    for name in SYSTEMS:
        assert not [path for path in scene.new_files(name) if "cairn" in path]


def test_the_first_run_joins_and_the_second_changes_nothing(scene: Scene) -> None:
    """The second has neither API token nor appliance to ask: joined hosts need none."""
    played = scene.play("rollout", "-vvv", release=0)  # however talkative: no secret is told
    assert {host.changed for host in played.hosts.values()} == {2}, played.text
    pinged = [name for name in SYSTEMS if scene.reaches_peer(name)]
    assert proofs.record(
        "ANSIBLE-join",
        what="hosts without Python that the first run joined and that ping a peer",
        bar=f"= {len(SYSTEMS)}",
        value=len(pinged),
        unit="hosts",
        holds=len(pinged) == len(SYSTEMS),
        command=COMMAND,
    )
    states = {each["state"] for each in scene.appliance.cairn("token", "list")}
    assert states == {"used_up"}, "a join token is left over"

    for guest in scene.guests.values():
        assert not guest.run("journalctl --no-pager | grep cairn1[.]", check=False)

    nodes = {name: node["id"] for name, node in scene.appliance.nodes().items()}
    nowhere = {"cairn_url": "", "cairn_api_token_file": ""}
    for options in ((), ("--check", "--diff")):
        again = scene.play("rollout", *options, **nowhere)
        assert again.changed == 0, again.text
    assert {name: node["id"] for name, node in scene.appliance.nodes().items()} == nodes
    assert proofs.record(
        "ANSIBLE-again",
        what="tasks that the second run changed, without a token or an appliance to ask",
        bar="= 0",
        value=again.changed,
        unit="tasks",
        holds=again.changed == 0,
        command=COMMAND,
    )


def test_vsubnets_and_tokens_are_made_once_and_secrets_are_not_shown(scene: Scene) -> None:
    """By modules, on the control host: check mode, the real thing, again, a change, an error."""

    def play(*options: str, check: bool = True, **more: object) -> Played:
        variables = {"all_of": scene.variables, **more}
        return scene.control.play("objects.yml", *options, "-e", json.dumps(variables), check=check)

    wanted = {"name": "lab", "prefixes": ["10.9.0.0/24"], "policy": {"bum_pps": 321}}
    checked = play("--check", "--diff", vsubnet=wanted)
    assert checked.changed == 2 and '+    "bum_pps": 321' in checked.text, checked.text
    assert {each["name"] for each in scene.appliance.cairn("vsubnet", "list")} == {"prod"}
    assert play(vsubnet=wanted).changed == 3
    made = scene.appliance.cairn("vsubnet", "show", "lab")
    assert made["policy"]["bum_pps"] == 321 and made["prefixes"] == ["10.9.0.0/24"]
    assert play(vsubnet=wanted).changed == 2, "a vSubnet that is right was changed, too"
    changed = play("--diff", vsubnet={**wanted, "mtu": 1350})
    assert changed.changed == 3 and '-  "mtu": 1400' in changed.text, changed.text
    bounds = {"sources": ["192.0.2.7"], "instances": ["I-0ABC"]}
    assert play(vsubnet={**wanted, "mtu": 1350}, bounds=bounds, is_kept=True).changed == 1
    kept = next(each for each in scene.appliance.cairn("token", "list") if each["instances"])
    assert (kept["sources"], kept["instances"]) == (["192.0.2.7/32"], ["i-0abc"])
    scene.appliance.cairn("token", "delete", kept["id"], "--yes")
    refused = play(check=False, vsubnet={"name": "lab", "state": "absent"})
    assert refused.status != 0 and "what to do: ask an administrator" in refused.text, refused.text
    foreign = {**scene.variables, "cairn_fingerprint": "00" * 32}
    refused = scene.control.play(
        "objects.yml", "-e", json.dumps({"all_of": foreign, "vsubnet": wanted}), check=False
    )
    assert refused.status != 0 and "another fingerprint" in refused.text, refused.text


def test_a_vsubnet_named_later_is_added_to_hosts_that_have_joined(scene: Scene) -> None:
    """Once: check mode says it, the run does it and waits for it, the next changes nothing."""
    more = {"cairn_vsubnets": ["prod", "lab"]}
    checked = scene.play("rollout", "--check", "--diff", **more)
    assert checked.changed == len(SYSTEMS) and "+in vSubnet lab" in checked.text, checked.text
    assert scene.appliance.cairn("member", "list", "--vsubnet", "lab") == []
    played = scene.play("rollout", **more)
    assert played.changed == len(SYSTEMS), played.text
    members = scene.appliance.cairn("member", "list", "--vsubnet", "lab")
    assert {each["node"]["name"] for each in members} == set(SYSTEMS)
    assert scene.play("rollout", **more).changed == 0


def test_the_inventory_is_what_the_appliance_knows(scene: Scene) -> None:
    """Nodes with the addresses that SSH takes, in groups by site and vSubnet."""
    found = scene.control.inventory(
        json.dumps(
            {
                "plugin": "cairn.overlay.nodes",
                "url": scene.appliance.url,
                "fingerprint": scene.appliance.fingerprint,
                "api_token_file": scene.variables["cairn_api_token_file"],
                "groups": {"away": "not cairn_node_is_connected"},
            }
        )
    )
    assert set(found["cairn_site_cloud_a"]["hosts"]) == set(SYSTEMS)
    assert set(found["cairn_vsubnet_prod"]["hosts"]) == {*SYSTEMS, "peer"}
    assert "away" not in found
    hosts = found["_meta"]["hostvars"]
    assert {name: hosts[name]["ansible_host"] for name in SYSTEMS} == {
        name: host.v4 for name, host in scene.hosts.items()
    }
    assert "ct1_" not in json.dumps(found)


def test_an_upgrade_refuses_a_host_that_has_not_joined(scene: Scene) -> None:
    """It would be a roll-out; the host stays as it is."""
    scene.guests["one"].run("mv /var/lib/cairn-agent/identity.json /root/")
    played = scene.play("upgrade", "--limit", "one", release=2, check=False)
    scene.guests["one"].run("mv /root/identity.json /var/lib/cairn-agent/")
    assert played.status != 0 and "what to do: run cairn.overlay.rollout" in played.text
    assert scene.release("one") == "1"


def test_the_gate_stops_at_a_broken_host_and_says_what_to_do(scene: Scene) -> None:
    """The one before it is upgraded, the ones after it are not touched."""
    two = scene.guests["two"]
    two.run("systemctl mask --runtime --now cairn-dataplane")
    played = scene.play(
        "upgrade", release=2, check=False, cairn_serial=1, cairn_healthy_within_s=10
    )
    two.run("systemctl unmask --runtime cairn-dataplane && systemctl start cairn-dataplane")
    releases = {name: scene.release(name) for name in SYSTEMS}
    is_told = re.search(r"two.*not healthy: data plane: .*; what to do: ", played.text)
    stopped = played.status != 0 and releases == {"one": "2", "two": "1", "three": "1"}
    assert proofs.record(
        "ANSIBLE-gate",
        what="hosts changed at or after a broken one, which is named with cause and remedy",
        bar="= 0",
        value=sum(release == "2" for release in list(releases.values())[1:]),
        unit="hosts",
        holds=stopped and is_told is not None,
        command=COMMAND,
    ), (releases, played.text)


def test_an_upgrade_and_the_way_back_keep_connections(scene: Scene) -> None:
    """B2: each host has a TCP connection to the peer that is never made anew."""
    to = scene.peer.address(scene.prod)
    scene.peer.host.start(scene.peer.host.python(TALK, "answer", to, "7000"), name="answer")
    until("the answerer listens", lambda: scene.peer.host.listens("tcp", 7000), within_s=10)
    talks = {
        name: host.start(host.python(TALK, "ask", to, "7000"), name="ask")
        for name, host in scene.hosts.items()
    }
    for talk in talks.values():
        talk.wait_for_log("ready", within_s=20)
    own = {scene.hosts[name]: _address(guest) for name, guest in scene.guests.items()}
    probes = Probes({**own, scene.peer.host: to}, directory=scene.lab.directory)
    try:
        checked = scene.play("upgrade", "--check", "--diff", release=2)
        assert checked.changed == 2, checked.text  # one was upgraded before the gate stopped
        for release, changed in ((2, 2), (1, 3)):
            played = scene.play("upgrade", release=release)
            assert played.changed == changed, played.text
            assert {scene.release(name) for name in SYSTEMS} == {str(release)}
    finally:
        probes.stop()
    for talk in talks.values():
        talk.send_signal(signal.SIGTERM)
        talk.wait(within_s=40)
    told = {name: json.loads(talk.text().splitlines()[-1]) for name, talk in talks.items()}
    print(told, probes.worst())
    longest = probes.worst().outage_s
    assert proofs.record(
        "ANSIBLE-upgrade",
        what="longest silence between three hosts and a peer while each is upgraded and put back; "
        "no TCP connection broke",
        bar=f"<= {MOST_SILENCE_S:g}",
        value=round(longest, 3),
        unit="s",
        holds=longest <= MOST_SILENCE_S and all(each["pieces"] > 100 for each in told.values()),
        command=COMMAND,
    ), (longest, told)


def test_a_host_whose_agent_alone_was_removed_is_no_riddle(scene: Scene) -> None:
    """`dpkg --remove` keeps the identity: a removal says what to do, and a roll-out goes on."""
    nodes = scene.appliance.nodes()
    scene.guests["one"].run("dpkg --remove cairn-agent")
    refused = scene.play("removal", "--limit", "one", check=False)
    assert refused.status != 0 and refused.changed == 0, refused.text
    assert "what to do: run cairn.overlay.rollout" in refused.text, refused.text
    assert scene.play("rollout", "--limit", "one").changed == 1
    assert scene.appliance.nodes()["one"]["id"] == nodes["one"]["id"]


def test_a_removed_host_is_as_it_was(scene: Scene) -> None:
    """No file, user, table or interface; the appliance knows; again it changes nothing."""
    checked = scene.play("removal", "--check")
    assert {host.changed for host in checked.hosts.values()} == {2}, checked.text
    assert scene.release("one") == "1"
    played = scene.play("removal")
    assert {host.changed for host in played.hosts.values()} == {2}, played.text
    left = {name: scene.left(name) for name in SYSTEMS}
    assert proofs.record(
        "ANSIBLE-removal",
        what="files, users, tables and interfaces that a removal leaves on three hosts",
        bar="= 0",
        value=sum(map(len, left.values())),
        unit="things",
        holds=not any(left.values()),
        command=COMMAND,
    ), left
    assert set(scene.appliance.nodes()) == {"peer"}
    assert scene.play("removal").changed == 0


def _address(guest: Guest) -> str:
    """Return the address of a host in its vSubnet."""
    found = re.search(r"inet (10\.7\.[0-9.]+)/", guest.run("ip -4 -o addr show"))
    assert found is not None
    return found[1]
