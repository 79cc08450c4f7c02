"""One of three appliances dies under an open console.

browser ---- TCP 8443 ---- m1, m2, m3 (one LAN)
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from playwright.sync_api import Browser, expect

from tests import proofs
from tests.browser.chromium import Person, person
from tests.browser.test_pages import settle
from tests.lab import Host, Lab, until
from tests.lab.cairn import Appliance

pytestmark = [
    pytest.mark.browser,
    pytest.mark.etcd,
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.timeout(300),
]

SAID_WITHIN_S = 5.0
BEAT_S = 2.0


@dataclass
class Cluster:
    """Three appliances that the browser reaches."""

    lab: Lab
    appliances: dict[str, Appliance]

    def url(self, name: str) -> str:
        """Return the console's address at one of them."""
        return self.appliances[name].url


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Yield three appliances that are whole."""
    with Lab("console-trio") as lab:
        site = lab.site("dc", families="4", closed=False)
        first = Appliance(site.host("m1"))
        first.init()
        first.start()
        first.login()
        cluster = Cluster(lab, {"m1": first})
        for name in ("m2", "m3"):
            cluster.appliances[name] = joined(first, site.host(name))
        lab.reach(*(each.host for each in cluster.appliances.values()))
        until(
            "all three are ready",
            lambda: all(each.is_ready() for each in cluster.appliances.values()),
            within_s=60,
        )
        yield cluster


def joined(first: Appliance, host: Host) -> Appliance:
    """Let another appliance join."""
    newcomer = Appliance(host)
    newcomer.join(str(first.cairn("cluster", "join-string")["join_string"]))
    newcomer.start()
    return newcomer


@pytest.mark.parametrize("how", ["killed", "paused"])
def test_a_replica_that_dies_is_named_within_5_s_and_another_goes_on(
    browser: Browser, cluster: Cluster, how: str
) -> None:
    first = cluster.appliances["m1"]
    with person(browser, cluster.url("m2"), knows=cluster.url("m1")) as one:
        page = one.page
        one.go("/vsubnets")
        one.log_in(first.password)
        settle(one)
        page.get_by_role("button", name="Create a vSubnet").first.click()
        page.get_by_label("Name").fill("half-typed")
        page.wait_for_timeout(1000 * BEAT_S + 500)  # a beat has come
        second = cluster.appliances["m2"]
        began = time.monotonic()
        end(second, how)
        # In the dialogue: what lies behind it can be neither read out nor clicked.
        banner = page.get_by_role("dialog").get_by_text("gives no answer")
        banner.wait_for(state="visible", timeout=20_000)
        took_s = time.monotonic() - began
        one.screen(f"replica-{how}")
        assert proofs.record_seconds(
            f"CONSOLE-replica-{how}",
            took_s,
            at_most_s=SAID_WITHIN_S,
            what=f"one of three appliances {how} under an open console: until it says so",
            command="make console-test ARGS='-k replica'",
        )

        # Another goes on: the link leads to the same page there, after a login of its own.
        links = page.get_by_role("link", name="Go on at")
        expect(links.first).to_be_visible()
        with page.context.expect_page() as opened:
            page.get_by_role("link", name="Go on at m1").click()
        there = Person(one.context, opened.value, cluster.url("m1"), one.theme)
        there.log_in(first.password)
        settle(there)
        there.page.get_by_role("button", name="Create a vSubnet").first.click()
        there.page.get_by_label("Name").fill(f"made-while-{how}")
        there.page.get_by_label("Prefixes").fill("10.9.0.0/24")
        there.page.get_by_role("button", name="Create", exact=True).click()
        expect(there.page.get_by_role("heading", level=1)).to_contain_text(f"made-while-{how}")
        there.screen(f"replica-{how}-elsewhere")

        # What was typed is still there, and goes through once the appliance is back.
        assert page.get_by_label("Name").input_value() == "half-typed"
        back(second, how)
        expect(page.get_by_text("gives no answer")).to_have_count(0, timeout=60_000)
        expect(page.get_by_label("Name")).to_have_value("half-typed")
        page.get_by_label("Prefixes").fill("10.8.0.0/24")
        page.get_by_role("button", name="Create", exact=True).click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("half-typed")


def end(appliance: Appliance, how: str) -> None:
    """Kill the appliance with its etcd, or let its own process stand."""
    if how == "killed":
        appliance.kill()
    else:
        os.kill(appliance.pid, signal.SIGSTOP)


def back(appliance: Appliance, how: str) -> None:
    """Bring it back."""
    if how == "killed":
        appliance.start()
    else:
        os.kill(appliance.pid, signal.SIGCONT)
