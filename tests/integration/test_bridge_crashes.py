"""An agent that is killed while it bridges a port, or while it takes a bridge apart.

Whatever had been done: the next agent takes the bridge apart and the port is as it was.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
from cairn_agent.host.bridge import ensure_bridges, remove_other_bridges
from cairn_agent.host.bridge_journal import Journal
from pyroute2 import AsyncIPRoute

from tests.integration.test_bridge_host import differences, lan, settled, wanted
from tests.integration.test_bridge_one_nic import one_nic, without_lifetimes
from tests.unit.agent.fakes.network import in_new_network

pytestmark = [pytest.mark.root, pytest.mark.tun]

Mode = Literal["own_port", "one_nic"]
_MOST = 200


class Agent:
    """The script that bridges; one process for all deaths."""

    def __init__(self, directory: Path, *, each: bool) -> None:
        self.journal = directory / "bridges.json"
        self._each = each
        script = Path(__file__).with_name("bridging.py")
        self._process = subprocess.Popen(
            [sys.executable, str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._answer() == "ready"

    def acts(self, what: str, die_before: int) -> bool:
        """Let it attach or detach; return whether it died over it."""
        one = wanted()
        values = {"vni": one.vni, "tap": one.tap, "port": one.port, "vlan": 0, "mtu": one.mtu}
        order = {
            "do": what,
            "journal": str(self.journal),
            "wanted": values | {"overlay_macs": sorted(one.overlay_macs)},
            "die_before": die_before,
            "each": self._each,
        }
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        assert answer in ("killed", "done 0"), answer
        return answer == "killed"

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


def sweep(directory: Path, mode: Mode, *, each: bool) -> dict[str, int]:
    """Kill it before each change, there and back; return how many deaths there were."""
    deaths = {"attach": 0, "detach": 0}

    async def test(netlink: AsyncIPRoute) -> None:
        await (lan(netlink) if mode == "own_port" else one_nic(netlink))
        before = await state(mode)
        agent = Agent(directory, each=each)

        async def is_back(what: str) -> None:
            assert await remove_other_bridges(netlink, [], Journal(agent.journal)) is not None
            assert differences(before, await state(mode)) == [], what

        try:
            for change in range(_MOST):
                if not agent.acts("attach", change):
                    break
                deaths["attach"] += 1
                if change % 2:  # the next agent goes on, or finds that nobody confirmed
                    outcome = await ensure_bridges(netlink, [wanted()], Journal(agent.journal))
                    assert mode == "one_nic" or outcome[7].error is None, outcome[7].error
                await is_back(f"killed before change {change} of attaching")
                forget_refusals(agent.journal)
            await is_back("after attaching")
            for change in range(_MOST):
                assert not agent.acts("attach", -1)
                Journal(agent.journal).confirm()
                if not agent.acts("detach", change):
                    break
                deaths["detach"] += 1
                await is_back(f"killed before change {change} of detaching")
            await is_back("after detaching")
        finally:
            agent.close()

    in_new_network(test)
    return deaths


async def state(mode: Mode) -> dict[str, Any]:
    """Return everything that could have been left changed."""
    found = await settled()
    return found if mode == "own_port" else without_lifetimes(found)


def forget_refusals(path: Path) -> None:
    """Let what was put back by itself be tried again at once."""
    Journal(path).allow("eth1")


@pytest.mark.parametrize("mode", [pytest.param("own_port", marks=pytest.mark.slow), "one_nic"])
def test_killed_before_any_step_the_port_goes_back(tmp_path: Path, mode: Mode) -> None:
    deaths = sweep(tmp_path, mode, each=False)
    print(mode, deaths)
    assert deaths["attach"] >= 5 and deaths["detach"] >= 3


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["own_port", "one_nic"])
def test_killed_before_any_single_change_the_port_goes_back(tmp_path: Path, mode: Mode) -> None:
    deaths = sweep(tmp_path, mode, each=True)
    print(mode, deaths)
    assert deaths["attach"] >= (8 if mode == "own_port" else 30)
