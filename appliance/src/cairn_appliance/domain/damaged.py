"""Values of the store that are set aside, as a problem for operators."""

from __future__ import annotations

from collections.abc import Mapping

from cairn_appliance.domain.alarm import Alarm
from cairn_appliance.domain.problem import Problem

_SHOWN = 3
_REASON_MAX = 120


def problems_of_values(damaged: Mapping[str, str]) -> tuple[Problem, ...]:
    """Return the problem of keys whose values are left out, each with the reason; or none."""
    if not damaged:
        return ()
    told = [f"{key} ({reason[:_REASON_MAX]})" for key, reason in sorted(damaged.items())[:_SHOWN]]
    more = f" and {len(damaged) - _SHOWN} more" if len(damaged) > _SHOWN else ""
    return (
        Problem(
            Alarm.VALUES_UNREADABLE,
            f"values of the store can't be used and are left out: {'; '.join(told)}{more}",
            "what they belong to is served as if it were not there, all else goes on; take back "
            "what was edited by hand, or set or delete that thing with `cairn`; else restore a "
            "backup (docs/operate/alarms.md)",
            is_urgent=True,
        ),
    )
