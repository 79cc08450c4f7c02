"""A real Chromium with the console in it, and what is asked of every page."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, Error, Page, expect, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
SCREENS = ROOT / "build" / "screens"
AXE = ROOT / "appliance" / "console" / "node_modules" / "axe-core" / "axe.min.js"
WITHIN_MS = 15_000
expect.set_options(timeout=WITHIN_MS)
_SERIOUS = ("serious", "critical")
_NETWORK_CHANGED = ("ERR_NETWORK_CHANGED", "chrome-error://")
_TRIES = 5


@contextmanager
def browser() -> Iterator[Browser]:
    """Yield Debian's Chromium without a screen; nothing is downloaded."""
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking"]
        started = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=arguments
        )
        try:
            yield started
        finally:
            started.close()


@dataclass
class Person:
    """Somebody before the console of one appliance; nothing outside may be asked for."""

    context: BrowserContext
    page: Page
    url: str
    theme: str
    knows: str = ""  # another address that may be gone to
    asked: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def go(self, path: str) -> None:
        """Open an address of the console.

        Where interfaces come and go on the machine, as tests make them, Chromium drops what it
        loads and shows a page of its own: it is asked again once that is over.
        """
        for _ in range(_TRIES):
            try:
                self.page.goto(f"{self.url}{path}")
            except Error as error:
                if not any(sign in error.message for sign in _NETWORK_CHANGED):
                    raise
                self.page.wait_for_timeout(1000)
            else:
                return
        self.page.goto(f"{self.url}{path}")

    def log_in(self, password: str, name: str = "admin") -> None:
        """Fill the form that a stranger gets."""
        self.page.get_by_label("User").fill(name)
        self.page.get_by_label("Password").fill(password)
        self.page.get_by_role("button", name="Log in").click()
        expect(self.page.get_by_role("button", name="Log out")).to_be_visible()

    def screen(self, name: str) -> None:
        """Keep a picture under build/screens."""
        SCREENS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENS / f"{name}-{self.theme}.png", full_page=True)

    def faults(self) -> list[str]:
        """Return what axe-core finds serious on the page as it is now."""
        # Not a script element: the page's own policy lets none in, and is left as it is.
        self.page.evaluate(AXE.read_text())
        found: dict[str, Any] = self.page.evaluate("axe.run(document)")
        return [
            f"{each['id']}: {json.dumps([node['html'][:200] for node in each['nodes']])}"
            for each in found["violations"]
            if each["impact"] in _SERIOUS
        ]

    def outside(self) -> list[str]:
        """Return what was asked of anybody but this appliance."""
        here = {urlsplit(self.url).netloc, urlsplit(self.knows).netloc}
        return [
            each
            for each in self.asked
            if urlsplit(each).scheme not in ("blob", "data") and urlsplit(each).netloc not in here
        ]

    def violations(self) -> list[str]:
        """Return what the browser said of a broken content security policy, or of an error."""
        return [each for each in self.said if re.search("Content Security Policy|Uncaught", each)]


@contextmanager
def person(
    browser: Browser, url: str, *, theme: str = "light", knows: str = ""
) -> Iterator[Person]:
    """Yield somebody with a browser of their own, and look at the end what it asked and said."""
    context = browser.new_context(
        ignore_https_errors=True,
        color_scheme="dark" if theme == "dark" else "light",
        viewport={"width": 1920, "height": 1080},
        locale="en",
    )
    context.set_default_timeout(WITHIN_MS)
    page = context.new_page()
    somebody = Person(context, page, url, theme, knows)
    context.on("request", lambda request: somebody.asked.append(request.url))
    page.on("console", lambda message: somebody.said.append(message.text))
    page.on("pageerror", lambda error: somebody.said.append(f"Uncaught {error}"))
    try:
        yield somebody
        assert somebody.outside() == []
        assert somebody.violations() == []
    finally:
        context.close()
