"""A login by way of an identity provider, by clicks, in a real browser at a real provider."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.appliance import Running
from tests.browser.chromium import person
from tests.browser.test_pages import settle
from tests.identity_provider import CLIENT, SECRET, identity_provider

pytestmark = [pytest.mark.browser, pytest.mark.etcd, pytest.mark.slow, pytest.mark.timeout(180)]


def test_a_provider_is_set_used_and_outlived_by_clicks_alone(
    browser: Browser, running: Running, tmp_path: Path
) -> None:
    with identity_provider(tmp_path) as provider:
        provider.does(page=True)
        with person(browser, running.url) as admin:
            page = admin.page
            admin.go("/settings")
            admin.log_in(running.password)
            expect(page.get_by_text(f"{running.url}/oidc")).to_be_visible()
            page.get_by_role("button", name="Set an identity provider").click()
            page.get_by_label("Name on the button").fill("the office login")
            page.get_by_label("Issuer").fill(provider.issuer)
            page.get_by_label("Client ID").fill(CLIENT)
            page.get_by_label("Client secret").fill(SECRET)
            groups = page.get_by_label("Roles of groups")
            groups.fill("cairn-operators = king")
            expect(page.get_by_role("button", name="Save")).to_be_disabled()
            groups.fill("cairn-operators = operator")
            page.get_by_label("CA to believe").fill(provider.ca)
            admin.screen("settings-oidc-form")
            assert admin.faults() == []
            page.get_by_role("button", name="Save").click()
            expect(page.get_by_text("set; it is never shown")).to_be_visible()
            page.get_by_role("button", name="Test the provider").click()
            expect(page.get_by_text("The provider answers, with 1 key")).to_be_visible()
            admin.screen("settings-oidc")
            assert admin.faults() == []
            assert SECRET not in page.content()

        for theme in ("light", "dark"):
            with person(browser, running.url, theme=theme, knows=provider.issuer) as ada:
                page = ada.page
                ada.go("/nodes?q=a")
                expect(
                    page.get_by_role("button", name="Sign in with the office login")
                ).to_be_visible()
                ada.screen("login-oidc")
                assert ada.faults() == []
                page.get_by_role("button", name="Sign in with the office login").click()
                page.get_by_role("link", name="Ada").click()
                expect(page).to_have_url(f"{running.url}/nodes?q=a")
                settle(ada)
                expect(page.get_by_role("button", name="Log out")).to_be_visible()
                ada.go("/access")
                settle(ada)
                expect(page.get_by_text("it decides role and password")).to_be_visible()
                expect(page.get_by_text("ada.lovelace").first).to_be_visible()
                ada.screen("access-external")
                assert ada.faults() == []

        with person(browser, running.url, knows=provider.issuer) as ada:
            page = ada.page
            provider.does(page=True, claims={"nonce": "another"})
            ada.go("/")
            page.get_by_role("button", name="Sign in with").click()
            page.get_by_role("link", name="Ada").click()
            expect(page.get_by_text("it is of another login (nonce)")).to_be_visible()
            expect(page).to_have_url(
                f"{running.url}/"
            )  # neither code nor state stays in the address
            ada.screen("login-oidc-refused")
            assert ada.faults() == []

            provider.process.send_signal(signal.SIGSTOP)
            try:
                running.ask("POST", "/settings/oidc/test")  # what was kept of it is forgotten
                page.get_by_role("button", name="Sign in with").click()
                expect(page.get_by_text(re.compile("no answer within"))).to_be_visible()
                expect(page.get_by_text("users with a password log in as ever")).to_be_visible()
                ada.screen("login-oidc-away")
                assert ada.faults() == []
            finally:
                provider.process.send_signal(signal.SIGCONT)
            ada.log_in(running.password)
            ada.go("/access?view=users")
            expect(page.get_by_text("may log in by the identity provider")).to_be_visible()
            ada.screen("access-users-external")
            ada.go("/settings")
            page.get_by_role("button", name="Remove the provider").click()
            page.get_by_role("dialog").get_by_role("button", name="Remove").click()
            expect(page.get_by_text("People log in with name and password only")).to_be_visible()
