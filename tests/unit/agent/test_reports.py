"""What people are told of paths and TAPs that carry less than their vSubnet."""

from __future__ import annotations

import io

import pytest
from cairn_agent import screens
from cairn_agent.report import PeerReport
from rich.console import Console


def peer(*, mtu: int | None, session: str = "up", endpoint: str = "192.0.2.7:8002") -> PeerReport:
    return PeerReport(
        node_id="1",
        name="web-1",
        site="",
        vni=7,
        vsubnet="office",
        role="host",
        ips=[],
        macs=[],
        endpoints=[endpoint],
        session=session,
        endpoint=endpoint,
        mtu=mtu,
        wanted_mtu=1400,
    )


def test_a_path_that_carries_less_comes_with_what_to_do() -> None:
    narrow = peer(mtu=1320).narrow()
    assert narrow is not None
    found, remedy = narrow
    assert found == (
        "the path to web-1 carries packets of 1,320 octets, vSubnet office sends up to 1,400"
    )
    assert remedy == (
        "let UDP packets of 1,480 octets through on the way to 192.0.2.7:8002, or lower the "
        "MTU: cairn vsubnet set office --mtu 1320"
    )
    narrow = peer(mtu=1200, endpoint="[2001:db8::7]:8002").narrow()
    assert narrow is not None
    assert narrow[1] == (
        "let UDP packets of 1,500 octets through on the way to [2001:db8::7]:8002"
    ), "no vSubnet has so small an MTU"


@pytest.mark.parametrize(
    "healthy", [peer(mtu=1400), peer(mtu=None), peer(mtu=1300, session="down")]
)
def test_nothing_is_said_of_a_path_that_is_well_or_unknown(healthy: PeerReport) -> None:
    assert healthy.narrow() is None


def test_the_peers_are_shown_with_what_is_wrong_below() -> None:
    out = Console(file=io.StringIO(), width=200)
    screens.show_peers(out, [peer(mtu=1320), peer(mtu=1400)])
    shown = out.file.getvalue()  # type: ignore[attr-defined]
    assert "1320" in shown
    assert shown.count("what to do: let UDP packets of 1,480 octets through") == 1
