"""Each alarm has its section, and nothing else does."""

from __future__ import annotations

import re
from pathlib import Path

from cairn_appliance.domain.alarm import Alarm
from cairn_appliance.domain.cluster_health import REMEDIES

PAGE = Path(__file__).resolve().parents[2] / "docs" / "operate" / "alarms.md"


def test_each_alarm_has_a_section_with_what_to_do() -> None:
    sections = re.split(r"^## ", PAGE.read_text("utf-8"), flags=re.MULTILINE)[1:]
    by_name = {section.partition("\n")[0]: section for section in sections}
    assert sorted(by_name) == sorted(Alarm)
    assert [name for name, text in by_name.items() if "**Do**" not in text] == []


def test_remedies_are_for_alarms_that_there_are() -> None:
    assert set(REMEDIES) <= set(Alarm)
