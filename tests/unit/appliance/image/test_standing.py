"""What is kept of the slots: two who write it down at once both find their word in it."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

from cairn_appliance.domain.update import Standing
from cairn_appliance.image import standing


def test_nobody_s_word_is_lost_where_two_write_at_once(tmp_path: Path) -> None:
    path = tmp_path / "standing.json"
    has_read, waited = threading.Event(), threading.Event()

    def judged(it: Standing) -> Standing:
        has_read.set()
        waited.wait(0.5)  # for the other one, which has to wait for this one
        return it.doomed("a fault", "")

    def begun(it: Standing) -> Standing:
        waited.set()
        return replace(it, wish="w1")

    first = threading.Thread(target=standing.change, args=(judged, path))
    first.start()
    assert has_read.wait(10)
    standing.change(begun, path)
    first.join(10)
    assert standing.read(path) == Standing(wish="w1", cause="a fault")
