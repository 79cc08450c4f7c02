"""One browser and one appliance for all tests of the console."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.browser import chromium
from tests.browser.appliance import Running, appliance


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Yield a running Chromium."""
    with chromium.browser() as started:
        yield started


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Yield a running appliance on loopback."""
    with appliance(tmp_path_factory.mktemp("console")) as started:
        yield started
