"""An appliance that began on loopback grows, is interrupted at it, and shrinks again.

one LAN:   m1   m2
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab import Lab, until
from tests.lab.cairn import Appliance, missing_programs
from tests.lab.program import kill_tree

# In `make chaos`.
pytestmark = [pytest.mark.root, pytest.mark.etcd, pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Appliance, Appliance]]:
    """An appliance on loopback, and a machine for a second one."""
    if missing := missing_programs():
        pytest.fail(f"not built: {', '.join(missing)}; run make setup")
    with Lab("cluster-begins") as lab:
        site = lab.site("dc", families="4", closed=False)
        first = Appliance(site.host("m1"))
        first.init("--cluster-address", "127.0.0.1")
        first.start()
        first.login()
        yield first, Appliance(site.host("m2"))


def appliances(asked: Appliance) -> list[dict[str, Any]]:
    shown: list[dict[str, Any]] = asked.cairn("cluster", "status")["appliances"]
    return shown


def test_on_loopback_it_says_what_to_set(pair: tuple[Appliance, Appliance]) -> None:
    first, second = pair
    refused = second.join(first.cairn("cluster", "join-string")["join_string"], check=False)
    assert refused.returncode == 4
    assert "is on loopback" in refused.stderr
    assert "cluster_address" in refused.stderr
    assert not second.data_dir.exists()


def test_once_its_address_is_set_it_can_be_joined(pair: tuple[Appliance, Appliance]) -> None:
    first, _ = pair
    first.stop()
    settings = first.data_dir / "settings.toml"
    old, new = 'cluster_address = "127.0.0.1"', f'cluster_address = "{first.host.v4}"'
    assert old in settings.read_text()
    settings.write_text(settings.read_text().replace(old, new))
    first.start()
    until(
        "etcd's membership has the new address",
        lambda: appliances(first)[0]["peer_urls"] == [f"https://{first.host.v4}:2380"],
        within_s=15,
    )


def test_an_interrupted_join_is_repeated_with_the_same_string(
    pair: tuple[Appliance, Appliance],
) -> None:
    first, second = pair
    string = str(first.cairn("cluster", "join-string")["join_string"])
    file = second.host.directory / "string"
    file.write_text(string + "\n")
    command = f"exec cairn-appliance join --data-dir {second.data_dir} --address {second.host.v4} -"
    joining = second.host.start(["sh", "-c", f"{command} < {file}"], name="join")
    drafts = second.data_dir.parent
    until("it is admitted", lambda: [*drafts.glob(".data.init-*/member.json")], within_s=30)
    kill_tree(joining.pid)
    joining.wait(within_s=5)
    assert not second.data_dir.exists()
    assert [each["votes"] for each in appliances(first)] == [False, True]

    joined = json.loads(second.join(string).stdout)

    assert joined["name"] == "m3", "m2 was given out with the string that was refused"
    left = [path.name for path in second.data_dir.parent.glob(".data.init-*")]
    assert left == [], "the draft of the first try is gone"
    learner = next(each for each in appliances(first) if not each["votes"])
    assert not learner["serves"]
    second.start()
    until(
        "it votes",
        lambda: [each["votes"] for each in appliances(first)] == [True, True],
        within_s=20,
    )
    used = second.join(string, "--data-dir", str(second.data_dir) + "-2", check=False)
    assert used.returncode in (4, 6)


def test_two_are_said_to_be_worse_than_one_and_become_one(
    pair: tuple[Appliance, Appliance],
) -> None:
    first, second = pair
    causes = [each["cause"] for each in first.cairn("cluster", "status")["problems"]]
    assert "2 appliances stand no more failures than 1" in causes
    first.cairn("cluster", "leave", "m3", "--yes")
    until("it has ended", lambda: second.ended is not None, within_s=20)
    assert second.ended == 4
    until("one is left", lambda: [a["name"] for a in appliances(first)] == ["m1"], within_s=10)
    assert first.cairn("token", "create")["state"] == "active"
    problems = first.cairn("cluster", "status")["problems"]
    assert [each for each in problems if each["name"] != "slow_disk"] == []
