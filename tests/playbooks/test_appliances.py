"""An appliance gets its packages by the collection, and serves them.

The program runs beside the system that SSH reaches at its address: what it serves lies in there.
"""

from __future__ import annotations

import pytest

from tests.playbooks.scene import set_up

pytestmark = [pytest.mark.root, pytest.mark.tun, pytest.mark.slow, pytest.mark.timeout(300)]


def test_an_appliance_serves_what_the_control_host_has() -> None:
    """Check mode, the real thing, again, the next release; and one that isn't healthy stops it."""
    with set_up("appliances", scope="viewer") as scene:
        appliance = scene.appliance
        guest = scene.boot("appliance", "debian-12-ssh", host=appliance.host)
        scene.variables.update(cairn_hosts="cairn", cairn_healthy_within_s=3)
        served = guest.place / "usr/share/cairn/packages"
        appliance.set(packages_dir=str(served))
        appliance.stop()
        stopped = scene.play("appliances", check=False)
        assert stopped.status != 0 and "can't be reached" in stopped.text, stopped.text
        assert not served.exists()
        appliance.start()

        checked = scene.play("appliances", "--check", "--diff")
        assert checked.changed == 1 and "+0.1.0-1" in checked.text and not served.exists()
        for release in (1, 2):
            assert scene.play("appliances", release=release).changed == 1
            assert scene.play("appliances", release=release).changed == 0
            url = f"https://{appliance.host.v4}:8002/packages/VERSION"
            shown = scene.control.host.run(["curl", "-skf", url]).stdout
            assert shown.strip() == f"0.1.0-{release}"
        left = {path.name for path in served.parent.iterdir()}
        assert left == {"packages"}, left
