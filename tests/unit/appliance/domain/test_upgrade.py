"""Whether the next appliance may be stopped for its upgrade, and which one that is."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cairn_appliance.domain.backup import BackupHealth, BackupKey
from cairn_appliance.domain.cluster import Appliance
from cairn_appliance.domain.cluster_health import ClusterView, Seen, apart, problems_of
from cairn_appliance.domain.upgrade import UpgradeCheck, check_upgrade

from tests.unit.appliance.domain.test_cluster_health import seen


def at(number: int, version: str) -> Seen:
    """m1 leads."""
    return replace(seen(number), appliance=Appliance(f"m{number}", (), (), version))


def check(*appliances: Seen, agents: dict[str, str] | None = None) -> UpgradeCheck:
    return check_upgrade(ClusterView(appliances), agents or {})


def test_the_old_ones_come_first_and_who_leads_comes_last() -> None:
    fresh = check(at(1, "0.1.0"), at(2, "0.1.0"), at(3, "0.1.0"), agents={"vm": "0.1.0"})
    assert fresh == UpgradeCheck(("m2", "m3", "m1"), ())
    assert fresh.is_ready
    under_way = check(at(1, "0.1.0"), at(2, "0.2.0"), at(3, "0.1.3"), agents={"vm": "0.1.0"})
    assert under_way.order == ("m3", "m1", "m2")
    assert under_way.is_ready


def test_a_backup_that_is_late_is_said_and_is_not_in_the_way() -> None:
    key = BackupKey("08e83a701f0fc320", "", 0.0, "admin")
    late = BackupHealth(3600.0, 4 * 3600.0, key, None, None)
    appliances = at(1, "0.1.0"), at(2, "0.1.0"), at(3, "0.1.0")
    checked = check_upgrade(ClusterView(appliances, backups=late), {})
    assert [each.name for each in checked.findings] == ["backup_late"]
    assert checked.is_ready


@pytest.mark.parametrize(
    ("appliances", "agents", "cause"),
    [
        pytest.param(
            (at(1, "0.1.0"), at(2, "0.1.0"), replace(at(3, "0.1.0"), state=None)),
            {},
            "m3: its etcd gives no answer",
            id="one is away",
        ),
        pytest.param(
            (at(1, "0.1.0"), at(2, "0.1.0"), replace(at(3, "0.1.0"), replica=None)),
            {},
            "m3: its etcd runs, its APIs don't",
            id="APIs are away",
        ),
        pytest.param(
            (at(1, "0.1.0"), at(2, "0.3.0"), at(3, "0.3.0")),
            {},
            "the appliances' versions are more than one apart: 0.1.0 and 0.3.0",
            id="too far",
        ),
        pytest.param(
            (at(1, "0.2.0"), at(2, "0.2.0"), at(3, "0.2.0")),
            {"new": "0.2.0", "old": "0.1.9"},
            "1 nodes run an agent older than all appliances: old",
            id="old agent",
        ),
    ],
)
def test_what_is_in_the_way_is_named(
    appliances: tuple[Seen, ...], agents: dict[str, str], cause: str
) -> None:
    found = check(*appliances, agents=agents)
    assert not found.is_ready
    assert [each.cause for each in found.findings if each.is_urgent] == [cause]
    assert all(each.remedy for each in found.findings)


def test_one_alone_may_be_upgraded_and_says_that_changes_wait() -> None:
    found = check(at(1, "0.1.0"))
    assert found.is_ready
    assert "changes wait" in found.findings[0].cause


@pytest.mark.parametrize(
    ("one", "other", "releases"),
    [
        ("0.1.0", "0.1.7", 0),
        ("0.2.0", "0.1.7", 1),
        ("0.0.9+a20b4e29", "0.1.0", 1),
        ("0.1.0", "0.3.0", 2),
        ("1.9.2", "2.0.0", 1),
        ("1.9.2", "2.1.0", 2),
        ("1.0.0", "3.0.0", 3),
    ],
)
def test_versions_are_releases_apart(one: str, other: str, releases: int) -> None:
    assert apart(one, other) == apart(other, one) == releases


def test_the_status_says_that_an_upgrade_is_under_way_and_when_it_went_too_far() -> None:
    def said(*appliances: Seen) -> str:
        return problems_of(ClusterView(appliances))[0].cause

    mixed = at(1, "0.1.0"), at(2, "0.2.0"), at(3, "0.1.0")
    assert said(*mixed) == "the appliances run different versions: m1 0.1.0, m2 0.2.0, m3 0.1.0"
    far = at(1, "0.1.0"), at(2, "0.3.0"), at(3, "0.3.0")
    assert "more than one apart, which is not supported" in said(*far)
