"""From the first login to two VMs that ping each other, by clicks alone.

browser ---- TCP 8443 ---- appliance (office)     vm-1 (cloud-a)     vm-2 (cloud-b)
"""

from __future__ import annotations

import re
import time

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.chromium import person
from tests.lab import Lab
from tests.lab.cairn import Appliance, Network, Node

pytestmark = [
    pytest.mark.browser,
    pytest.mark.etcd,
    pytest.mark.root,
    pytest.mark.tun,
    pytest.mark.timeout(180),
]


def test_from_the_first_login_to_the_first_ping_by_clicks_alone(browser: Browser) -> None:
    with Lab("console") as lab:
        appliance = Appliance(lab.site("office").host("appliance", number=10))
        appliance.init()
        appliance.start()
        lab.reach(appliance.host)
        nodes = [
            Node(lab.site("cloud-a").host("vm-1")),
            Node(lab.site("cloud-b").host("vm-2")),
        ]
        for node in nodes:
            node.start()
        began = time.monotonic()

        with person(browser, appliance.url) as operator:
            page = operator.page
            operator.go("/")
            operator.log_in(appliance.password)
            page.get_by_role("link", name="vSubnets").first.click()
            page.get_by_role("button", name="Create a vSubnet").first.click()
            page.get_by_label("Name").fill("first")
            page.get_by_label("Prefixes").fill("10.7.0.0/24")
            page.get_by_role("button", name="Create", exact=True).click()
            vni = page.locator("dd").first.inner_text()
            page.get_by_role("link", name="Join a node").last.click()
            page.get_by_label("How many nodes").fill("2")
            page.get_by_role("button", name="Make the token").click()
            expect(page.get_by_text("Waiting for 2 nodes")).to_be_visible()
            pasted = page.locator("pre:visible").inner_text()
            for node in nodes:
                node.host.run(["sh", "-c", pasted], within_s=60)
            for name in ("vm-1", "vm-2"):
                expect(page.get_by_role("link", name=name)).to_be_visible()
            expect(page.get_by_text("Waiting for")).to_have_count(0)
            operator.screen("join-joined")
            assert operator.faults() == []
            network = Network("first", int(vni), ("10.7.0.0/24",))
            nodes[0].wait_for_ping(nodes[1].address(network, 4), within_s=20)
            took_s = time.monotonic() - began

            for path in ("/", "/nodes", "/vsubnets", "/topology", "/latency"):
                operator.go(path)
                expect(page.get_by_role("heading", level=1)).to_be_visible()
                expect(page.locator(".cairn-loading")).to_have_count(0)
                page.wait_for_timeout(300)
                operator.screen(f"{path.strip('/') or 'overview'}-two-nodes")
                assert operator.faults() == [], path
            page.get_by_role("button", name="between nodes without a site").click()
            page.get_by_role("button", name="between vm-1 and vm-2").first.click()
            expect(
                page.get_by_role("heading", name="The last hour of vm-1 and vm-2")
            ).to_be_visible()
            operator.screen("latency-history")
            assert operator.faults() == []
            operator.go("/nodes")
            page.get_by_role("link", name="vm-1").click()
            expect(page.get_by_role("heading", name=re.compile("Node vm-1"))).to_be_visible()
            expect(page.get_by_text("data plane runs")).to_be_visible()
            expect(page.get_by_role("grid", name="Peers")).to_contain_text("vm-2")
            operator.screen("node")
            assert operator.faults() == []
    print(f"first login to first ping: {took_s:.1f} s")
