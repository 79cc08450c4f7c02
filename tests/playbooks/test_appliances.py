"""An appliance gets its packages by the collection, and serves them.

The program runs beside the system that SSH reaches at its address: what it serves lies in there.
"""

from __future__ import annotations

import pytest

from tests.integration.world import start_appliance
from tests.lab import Lab
from tests.packages.guest import booted
from tests.playbooks.control import Control, Played, api_token
from tests.playbooks.test_playbooks import DIST

pytestmark = [pytest.mark.root, pytest.mark.tun, pytest.mark.slow, pytest.mark.timeout(300)]


def test_an_appliance_serves_what_the_control_host_has() -> None:
    """Check mode, the real thing, again, the next release; and one that isn't healthy stops it."""
    with Lab("appliances") as lab:
        office = lab.site("office")
        appliance = start_appliance(office)
        control = Control(office.host("control"))
        made = appliance.cairn("api-token", "create", "ansible", "--scope", "viewer")
        control.secrets.append(made["token"])
        token = api_token(control.directory / "api-token", made["token"])

        def play(*options: str, release: int = 1, check: bool = True) -> Played:
            return control.play(
                "appliances",
                *options,
                check=check,
                cairn_hosts="cairn",
                cairn_packages_dir=str(DIST / ("dist" if release == 1 else f"dist-{release}")),
                cairn_fingerprint=appliance.fingerprint,
                cairn_api_token_file=str(token),
                cairn_healthy_within_s=3,
            )

        with booted("debian-12-ssh", appliance.host, lab.directory) as guest:
            served = guest.place / "usr/share/cairn/packages"
            appliance.set(packages_dir=str(served))
            appliance.stop()
            control.add(guest, appliance.host)
            stopped = play(check=False)
            assert stopped.status != 0 and "can't be reached" in stopped.text, stopped.text
            assert not served.exists()
            appliance.start()

            checked = play("--check", "--diff")
            assert checked.changed == 1 and "+0.1.0-1" in checked.text and not served.exists()
            for release in (1, 2):
                assert play(release=release).changed == 1
                assert play(release=release).changed == 0
                url = f"https://{appliance.host.v4}:8002/packages/VERSION"
                shown = control.host.run(["curl", "-skf", url]).stdout
                assert shown.strip() == f"0.1.0-{release}"
            left = {path.name for path in served.parent.iterdir()}
            assert left == {"packages"}, left
