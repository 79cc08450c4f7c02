"""The collection's molecule scenarios, on booted systems without Python."""

from __future__ import annotations

import pytest

from tests.lab.lan import Lan
from tests.packages.guest import ROOT
from tests.playbooks.control import TOOL
from tests.playbooks.scene import Scene, packages, set_up

pytestmark = [pytest.mark.root, pytest.mark.tun, pytest.mark.slow, pytest.mark.timeout(600)]


def test_the_scenario_of_the_agent_passes() -> None:
    """Checked, converged, idempotent, checked again, verified, removed."""
    with set_up("molecule-agent") as scene:
        scene.boot("one", "debian-13-ssh")
        _passes(scene, "agent", steps=7, cairn_vsubnets=["prod"])
        assert set(scene.appliance.nodes()) == {"peer"} and not scene.left("one")


def test_the_scenario_of_the_gateway_passes() -> None:
    """The same; its host is on a LAN."""
    with set_up("molecule-gateway") as scene:
        lan = Lan(scene.lab, "lan")
        host = scene.lab.sites["cloud-a"].host("gate")
        lan.plug(host, "eth1")
        scene.boot("gate", "debian-12-ssh", host=host)
        _passes(
            scene,
            "gateway",
            steps=7,
            cairn_gateway_segment="office-lan",
            cairn_gateway_vsubnet="prod",
            cairn_gateway_port="eth1",
            cairn_gateway_listen_s=2,
        )
        assert set(scene.appliance.nodes()) == {"peer"} and not scene.left("gate")


def test_the_scenario_of_the_appliance_passes() -> None:
    """Checked, converged, idempotent, checked again, verified."""
    with set_up("molecule-appliance", scope="viewer") as scene:
        scene.boot("appliance", "debian-12-ssh", host=scene.appliance.host)
        _passes(scene, "appliance", steps=6)


def _passes(scene: Scene, scenario: str, *, steps: int, **variables: object) -> None:
    """Run all steps of a scenario; no secret is shown."""
    inventory = scene.control.inventory_file(
        {**scene.variables, "cairn_packages_dir": str(packages(1)), **variables},
        groups=("cairn", "cairn_gateways", "cairn_appliances"),
    )
    # The scenario is the checkout's; what it tests is the installed collection.
    done = scene.control.host.run(
        ["sh", "-c", f"cd {ROOT / 'playbooks'} && {TOOL}/bin/molecule test -s {scenario}"],
        check=False,
        within_s=500,
        env={
            **scene.control.environment(),
            **scene.control.connection(),
            "CAIRN_MOLECULE_INVENTORY": str(inventory),
            "MOLECULE_EPHEMERAL_DIRECTORY": str(scene.control.directory / "molecule"),
        },
    )
    text = done.stdout + done.stderr
    assert done.returncode == 0, text
    assert f"successful={steps}" in text, text
    scene.control.look_for_secrets(text, f"molecule's scenario {scenario}")
