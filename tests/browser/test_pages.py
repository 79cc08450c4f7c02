"""Every page of the console in a real browser against a real appliance."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Route, expect

from tests import proofs
from tests.browser.appliance import Running
from tests.browser.chromium import Person, person

pytestmark = [pytest.mark.browser, pytest.mark.etcd, pytest.mark.timeout(180)]

SILENT_WITHIN_S = 5.0
SEEN_WITHIN_S = 1.0
CHANGES = 5
FIRST_PAGE_OCTETS = 300_000
HOSTILE = '<img src=x onerror="window.pwned=1">\u202egnp.exe\u0007'
PAGES = [
    *("/", "/topology", "/nodes", "/join", "/vsubnets", "/gateways", "/latency", "/events"),
    *("/audit", "/cluster", "/access", "/access?view=users", "/access?view=api-tokens"),
    "/settings",
]


@pytest.fixture(scope="module")
def somebody(browser: Browser, running: Running) -> Iterator[Person]:
    """Yield an administrator who is logged in."""
    with person(browser, running.url) as one:
        one.go("/")
        one.log_in(running.password)
        yield one


def name_of(path: str) -> str:
    return re.sub(r"[^a-z]+", "-", path.strip("/")) or "overview"


def settle(one: Person) -> None:
    """Wait until a page shows something else than that it loads."""
    expect(one.page.get_by_role("heading", level=1)).to_be_visible()
    expect(one.page.locator(".cairn-loading")).to_have_count(0)


@pytest.mark.slow
def test_a_wrong_password_is_answered_with_cause_and_remedy(
    browser: Browser, running: Running
) -> None:
    with person(browser, running.url) as stranger:
        stranger.go("/vsubnets?q=a")
        stranger.page.get_by_label("User").fill("admin")
        stranger.page.get_by_label("Password").fill("wrong")
        stranger.page.get_by_role("button", name="Log in").click()
        expect(stranger.page.get_by_text("What to do:")).to_be_visible()
        stranger.screen("login-refused")
        assert stranger.faults() == []

        stranger.log_in(running.password)

        expect(stranger.page).to_have_url(f"{running.url}/vsubnets?q=a")
        assert "localStorage" not in stranger.page.evaluate("Object.keys(localStorage).join()")
        cookie = stranger.context.cookies()[0]
        assert (cookie["name"], cookie["httpOnly"], cookie["secure"], cookie["sameSite"]) == (
            "__Host-cairn-session",
            True,
            True,
            "Strict",
        )


@pytest.mark.parametrize("theme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
def test_each_page_is_sound_while_there_is_nothing(
    browser: Browser, running: Running, theme: str
) -> None:
    with person(browser, running.url, theme=theme) as one:
        one.go("/")
        expect(one.page.get_by_role("button", name="Log in")).to_be_visible()
        one.screen("login")
        assert one.faults() == []
        one.log_in(running.password)
        faults = {}
        for path in PAGES:
            one.go(path)
            settle(one)
            one.screen(f"{name_of(path)}-empty")
            faults[path] = one.faults()
        assert faults == {path: [] for path in PAGES}


def test_a_page_whose_files_come_to_nothing_is_asked_for_again_and_says_so_in_the_end(
    browser: Browser, running: Running
) -> None:
    """A browser drops what it loads where the machine's network changes under it."""
    asked = 0

    def drop_twice(route: Route) -> None:
        nonlocal asked
        asked += 1
        if asked > 2:
            route.continue_()
        else:
            route.abort("internetdisconnected")

    with person(browser, running.url) as one:
        one.go("/")
        one.log_in(running.password)
        page = one.page
        page.route("**/assets/VSubnets-*.js", drop_twice)
        page.get_by_role("link", name="vSubnets").first.click()
        expect(page.get_by_role("button", name="Create a vSubnet").first).to_be_visible()
        assert asked == 3

        page.route("**/assets/Events-*.js", lambda route: route.abort("internetdisconnected"))
        page.get_by_role("link", name="Events").first.click()
        expect(page.get_by_text("This page could not be shown")).to_be_visible(timeout=10_000)
        one.screen("route-failed")
        page.unroute("**/assets/Events-*.js")
        page.get_by_role("button", name="Reload").click()
        expect(page.get_by_role("heading", level=1, name="Events")).to_be_visible()


@pytest.mark.slow
def test_a_vsubnet_is_made_changed_and_deleted_by_clicks(
    somebody: Person, running: Running
) -> None:
    page = somebody.page
    somebody.go("/vsubnets")
    page.get_by_role("button", name="Create a vSubnet").click()
    page.get_by_label("Name").fill("made-here")
    page.get_by_label("Prefixes").fill("10.9.0.1/24")
    page.get_by_role("button", name="Create", exact=True).click()
    expect(page.get_by_text("host bits set")).to_be_visible()  # what was typed stays
    somebody.screen("vsubnet-refused")
    assert somebody.faults() == []
    page.get_by_label("Prefixes").fill("10.9.0.0/24")
    page.get_by_role("button", name="Create", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("made-here")
    somebody.screen("vsubnet")
    assert somebody.faults() == []

    page.get_by_role("button", name="Change").click()
    page.get_by_label("MTU in octets").fill("1380")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("1380 octets")).to_be_visible()
    assert running.ask("GET", "/vsubnets/made-here")["mtu"] == 1380

    page.get_by_role("button", name="Delete").click()
    dialogue = page.get_by_role("dialog")
    expect(dialogue.get_by_role("button", name="Delete")).to_be_disabled()
    somebody.screen("vsubnet-delete")
    page.get_by_label("Type made-here to go on").fill("made-here")
    dialogue.get_by_role("button", name="Delete").click()
    expect(page).to_have_url(re.compile("/vsubnets$"))
    listed = running.ask("GET", "/vsubnets")["items"]
    assert "made-here" not in [each["name"] for each in listed]


@pytest.mark.slow
def test_a_token_is_shown_once_for_three_ways_to_join(somebody: Person, running: Running) -> None:
    made = running.ask("POST", "/vsubnets", name="joined", prefixes=["10.8.0.0/24"])
    page = somebody.page
    somebody.go(f"/join?vsubnet={made['id']}")
    expect(page.get_by_label("joined")).to_be_checked()
    page.get_by_label("Site").fill("cloud-a")
    page.get_by_label("Only from these networks").fill("192.0.2.0/24")
    page.get_by_label("Only for machines with these instance IDs").fill("i-0abc, I-0ABD")
    page.get_by_role("button", name="Make the token").click()
    code = page.locator("pre:visible")
    expect(code).to_contain_text("cairn-agent join - <<'TOKEN'\ncairn1.")
    expect(page.get_by_text("Waiting for 1 node")).to_be_visible()
    somebody.screen("join-waiting")
    assert somebody.faults() == []
    kept = running.ask("GET", "/tokens")["items"][0]
    assert (kept["sources"], kept["instances"]) == (["192.0.2.0/24"], ["i-0abc", "i-0abd"])
    page.set_viewport_size({"width": 640, "height": 900})
    page.wait_for_timeout(500)  # the navigation makes room
    for text in (code, page.locator("html")):
        assert text.evaluate("each => each.scrollWidth - each.clientWidth") <= 1
    somebody.screen("join-narrow")
    page.set_viewport_size({"width": 1920, "height": 1080})
    page.get_by_role("tab", name="cloud-init").click()
    expect(page.locator("pre:visible")).to_contain_text("#cloud-config")
    page.get_by_role("tab", name="Ansible").click()
    expect(page.locator("pre:visible")).to_contain_text("no_log: true")
    secret = re.search(r"cairn1\.\S+", page.locator("pre:visible").inner_text())
    assert secret

    somebody.go("/join")
    settle(somebody)
    assert secret[0] not in page.content()
    expect(page.get_by_role("gridcell", name="0 of 1").first).to_be_visible()


def test_what_others_wrote_does_nothing(somebody: Person, running: Running) -> None:
    """The appliance lets no such name in; what if one came all the same."""
    made = running.ask("POST", "/vsubnets", name="hostile")

    def spoil(route: Route) -> None:
        answer = route.fetch()
        body = answer.text().replace('"hostile"', json.dumps(HOSTILE))
        route.fulfill(response=answer, body=body)

    page = somebody.page
    page.route("**/api/v1/vsubnets*", spoil)
    page.route("**/api/v1/vsubnets/*", spoil)
    try:
        for path in ("/vsubnets", f"/vsubnets/{made['id']}", "/join"):
            somebody.go(path)
            settle(somebody)
            expect(page.get_by_text("<img src=x").first).to_be_visible()
            text = page.locator("body").inner_text() + page.title()
            assert "\u202e" not in text
            assert "\u0007" not in text
            assert "⟨U+202E⟩" in text
            assert page.evaluate("window.pwned === undefined")
            assert page.locator("img[src=x]").count() == 0
        somebody.screen("join-hostile")
    finally:
        page.unroute_all()
    running.ask("DELETE", "/vsubnets/hostile")


@pytest.mark.slow
def test_a_change_elsewhere_is_on_screen_within_a_second(
    somebody: Person, running: Running
) -> None:
    somebody.go("/vsubnets")
    settle(somebody)
    time.sleep(1)  # the stream is opened
    worst_s = 0.0
    for index in range(CHANGES):
        name = f"seen-at-once-{index}"
        began = time.monotonic()
        running.ask("POST", "/vsubnets", name=name)
        link = somebody.page.get_by_role("link", name=name)
        link.wait_for(state="visible", timeout=5_000)  # looks at each frame that is drawn
        worst_s = max(worst_s, time.monotonic() - began)
        running.ask("DELETE", f"/vsubnets/{name}")
        link.wait_for(state="detached", timeout=5_000)
        time.sleep(0.2 * index)  # at another moment between two words of the stream
    assert proofs.record_seconds(
        "CONSOLE-live",
        worst_s,
        at_most_s=SEEN_WITHIN_S,
        what=f"the worst of {CHANGES} changes made elsewhere: until it is on screen",
        command="make console-test ARGS='-k on_screen'",
    )


@pytest.mark.slow
def test_the_first_content_is_there_within_a_second(browser: Browser, running: Running) -> None:
    with person(browser, running.url) as known:
        known.go("/")
        known.log_in(running.password)
        cookies = known.context.cookies()
        with person(browser, running.url) as fresh:  # whose cache is empty
            fresh.go("/")
            fresh.page.get_by_role("button", name="Log in").wait_for(state="visible")
            login_ms = fresh.page.evaluate("performance.now()")
        with person(browser, running.url) as fresh:
            fresh.context.add_cookies([{**each} for each in cookies])  # type: ignore[list-item]
            fresh.go("/")
            fresh.page.get_by_role("heading", level=1).wait_for(state="visible")
            fresh.page.locator(".cairn-loading").first.wait_for(state="detached")
            overview_ms = fresh.page.evaluate("performance.now()")
    took_s = max(login_ms, overview_ms) / 1000
    assert proofs.record_seconds(
        "CONSOLE-first",
        took_s,
        at_most_s=SEEN_WITHIN_S,
        what="first content with an empty cache: the login's form, the overview's figures",
        command="make console-test ARGS='-k first_content'",
    )


@pytest.mark.slow
def test_search_finds_by_name_and_goes_there_by_keyboard(
    somebody: Person, running: Running
) -> None:
    made = running.ask("POST", "/vsubnets", name="found-by-name")
    page = somebody.page
    somebody.go("/nodes")
    settle(somebody)
    box = page.get_by_label("Search everything")
    box.fill("found-by")
    expect(page.get_by_role("menuitem", name="found-by-name")).to_be_visible()
    somebody.screen("search")
    assert somebody.faults() == []
    box.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(f"/vsubnets/{made['id']}$"))


@pytest.mark.slow
def test_the_keyboard_reaches_the_content_first(somebody: Person) -> None:
    somebody.go("/nodes")
    settle(somebody)
    somebody.page.keyboard.press("Tab")
    expect(somebody.page.get_by_role("link", name="Skip to content")).to_be_focused()


@pytest.mark.slow
def test_the_theme_is_kept(browser: Browser, running: Running) -> None:
    with person(browser, running.url) as one:
        one.go("/")
        one.log_in(running.password)
        one.page.get_by_label("Theme").select_option("dark")
        expect(one.page.locator("html")).to_have_class(re.compile("pf-v6-theme-dark"))
        one.page.reload()
        expect(one.page.locator("html")).to_have_class(re.compile("pf-v6-theme-dark"))


@pytest.mark.slow
def test_failed_and_stale_say_why_and_what_to_do(somebody: Person) -> None:
    problem = {
        "title": "Not available",
        "status": 503,
        "code": "unavailable",
        "detail": "the store gives no answer in time",
        "remedy": "look at the other appliances",
    }

    def refuse(route: Route) -> None:
        route.fulfill(status=503, json=problem, content_type="application/problem+json")

    page = somebody.page
    somebody.go("/vsubnets")
    settle(somebody)
    page.route("**/api/v1/vsubnets?*", refuse)
    page.get_by_role("link", name="Nodes", exact=True).click()
    settle(somebody)
    page.wait_for_timeout(5_500)  # what was read counts as fresh for 5 s
    page.get_by_role("link", name="vSubnets", exact=True).click()
    expect(page.get_by_text("there is no newer answer")).to_be_visible()
    somebody.screen("vsubnets-stale")
    assert somebody.faults() == []

    page.reload()
    expect(page.get_by_text("No vSubnets to show")).to_be_visible()
    expect(page.get_by_text("What to do: look at the other appliances")).to_be_visible()
    somebody.screen("vsubnets-failed")
    assert somebody.faults() == []
    page.unroute("**/api/v1/vsubnets?*")
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("grid", name="vSubnets")).to_be_visible()


@pytest.mark.slow
def test_a_dead_appliance_is_named_within_5_s_and_nothing_typed_is_lost(
    browser: Browser, running: Running
) -> None:
    with person(browser, running.url) as one:
        one.go("/vsubnets")
        one.log_in(running.password)
        one.page.get_by_role("button", name="Create a vSubnet").click()
        one.page.get_by_label("Name").fill("half-typed")
        time.sleep(2.5)  # a beat has come
        os.kill(running.process.pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            banner = one.page.get_by_text("gives no answer")
            banner.first.wait_for(state="visible", timeout=20_000)
            took_s = time.monotonic() - began
            one.screen("appliance-lost")
        finally:
            os.kill(running.process.pid, signal.SIGCONT)
        expect(banner).to_have_count(0, timeout=20_000)
        expect(one.page.get_by_label("Name")).to_have_value("half-typed")
    assert proofs.record_seconds(
        "CONSOLE-lost",
        took_s,
        at_most_s=SILENT_WITHIN_S,
        what="the only appliance paused under an open console: until it says so",
        command="make console-test ARGS='-k dead_appliance'",
    )


@pytest.mark.slow
def test_a_session_that_ends_is_renewed_over_the_page(browser: Browser, running: Running) -> None:
    with person(browser, running.url) as one:
        one.go("/vsubnets")
        one.log_in(running.password)
        one.page.get_by_role("button", name="Create a vSubnet").click()
        one.page.get_by_label("Name").fill("still-there")
        one.context.clear_cookies()
        one.page.get_by_role("button", name="Create", exact=True).click()
        ended = one.page.get_by_role("heading", name="Your session has ended")
        expect(ended).to_be_visible()
        one.screen("session-ended")
        one.page.get_by_label("Password").fill(running.password)
        one.page.get_by_role("button", name="Log in").click()
        expect(ended).to_have_count(0)
        expect(one.page.get_by_label("Name")).to_have_value("still-there")


def test_the_first_page_is_small(browser: Browser, running: Running) -> None:
    with person(browser, running.url) as one:
        sizes: list[int] = []
        one.page.on(
            "requestfinished", lambda request: sizes.append(request.sizes()["responseBodySize"])
        )
        one.go("/")
        one.log_in(running.password)
        settle(one)
        one.page.wait_for_timeout(500)
        assert proofs.record(
            "CONSOLE-octets",
            what="login and first page, compressed, as the browser has received them",
            bar=f"<= {FIRST_PAGE_OCTETS // 1000} kB",
            value=round(sum(sizes) / 1000, 1),
            unit="kB",
            holds=0 < sum(sizes) <= FIRST_PAGE_OCTETS,
            command="pytest tests/browser/test_pages.py -k first_page_is_small",
        )
