"""The shared world of the end-to-end tests, and what is kept when one of them fails."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.world import World, build_world
from tests.lab.cairn import missing_programs
from tests.lab.topology import LIVING
from tests.reports import REPORTS


@pytest.fixture(scope="session")
def world() -> Iterator[World]:
    """Three VMs at two sites and an appliance at a third, all on vSubnet `prod`."""
    if missing := missing_programs():
        pytest.fail(f"not built: {', '.join(missing)}; run make setup")
    with build_world() as built:
        yield built


@pytest.fixture(autouse=True)
def keep_logs_and_captures_of_a_failure(request: pytest.FixtureRequest) -> Iterator[None]:
    """Copy every living lab's logs and captures to build/lab/NAME if the test failed."""
    yield
    reports = request.node.stash.get(REPORTS, {})
    if any(report.failed for report in reports.values()):
        for lab in LIVING:
            print("kept:", lab.keep(request.node.name))
