"""The collection's molecule scenario, on a booted system without Python."""

from __future__ import annotations

import pytest

from tests.integration.world import start_appliance
from tests.lab import Lab
from tests.packages.guest import ROOT, booted
from tests.playbooks.control import TOOL, Control, api_token
from tests.playbooks.test_playbooks import DIST

pytestmark = [pytest.mark.root, pytest.mark.tun, pytest.mark.slow, pytest.mark.timeout(600)]


def test_the_scenario_of_the_agent_passes() -> None:
    """Checked, converged, idempotent, checked again, verified, removed."""
    with Lab("molecule") as lab:
        office, cloud = lab.site("office"), lab.site("cloud-a")
        for site in (office, cloud):
            site.let_pass("tcp dport 22")
        appliance = start_appliance(office)
        appliance.network("prod", "10.7.0.0/24")
        control = Control(office.host("control"))
        made = appliance.cairn("api-token", "create", "ansible", "--scope", "operator")
        token = api_token(control.directory / "api-token", made["token"])
        host = cloud.host("one")
        with booted("debian-13-ssh", host, lab.directory) as guest:
            control.add(guest, host)
            inventory = control.inventory_file(
                {
                    "cairn_packages_dir": str(DIST / "dist"),
                    "cairn_url": appliance.url,
                    "cairn_fingerprint": appliance.fingerprint,
                    "cairn_api_token_file": str(token),
                    "cairn_vsubnets": ["prod"],
                }
            )
            # The scenario is the checkout's; what it tests is the installed collection.
            command = f"cd {ROOT / 'playbooks'} && {TOOL}/bin/molecule test -s agent"
            done = control.host.run(
                ["sh", "-c", command],
                check=False,
                within_s=400,
                env={
                    **control.environment(),
                    **control.connection(),
                    "CAIRN_MOLECULE_INVENTORY": str(inventory),
                    "MOLECULE_EPHEMERAL_DIRECTORY": str(control.directory / "molecule"),
                },
            )
            text = done.stdout + done.stderr
            assert done.returncode == 0, text
            assert "successful=7" in text, text  # all steps of the scenario
            assert made["token"] not in text and "cairn1." not in text
