"""Ways that are not the usual one, on a host whose packages are rpm.

It waits for approval, is upgraded as rpm, is removed where no appliance answers, and joins again
with a token that somebody made before. The tests go on where the one before ended.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import proofs
from tests.lab.wait import until
from tests.playbooks.scene import COMMAND, Scene, set_up

pytestmark = [pytest.mark.root, pytest.mark.tun, pytest.mark.slow, pytest.mark.timeout(600)]

# Debian's rpm with a database of its own, in which a package says what RHEL's family has.
OF_RPM = (
    "mv /var/lib/dpkg /var/lib/dpkg.away; mkdir -p /etc/rpm /var/lib/rpm && "
    "echo '%_dbpath /var/lib/rpm' >/etc/rpm/macros && rpm --initdb && rpm -i /base.rpm"
)


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    """Boot the system; nothing of Cairn is on it."""
    with set_up("ways") as scene:
        scene.variables.update(cairn_vsubnets=["prod"], cairn_site="cloud-a", cairn_ping=["peer"])
        scene.boot("red", "debian-12-rpm-ssh", prepared=OF_RPM)
        yield scene


def test_a_host_that_waits_for_approval_passes_its_gate(scene: Scene) -> None:
    """What it waits for is said; it is in no vSubnet until somebody approves it."""
    played = scene.play("rollout", cairn_needs_approval=True)
    assert played.changed == 2, played.text
    assert "what to do: cairn node approve red" in played.text, played.text
    assert scene.guests["red"].run("rpm -q cairn-agent").startswith("cairn-agent-0.1.0-1")
    assert scene.appliance.nodes()["red"]["state"] == "pending"
    assert not scene.reaches_peer("red")
    again = scene.play("rollout", cairn_needs_approval=True)
    assert again.changed == 0 and "cairn node approve red" in again.text, again.text


def test_who_does_not_expect_that_is_stopped_and_told(scene: Scene) -> None:
    """And goes on when it is approved; that changes nothing on the host."""
    stopped = scene.play("rollout", check=False, cairn_healthy_within_s=3)
    assert stopped.status != 0 and stopped.changed == 0, stopped.text
    assert "what to do: cairn node approve red" in stopped.text, stopped.text
    scene.appliance.cairn("node", "approve", "red")
    for wanted in (True, False):
        assert scene.play("rollout", cairn_needs_approval=wanted).changed == 0
    assert scene.reaches_peer("red")


def test_an_rpm_is_upgraded_and_put_back(scene: Scene) -> None:
    """By upgrade, as rpm; and again nothing is changed."""
    for release in (2, 1):
        assert scene.play("upgrade", release=release).changed == 1
        assert (
            scene.guests["red"].run("rpm -q cairn-agent").startswith(f"cairn-agent-0.1.0-{release}")
        )
        assert scene.play("upgrade", release=release).changed == 0


def test_a_removal_that_nobody_can_be_told_of_is_forced(scene: Scene) -> None:
    """Without force the host stays as it is, told why; with it nothing is left there."""
    scene.appliance.stop()
    try:
        refused = scene.play("removal", check=False)
        assert refused.status != 0 and refused.changed == 0, refused.text
        assert "what to do: " in refused.text and "cairn_force" in refused.text, refused.text
        assert scene.release("red") == "1"
        played = scene.play("removal", cairn_force=True)
        assert played.changed == 2, played.text
        left = scene.left("red")
        assert scene.play("removal", cairn_force=True).changed == 0
    finally:
        scene.appliance.start()
    assert proofs.record(
        "ANSIBLE-forced",
        what="files, users, tables and interfaces that a removal leaves on a host whose packages "
        "are rpm, while no appliance answers",
        bar="= 0",
        value=len(left),
        unit="things",
        holds=not left,
        command=COMMAND,
    ), left
    scene.appliance.cairn("node", "delete", "red", "--yes")  # what is left to people


def test_a_token_that_was_made_before_is_enough(scene: Scene) -> None:
    """Where the control host reaches no appliance; the token is in no output."""
    alone = {"cairn_url": "", "cairn_fingerprint": "", "cairn_api_token_file": ""}
    token = scene.appliance.token(scene.prod)
    played = scene.play("rollout", "-vvv", cairn_join_token=token, **alone)
    assert played.changed == 2, played.text
    until("the peer answers", lambda: scene.reaches_peer("red"), within_s=20)
    assert scene.play("rollout", **alone).changed == 0
    assert scene.play("removal").changed == 2
    assert not scene.left("red")
