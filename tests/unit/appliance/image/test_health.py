"""What becomes of a slot at its start: confirmed, left again, or gone back to."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
from cairn_appliance.domain.update import Standing, Step
from cairn_appliance.image import environment, health, places, standing
from cairn_appliance.image.environment import Environment, Slot

OLD, NEW = "0.1.0-1", "0.1.0-2"
ID = "0" * 32


@dataclass
class Boot:
    """One start of a machine; commands that it would run are kept."""

    directory: Path
    patch: pytest.MonkeyPatch
    commands: list[Sequence[str]] = field(default_factory=list)

    def judge(self, slot: Slot, version: str, known: Environment, *, is_ready: bool) -> Standing:
        (self.directory / "grubenv").write_bytes(environment.encode(known))
        self.patch.setattr(health, "running_slot", lambda: slot)
        self.patch.setattr(
            health.platform, "freedesktop_os_release", lambda: {"IMAGE_VERSION": version}
        )
        self.patch.setattr(health.local_api, "wait_until_ready", lambda _: is_ready)
        health.judge()
        return standing.read(self.directory / "standing.json")

    @property
    def known(self) -> Environment:
        return environment.read(self.directory / "grubenv")

    @property
    def restarts(self) -> int:
        return sum(list(each) == ["systemctl", "reboot"] for each in self.commands)


@pytest.fixture
def boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Boot:
    made = Boot(tmp_path, monkeypatch)

    @contextlib.contextmanager
    def esp() -> Iterator[None]:
        yield

    def run(command: Sequence[str], **_: object) -> SimpleNamespace:
        made.commands.append(command)
        return SimpleNamespace(stdout=b"this version has\x1b a fault\n", returncode=0)

    path = tmp_path / "standing.json"
    real = standing.change
    monkeypatch.setattr(health, "esp", esp)
    monkeypatch.setattr(health.subprocess, "run", run)
    monkeypatch.setattr(health.standing, "change", lambda how: real(how, path))
    monkeypatch.setattr(health.state, "is_set_up", lambda: True)
    monkeypatch.setattr(places, "GRUBENV", tmp_path / "grubenv")
    monkeypatch.setattr(places, "COMMAND_LINE", tmp_path / "cmdline")
    (tmp_path / "cmdline").write_text("ro quiet")
    begun = Standing("a", OLD, {"a": OLD}).begun("w1", NEW, 1.0).written().restarting(2.0)
    real(lambda _: begun, path)
    return made


def test_a_trial_that_is_ready_is_started_from_now_on(boot: Boot) -> None:
    told = boot.judge("b", NEW, Environment("a", tried="b", machine_id=ID), is_ready=True)
    assert told.step is Step.CONFIRMED and told.whole == {"a": OLD, "b": NEW}
    assert boot.known == Environment("b", machine_id=ID) and not boot.restarts


def test_a_trial_that_is_not_ready_is_left_and_the_next_start_says_why(boot: Boot) -> None:
    tried = Environment("a", tried="b", machine_id=ID)
    told = boot.judge("b", NEW, tried, is_ready=False)
    assert told.step is Step.ON_TRIAL and boot.restarts == 1
    assert boot.known == tried  # the default is the slot of before
    back = boot.judge("a", OLD, tried, is_ready=True)
    assert back.step is Step.ROLLED_BACK and back.wish == "w1" and back.whole == {"a": OLD}
    assert back.cause.startswith(f"{NEW} was not ready within 300 s")
    assert back.cause.endswith("said last: this version has  a fault") and back.remedy
    assert boot.known == Environment("a", machine_id=ID) and boot.restarts == 1
    kept = boot.judge("a", OLD, boot.known, is_ready=True)
    assert kept.step is Step.ROLLED_BACK


def test_the_slot_of_before_is_never_left_for_being_slow(boot: Boot) -> None:
    for known in (Environment("a", machine_id=ID), Environment("a", tried="b", machine_id=ID)):
        boot.judge("a", OLD, known, is_ready=False)
        assert not boot.restarts and boot.known == known


def test_a_trial_that_grub_could_not_write_down_is_one_and_is_not_made_again(boot: Boot) -> None:
    """GRUB writes by the firmware's means, and only says on the screen where these fail."""
    (boot.directory / "cmdline").write_text("cairn.slot=b cairn.trial quiet")
    left = Environment("a", trial="b", machine_id=ID)
    told = boot.judge("b", NEW, left, is_ready=False)
    assert told.step is Step.ON_TRIAL and boot.restarts == 1
    assert boot.known == Environment("a", tried="b", machine_id=ID)  # the next start is slot a
    boot.judge("b", NEW, left, is_ready=True)
    assert boot.known == Environment("b", machine_id=ID) and boot.restarts == 1
