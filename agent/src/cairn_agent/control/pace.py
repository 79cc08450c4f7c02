"""How fast many agents together may speak."""

from __future__ import annotations

from typing import Final

from cairn_agent.netmap.held import Netmap

_PER_MEMBER_S: Final = 0.03
_UP_PER_MEMBER_S: Final = 0.01
_MAX_S: Final = 60.0


def acknowledged_within_s(netmap: Netmap | None, *, goes_up: bool) -> float:
    """Return the time over which all members that loaded a change spread their word of it.

    Each change is acknowledged by every member, up its stream or, at an older appliance, on a
    connection of its own. A thousand of these at once would keep an appliance from all else for
    seconds; ten are told of within a blink.
    """
    if netmap is None:
        return 0.0
    members = sum(len(vsubnet.members) for vsubnet in netmap.vsubnets.values())
    return min(members * (_UP_PER_MEMBER_S if goes_up else _PER_MEMBER_S), _MAX_S)
