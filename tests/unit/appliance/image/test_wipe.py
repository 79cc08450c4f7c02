"""What a factory reset leaves for the next start."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from cairn_appliance.image import environment, health, places, wipe
from cairn_appliance.image.environment import Environment


def test_a_reset_during_a_trial_starts_the_slot_that_was_well(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What isn't set up is confirmed whatever it is: the trial would never have served."""

    @contextlib.contextmanager
    def esp() -> Iterator[None]:
        yield

    monkeypatch.setattr(health, "esp", esp)
    monkeypatch.setattr(places, "GRUBENV", tmp_path / "grubenv")
    monkeypatch.setattr(places, "RESET", tmp_path / "reset")
    for known in (
        Environment(default_slot="a", trial="b", machine_id="1" * 32),
        Environment(default_slot="a", tried="b", machine_id="1" * 32),
    ):
        places.GRUBENV.write_bytes(environment.encode(known))
        wipe.mark()
        assert environment.read(places.GRUBENV) == Environment(default_slot="a")
        assert places.RESET.exists()
