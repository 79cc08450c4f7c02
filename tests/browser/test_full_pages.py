"""The pages of topology, gateways, access, audit and settings in a real browser."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests import proofs
from tests.browser import full
from tests.browser.appliance import Running
from tests.browser.chromium import Person, person
from tests.browser.test_pages import HOSTILE, settle

pytestmark = [
    pytest.mark.browser,
    pytest.mark.etcd,
    pytest.mark.slow,
    pytest.mark.timeout(180),
]

LONG_TASK_MS = 100
SORTED = re.compile("ascending|descending")
# Tasks of more than 50 ms, as the browser itself notes them.
WATCH_LONG_TASKS = """
window.long = [];
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) window.long.push(Math.round(entry.duration));
}).observe({ type: "longtask" });
"""


@pytest.fixture(params=["light", "dark"])
def somebody(
    browser: Browser, running: Running, request: pytest.FixtureRequest
) -> Iterator[Person]:
    """Yield an administrator who is logged in, by light and by night."""
    with person(browser, running.url, theme=request.param) as one:
        one.go("/")
        one.log_in(running.password)
        yield one


@pytest.fixture
def admin(browser: Browser, running: Running) -> Iterator[Person]:
    """Yield an administrator who is logged in."""
    with person(browser, running.url) as one:
        one.go("/")
        one.log_in(running.password)
        yield one


@contextmanager
def answers(page: Page, **by_path: Any) -> Iterator[None]:
    """Answer some paths of the API in the place of the appliance."""
    for path, body in by_path.items():
        page.route(re.compile(f"/api/v1/{path}([?]|$)"), _with(body))
    try:
        yield
    finally:
        page.unroute_all()


def _with(body: Any) -> Callable[[Route], None]:
    return lambda route: route.fulfill(json=body)


def listed(*items: Any) -> dict[str, Any]:
    return {"items": list(items), "next": None}


def segment_answers(name: str = "office") -> dict[str, Any]:
    one = full.segment(name)
    return {
        "segments": listed(one),
        f"segments/{full.SEGMENT}": one,
        f"segments/{full.SEGMENT}/stations": listed(*full.stations()),
        f"preflights/{full.TASK}": full.preflight(),
    }


def test_gateways_say_who_forwards_what_guards_stopped_and_what_a_pre_flight_heard(
    somebody: Person,
) -> None:
    page = somebody.page
    with answers(page, **segment_answers()):
        somebody.go(f"/gateways?preflight={full.TASK}")
        settle(somebody)
        expect(page.get_by_text("could not forward")).to_be_visible()
        expect(page.get_by_text("10.7.0.12 is on both sides")).to_be_visible()
        somebody.screen("gateways-full")
        assert somebody.faults() == []

        page.get_by_role("link", name="office", exact=True).click()
        expect(page.get_by_text("the port eth1 has no carrier")).to_be_visible()
        expect(page.get_by_text("bum dropped: 3,456").first).to_be_visible()
        expect(page.get_by_role("grid", name="Stations")).to_be_visible()
        somebody.screen("segment-full")
        assert somebody.faults() == []

        page.get_by_role("button", name="Stop bridging").click()
        dialogue = page.get_by_role("dialog")
        expect(dialogue).to_contain_text("12 stations")
        expect(dialogue).to_contain_text("10.7.0.10")
        expect(dialogue).to_contain_text("office-lan")
        somebody.screen("segment-stop")
        assert somebody.faults() == []


def test_a_segment_is_made_stopped_resumed_changed_and_deleted_by_clicks(
    admin: Person, running: Running
) -> None:
    running.ask("POST", "/vsubnets", name="bridged", prefixes=["10.6.0.0/24"])
    page = admin.page
    admin.go("/gateways")
    expect(page.get_by_text("No LAN is bridged yet")).to_be_visible()
    page.get_by_role("button", name="Create a segment").click()
    page.get_by_label("Name").fill("floor-2")
    page.get_by_label("vSubnet that the LAN").select_option(label="bridged")
    page.get_by_role("button", name="Create", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("floor-2")
    admin.screen("segment-new")
    assert admin.faults() == []

    page.get_by_role("button", name="Stop bridging").click()
    page.get_by_role("dialog").get_by_role("button", name="Stop bridging").click()
    expect(page.get_by_text("bridging stopped", exact=True)).to_be_visible()
    assert running.ask("GET", "/segments/floor-2")["bridging"] is False
    page.get_by_role("button", name="Resume bridging").click()
    page.get_by_role("dialog").get_by_role("button", name="Resume bridging").click()
    expect(page.get_by_role("button", name="Stop bridging")).to_be_visible()

    page.get_by_role("button", name="Change").click()
    page.get_by_label("Machines on the LAN, at most").fill("77")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("77 at most")).to_be_visible()
    page.get_by_role("button", name="Delete").click()
    page.get_by_label("Type floor-2 to go on").fill("floor-2")
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page).to_have_url(re.compile("/gateways$"))
    assert running.ask("GET", "/segments")["items"] == []
    running.ask("DELETE", "/vsubnets/bridged")


def test_topology_shows_sites_paths_and_a_node_that_is_chosen(somebody: Person) -> None:
    picture = full.topology(24, 3, 3)
    page = somebody.page
    with answers(page, topology=picture):
        somebody.go(f"/topology?node={full.node_id(0)}")
        settle(somebody)
        expect(page.get_by_role("img", name=re.compile("24 nodes in 3 sites"))).to_be_visible()
        expect(page.get_by_text("Gateway of")).to_be_visible()
        expect(page.get_by_role("grid", name="Paths")).to_be_visible()
        page.wait_for_timeout(300)
        somebody.screen("topology-full")
        assert somebody.faults() == []

        page.get_by_role("button", name="Close").click()
        canvas = page.locator("canvas")
        canvas.focus()
        page.keyboard.press("+")
        page.keyboard.press("ArrowLeft")
        box = canvas.bounding_box()
        assert box
        page.get_by_role("button", name="Show all").click()


def test_a_thousand_nodes_are_moved_without_a_long_task(admin: Person) -> None:
    picture = full.topology(1000, 13, 8)
    page = admin.page
    with answers(page, topology=picture):
        admin.go("/topology")
        settle(admin)
        expect(page.get_by_role("img", name=re.compile("1,000 nodes"))).to_be_visible()
        page.wait_for_timeout(1_500)
        admin.screen("topology-1000")
        page.evaluate(WATCH_LONG_TASKS)
        box = page.locator("canvas").bounding_box()
        assert box
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        page.mouse.move(x, y)
        page.mouse.down()
        for step in range(40):
            page.mouse.move(x + 3 * step, y + step)
        page.mouse.up()
        for _ in range(10):
            page.mouse.wheel(0, -100)
        page.wait_for_timeout(500)
        admin.screen("topology-1000-near")
        long: list[int] = page.evaluate("window.long")
        assert proofs.record(
            "CONSOLE-tasks",
            what="1,000 nodes, 8,000 paths panned and zoomed: the longest task (0: none over 50)",
            bar=f"<= {LONG_TASK_MS} ms",
            value=max([0, *long]),
            unit="ms",
            holds=max([0, *long]) <= LONG_TASK_MS,
            command="make console-test ARGS='-k topology'",
        )


VSUBNET = f"/vsubnets/{full.VSUBNET['id']}"
# What there is to see of each, and that a page that wants it later is no sound one.
PAGES_OF_1000 = {
    "/nodes": "vm-1",
    VSUBNET: "02:00:00:00:00:09",
    "/latency": "site-1",
    "/events": "node vm-1 has done",
}


def answers_of_1000(page: Page) -> AbstractContextManager[None]:
    """Answer as a cluster of a thousand nodes would."""
    name = full.VSUBNET["id"]
    paths = {
        "nodes": listed(*full.nodes(1000)),
        f"vsubnets/{name}": full.vsubnet(1000),
        f"vsubnets/{name}/table": full.table(1000),
        "members": listed(*full.members(1000)),
        "topology": full.topology(1000, 13, 8),
        "latency": full.latency(1000, 8),
        "events": {"items": full.events(100), "next": "more"},
    }
    return answers(page, **paths)


@pytest.mark.parametrize("path", PAGES_OF_1000)
def test_a_page_of_a_thousand_nodes_is_sound(somebody: Person, path: str) -> None:
    page = somebody.page
    with answers_of_1000(page):
        somebody.go(path)
        settle(somebody)
        named = page.locator("main").get_by_text(PAGES_OF_1000[path])
        expect(named.filter(visible=True).first).to_be_visible()
        somebody.screen(f"{path.split('/')[1]}-1000")
        assert somebody.faults() == []
        # On a narrower screen nothing is cut off at the side.
        page.set_viewport_size({"width": 1024, "height": 900})
        page.wait_for_timeout(300)
        html = page.locator("html")
        assert html.evaluate("each => each.scrollWidth - each.clientWidth") <= 1
        if path == "/events":
            older = page.get_by_role("button", name="Older than these 100 events")
            expect(older).to_be_visible()


# The list that is filtered on each page, what is looked for, and how many rows have it.
LISTS_OF_1000 = {
    "/nodes": ("nodes", "vm-99", 11),
    VSUBNET: ("addresses", "10.7.3.24", 11),
    "/latency": ("latencies", "vm-998", 9),
}


def test_lists_of_a_thousand_nodes_are_used_without_a_long_task(admin: Person) -> None:
    page = admin.page
    longest: dict[str, int] = {}
    with answers_of_1000(page):
        for path, (what, text, count) in LISTS_OF_1000.items():
            admin.go(path)
            settle(admin)
            box = page.get_by_label(f"Filter {what}")
            table = page.get_by_role("grid", name=what.capitalize())
            pages = page.get_by_role("navigation", name=f"Pages of {what}")
            expect(table.get_by_role("row")).to_have_count(51)  # the head is one
            page.wait_for_timeout(500)
            page.evaluate(WATCH_LONG_TASKS)
            pages.get_by_role("button", name="Go to next page").click()
            expect(table.get_by_role("row")).to_have_count(51)
            table.get_by_role("columnheader").nth(1).get_by_role("button").click()
            expect(table.get_by_role("columnheader").nth(1)).to_have_attribute("aria-sort", SORTED)
            box.press_sequentially(text, delay=60)
            expect(table.get_by_role("row")).to_have_count(1 + count)
            page.wait_for_timeout(300)
            longest[path] = max([0, *page.evaluate("window.long")])
    worst = max(longest.values())
    assert proofs.record(
        "CONSOLE-lists",
        what="1,000 nodes in three lists paged, sorted and filtered: the longest task (0: none "
        "over 50)",
        bar=f"<= {LONG_TASK_MS} ms",
        value=worst,
        unit="ms",
        holds=worst <= LONG_TASK_MS,
        command="make console-test ARGS='-k thousand'",
    ), longest


def test_users_are_made_reset_disabled_and_deleted_by_clicks(
    admin: Person, running: Running
) -> None:
    page = admin.page
    admin.go("/access?view=users")
    settle(admin)
    page.get_by_role("button", name="Create a user").click()
    page.get_by_label("Name").fill("vera")
    page.get_by_label("Role").select_option("viewer")
    page.get_by_role("button", name="Create", exact=True).click()
    expect(page.get_by_text("The password of vera is shown only now")).to_be_visible()
    drawn = page.locator("pre:visible").inner_text().strip()
    assert len(drawn) >= 12
    admin.screen("access-user-made")
    assert admin.faults() == []
    page.get_by_role("button", name="I have passed it on").click()
    assert drawn not in page.content()

    page.get_by_role("button", name="Reset password vera").click()
    page.get_by_role("dialog").get_by_role("button", name="Reset").click()
    expect(page.locator("pre:visible")).to_be_visible()
    page.get_by_role("button", name="Disable vera").click()
    page.get_by_role("dialog").get_by_role("button", name="Disable").click()
    expect(page.get_by_role("button", name="Enable vera")).to_be_visible()
    assert running.ask("GET", "/users/vera")["disabled"] is True
    page.get_by_role("button", name="Delete vera").click()
    page.get_by_label("Type vera to go on").fill("vera")
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.get_by_role("button", name="Delete vera")).to_have_count(0)
    assert [each["name"] for each in running.ask("GET", "/users")["items"]] == ["admin"]

    page.get_by_role("button", name="Disable admin").click()
    page.get_by_role("dialog").get_by_role("button", name="Disable").click()
    expect(page.get_by_text("What to do:")).to_be_visible()  # the last one stays


def totp(secret: str) -> str:
    key = base64.b32decode(secret + "=" * (-len(secret) % 8))
    digest = hmac.new(key, struct.pack(">Q", int(time.time()) // 30), hashlib.sha1).digest()
    at = digest[-1] & 15
    return f"{(struct.unpack('>I', digest[at : at + 4])[0] & 0x7FFFFFFF) % 1_000_000:06d}"


def test_one_sets_up_an_app_and_takes_it_away_again(browser: Browser, running: Running) -> None:
    password = "correct horse battery staple"
    running.ask(
        "POST", "/users", name="otto", role="operator", password=password,
        must_change_password=False,
    )  # fmt: skip
    with person(browser, running.url) as one:
        one.go("/access")
        one.log_in(password, "otto")
        page = one.page
        expect(page.get_by_role("tab", name="Users")).to_have_count(0)
        page.get_by_role("button", name="Set up an app").click()
        secret = page.locator("pre:visible").first.inner_text().strip()
        page.get_by_label("Code that the app shows").fill(totp(secret))
        page.get_by_role("button", name="Confirm").click()
        expect(page.get_by_text("Keep these recovery codes")).to_be_visible()
        assert len(page.locator("pre:visible").inner_text().split()) == 10
        one.screen("access-recovery-codes")
        assert one.faults() == []
        page.get_by_role("button", name="I have kept them").click()
        page.get_by_label("Your password").fill(password)
        page.get_by_role("button", name="Ask for no code any more").click()
        expect(page.get_by_role("button", name="Set up an app")).to_be_visible()
        assert running.ask("GET", "/users/otto")["totp"] is False

        one.go("/audit")
        settle(one)
        expect(page.get_by_role("grid", name="Records")).to_be_visible()
        one.go("/settings")
        expect(page.get_by_text("by administrators")).to_be_visible()
    running.ask("DELETE", "/users/otto")


def test_api_tokens_are_shown_once_and_deleted(admin: Person) -> None:
    page = admin.page
    admin.go("/access?view=api-tokens")
    settle(admin)
    page.get_by_role("button", name="Make an API token").first.click()
    page.get_by_label("Name").fill("backup-job")
    page.get_by_role("button", name="Make it").click()
    token = page.locator("pre:visible").inner_text().strip()
    assert token.startswith("ct1_")
    admin.screen("access-api-token")
    assert admin.faults() == []
    admin.go("/access?view=api-tokens")
    settle(admin)
    assert token not in page.content()
    page.get_by_role("button", name="Delete", exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.get_by_text("There is no API token")).to_be_visible()
    admin.go("/access?view=sessions")
    expect(page.get_by_text("this one")).to_be_visible()
    admin.screen("access-sessions")
    assert admin.faults() == []


def test_the_audit_names_who_did_what_and_is_verified(somebody: Person, running: Running) -> None:
    running.ask("POST", "/vsubnets", name="audited")
    running.ask("DELETE", "/vsubnets/audited")
    page = somebody.page
    somebody.go("/audit?target=audited")
    settle(somebody)
    expect(page.get_by_text("DELETE /api/v1/vsubnets/audited").first).to_be_visible()
    page.get_by_role("button", name="Verify now").click()
    expect(page.get_by_text("Each record is where it was written")).to_be_visible()
    somebody.screen("audit-full")
    assert somebody.faults() == []
    with page.expect_download() as download:
        page.get_by_role("link", name="Export as CSV").click()
    assert "audited" in download.value.path().read_text()


def test_receivers_are_added_tested_and_removed_by_clicks(
    somebody: Person, running: Running
) -> None:
    page = somebody.page
    somebody.go("/settings")
    settle(somebody)
    page.get_by_role("button", name="Add a syslog server").click()
    page.get_by_label("Host").fill("127.0.0.1")
    page.get_by_label("Port").fill("5514")
    page.get_by_label("Protocol").select_option("tcp")
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.get_by_text("tcp://127.0.0.1:5514")).to_be_visible()
    page.get_by_role("button", name="Test", exact=True).click()
    expect(page.get_by_text("did not take the test")).to_be_visible(timeout=25_000)
    page.get_by_role("button", name="Add a webhook").click()
    page.get_by_label("URL").fill("http://example.com/")
    page.get_by_label("Secret to sign with").fill("0123456789abcdef")
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.get_by_text("events are posted by https only")).to_be_visible()
    somebody.screen("settings-refused")
    assert somebody.faults() == []
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    somebody.screen("settings-full")
    assert somebody.faults() == []
    page.get_by_role("button", name="Remove").click()
    page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    expect(page.get_by_text("Nobody outside is told of events")).to_be_visible()
    assert running.ask("GET", "/settings/events") == {"syslog": [], "webhooks": []}


def test_what_others_wrote_does_nothing_here_either(admin: Person) -> None:
    page = admin.page
    hostile = full.topology(4, 1, 2, name=HOSTILE.replace("{", "{{"))
    spoiled = json.loads(json.dumps(segment_answers(HOSTILE)))
    spoiled[f"preflights/{full.TASK}"]["findings"][0]["what"] = HOSTILE
    with answers(page, topology=hostile, **spoiled):
        for path in (
            f"/gateways?preflight={full.TASK}",
            f"/segments/{full.SEGMENT}",
            f"/topology?node={full.node_id(1)}",
        ):
            admin.go(path)
            settle(admin)
            expect(page.get_by_text("<img src=x").first).to_be_visible()
            text = page.locator("body").inner_text() + page.title()
            assert "\u202e" not in text
            assert "\u0007" not in text
            assert page.evaluate("window.pwned === undefined")
            assert page.locator("img[src=x]").count() == 0
