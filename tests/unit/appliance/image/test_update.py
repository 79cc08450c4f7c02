"""What root does of an update, on files in place of partitions: the slot that runs is never
written, and whatever is cut off, the next start is the slot of before."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import pytest
from cairn_appliance.domain.errors import CairnError, UpdateUnusable
from cairn_appliance.domain.update import Action, Standing, Step, Wish
from cairn_appliance.image import environment, slots, standing
from cairn_appliance.image.environment import Environment, Slot
from cairn_appliance.image.update import Machine, update
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.unit.appliance.image.updates import MIB, file_system, packed, pem, update_of

RUNNING = "0.1.0-1"
NEWER = "0.1.0-2"


class PowerCut(BaseException):
    """The machine stops here."""


@dataclass
class Rig:
    """A machine with slot A running, and what an update makes of it."""

    directory: Path
    key: Ed25519PrivateKey
    restarts: int = 0
    esp_uses: int = 0
    cut_at: int = 0  # the use of the ESP at which the power fails; 0: never
    wishes: int = 0

    def __post_init__(self) -> None:
        (self.directory / "inbox").mkdir()
        (self.directory / "grubenv").write_bytes(environment.encode(Environment("a")))
        (self.directory / "release.pem").write_bytes(pem(self.key))
        for name in "ab":
            self.slot(name).write_bytes(f"slot {name} ".encode() * MIB)  # 7 MiB
            os.truncate(self.slot(name), 10 * MIB)
        standing.change(lambda _: Standing("a", RUNNING, {"a": RUNNING}), self.machine.standing)

    @property
    def machine(self) -> Machine:
        return Machine(
            inbox=self.directory / "inbox",
            standing=self.directory / "standing.json",
            grubenv=self.directory / "grubenv",
            release_key=self.directory / "release.pem",
            esp=self._esp,
            running_slot=lambda: "a",
            running_version=lambda: RUNNING,
            partition_of=self._partition,
            start_anew=self._start_anew,
            now=lambda: 1000.0,
        )

    def slot(self, name: str) -> Path:
        return self.directory / f"slot-{name}"

    @property
    def told(self) -> Standing:
        return standing.read(self.machine.standing)

    @property
    def known(self) -> Environment:
        return environment.read(self.machine.grubenv)

    def bring(self, octets: bytes) -> None:
        (self.directory / "inbox/bundle").write_bytes(octets)

    def ask(self, action: Action = Action.INSTALL, wish: str = "") -> None:
        path = self.directory / "inbox/wish"
        self.wishes += 1
        wish = wish or f"w{self.wishes}"
        path.write_bytes(msgspec.json.encode(Wish(wish, action)))
        try:
            update(self.machine)
        finally:
            assert not path.exists()

    def refused(self, octets: bytes | None = None, action: Action = Action.INSTALL) -> CairnError:
        """Return why it isn't done; all is as before then."""
        if octets is not None:
            self.bring(octets)
        before = self.slot("a").read_bytes()
        with pytest.raises(CairnError) as caught:
            self.ask(action)
        assert self.slot("a").read_bytes() == before
        assert self.known == Environment("a") and not self.restarts
        told = self.told
        assert told.step is Step.FAILED and told.wish == f"w{self.wishes}"
        assert (told.cause, told.remedy) == (caught.value.cause, caught.value.remedy)
        assert told.cause and told.remedy
        return caught.value

    def _partition(self, slot: Slot) -> Path:
        return self.slot(slot)

    def _start_anew(self) -> None:
        self.restarts += 1

    @contextlib.contextmanager
    def _esp(self) -> Iterator[None]:
        self.esp_uses += 1
        if self.esp_uses == self.cut_at:
            raise PowerCut
        yield


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path, Ed25519PrivateKey.generate())


def test_the_other_slot_is_written_and_tried_once(rig: Rig) -> None:
    root = file_system(rig.directory, "new")
    running = rig.slot("a").read_bytes()
    rig.bring(update_of(rig.key, NEWER, root))
    rig.ask()
    assert rig.slot("b").read_bytes()[: len(root)] == root
    assert rig.slot("a").read_bytes() == running
    assert rig.known == Environment("a", trial="b")
    assert rig.restarts == 1
    assert rig.told == Standing(
        "a", RUNNING, {"a": RUNNING, "b": NEWER}, Step.RESTARTING, "w1", NEWER, at=1000.0
    )


def test_a_wish_is_carried_out_once(rig: Rig) -> None:
    """The appliance may lay it down again before it has read that the machine is at it."""
    standing.change(
        lambda it: replace(it, whole={"a": RUNNING, "b": "0.0.9-1"}), rig.machine.standing
    )
    rig.ask(Action.ROLLBACK, "w1")
    (rig.directory / "grubenv").write_bytes(environment.encode(Environment("a")))
    told = rig.told
    rig.ask(Action.ROLLBACK, "w1")
    assert rig.restarts == 1 and rig.known == Environment("a") and rig.told == told


def test_a_strange_key_is_refused(rig: Rig) -> None:
    octets = update_of(Ed25519PrivateKey.generate(), NEWER, bytes(MIB))
    assert rig.refused(octets).code == "update_not_signed"
    assert rig.slot("b").read_bytes().startswith(b"slot b")


def test_a_changed_file_is_refused_and_the_half_written_slot_is_no_system(rig: Rig) -> None:
    root = file_system(rig.directory, "new")
    octets = bytearray(update_of(rig.key, NEWER, root))
    octets[-5] ^= 1
    assert rig.refused(bytes(octets)).code == "update_damaged"
    assert "b" not in rig.told.whole
    assert not any(rig.slot("b").read_bytes()[:2048])  # no super block: nothing starts that


def test_an_update_that_is_not_newer_says_how_to_go_back(rig: Rig) -> None:
    for version in (RUNNING, "0.0.9-9"):
        refusal = rig.refused(update_of(rig.key, version, bytes(MIB)))
        assert refusal.code == "update_not_newer" and "rollback" in refusal.remedy


def test_what_does_not_fit_is_refused_before_anything_is_written(rig: Rig) -> None:
    refusal = rig.refused(update_of(rig.key, NEWER, bytes(11 * MIB)))
    assert refusal.code == "update_too_large"
    assert rig.slot("b").read_bytes().startswith(b"slot b")


@pytest.mark.parametrize("octets", [9 * MIB, 7 * MIB])
def test_what_unpacks_to_another_length_than_signed_is_refused(rig: Rig, octets: int) -> None:
    small = packed(bytes(octets))
    assert rig.refused(update_of(rig.key, NEWER, bytes(8 * MIB), small)).code == "update_damaged"


def test_what_is_no_zstd_is_refused(rig: Rig) -> None:
    refusal = rig.refused(update_of(rig.key, NEWER, bytes(8 * MIB), b"nothing packed" * 999))
    assert refusal.code == "update_damaged"


def test_a_disk_that_keeps_something_else_is_noticed(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.pwrite

    def worn_out(file: int, octets: bytes, at: int) -> int:
        return (
            real(file, bytes(octets)[:-1] + b"?", at) if at == 2 * MIB else real(file, octets, at)
        )

    monkeypatch.setattr(slots.os, "pwrite", worn_out)
    refusal = rig.refused(update_of(rig.key, NEWER, file_system(rig.directory, "new")))
    assert refusal.code == "slot_unusable" and "b" not in rig.told.whole


def test_links_pipes_and_nothing_are_refused(rig: Rig) -> None:
    bundle = rig.directory / "inbox/bundle"
    elsewhere = rig.directory / "elsewhere"
    elsewhere.write_bytes(update_of(rig.key, NEWER, bytes(MIB)))

    def link() -> None:
        bundle.symlink_to(elsewhere)

    def pipe() -> None:
        os.mkfifo(bundle)

    makers: list[Callable[[], None]] = [link, pipe, lambda: None]
    for make in makers:
        make()
        assert isinstance(rig.refused(), UpdateUnusable)
        bundle.unlink(missing_ok=True)


def test_a_wish_that_is_a_link_is_taken_away_and_not_followed(rig: Rig) -> None:
    secret = rig.directory / "secret"
    secret.write_bytes(msgspec.json.encode(Wish("w", Action.ROLLBACK)))
    (rig.directory / "inbox/wish").symlink_to(secret)
    update(rig.machine)
    assert not (rig.directory / "inbox/wish").is_symlink() and secret.exists()
    assert not rig.restarts and rig.told.step is Step.NONE


def test_a_wish_that_is_a_directory_is_moved_away(rig: Rig) -> None:
    """As long as one lies there systemd starts root's service, again and again."""
    for _ in range(2):
        (rig.directory / "inbox/wish/in it").mkdir(parents=True)
        update(rig.machine)
        assert not (rig.directory / "inbox/wish").exists()
    assert not rig.restarts and rig.told.step is Step.NONE


@pytest.mark.parametrize(
    "error", [OSError(5, "Input/output error"), subprocess.CalledProcessError(32, ["mount"])]
)
def test_a_fault_of_the_machine_is_told_and_another_update_may_follow(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def faulty(_: Slot) -> Path:
        raise error

    rig.bring(update_of(rig.key, NEWER, file_system(rig.directory, "new")))
    with monkeypatch.context() as patch, pytest.raises(type(error)):
        patch.setattr(rig, "_partition", faulty)
        rig.ask()
    assert rig.told.step is Step.FAILED and str(error) in rig.told.cause and rig.told.remedy
    assert not rig.restarts
    rig.ask()
    assert rig.told.step is Step.RESTARTING


def test_a_directory_put_in_the_inbox_s_place_is_not_entered(rig: Rig) -> None:
    (rig.directory / "inbox").rename(rig.directory / "moved")
    (rig.directory / "inbox").symlink_to(rig.directory / "moved")
    with pytest.raises(CairnError):
        update(rig.machine)


def test_a_machine_on_trial_takes_no_update(rig: Rig) -> None:
    (rig.directory / "grubenv").write_bytes(environment.encode(Environment("b", tried="a")))
    rig.bring(update_of(rig.key, NEWER, bytes(MIB)))
    with pytest.raises(CairnError, match="on trial"):
        rig.ask()
    assert rig.slot("b").read_bytes().startswith(b"slot b")


def test_the_way_back_is_a_trial_of_the_other_slot(rig: Rig) -> None:
    assert "no whole system" in rig.refused(action=Action.ROLLBACK).cause
    standing.change(lambda it: replace(it, whole={"a": RUNNING, "b": "0.0.9-1"}),
                    rig.machine.standing)  # fmt: skip
    rig.ask(Action.ROLLBACK)
    assert rig.known == Environment("a", trial="b") and rig.restarts == 1
    assert rig.told.step is Step.RESTARTING and rig.told.wanted == "0.0.9-1"


def test_power_that_fails_leaves_the_slot_of_before(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut at each write to the other slot and each use of the ESP; then it is done again."""
    root = file_system(rig.directory, "new")
    rig.bring(update_of(rig.key, NEWER, root))
    running = rig.slot("a").read_bytes()
    real, cuts = os.pwrite, 0

    def cut_after(writes: int) -> Callable[[int, bytes, int], int]:
        left = [writes]

        def write(file: int, octets: bytes, at: int) -> int:
            left[0] -= 1
            if left[0] < 0:
                real(file, bytes(octets)[:100], at)
                raise PowerCut
            return real(file, octets, at)

        return write

    # Also with a system in it that was good before, and that a trial was left set for.
    for writes in range(9):
        (rig.directory / "grubenv").write_bytes(environment.encode(Environment("a", trial="b")))
        with monkeypatch.context() as patch, pytest.raises(PowerCut):
            patch.setattr(slots.os, "pwrite", cut_after(writes))
            rig.ask()
        cuts += 1
        assert rig.slot("a").read_bytes() == running
        assert rig.known == Environment("a"), f"after {writes} writes"
        assert "b" not in rig.told.whole and rig.told.step is Step.INSTALLING
    for use in (1, 2, 3):
        rig.esp_uses, rig.cut_at = 0, use
        (rig.directory / "grubenv").write_bytes(environment.encode(Environment("a")))
        with pytest.raises(PowerCut):
            rig.ask()
        assert rig.known == Environment("a") and rig.slot("a").read_bytes() == running
    assert cuts == 9 and not rig.restarts
    rig.esp_uses, rig.cut_at = 0, 0
    woken = standing.change(
        lambda it: it.booted("a", RUNNING, 2000.0, is_trial=False, fell_back=False),
        rig.machine.standing,
    )
    assert woken.step is Step.FAILED and "again" in woken.remedy
    rig.ask()
    assert rig.known == Environment("a", trial="b")
    assert rig.slot("b").read_bytes()[: len(root)] == root


def test_the_slots_are_found_on_the_disk_that_runs(tmp_path: Path) -> None:
    """A second disk that is a copy of this one is not the one that is meant."""
    number = tmp_path.stat().st_dev
    sys = tmp_path / "sys"
    for disk in ("vda", "vdb"):
        for part, name in (("3", "cairn-root-a"), ("4", "cairn-root-b")):
            place = sys / "devices" / disk / f"{disk}{part}"
            place.mkdir(parents=True)
            (place / "uevent").write_text(f"MAJOR=1\nDEVNAME={disk}{part}\nPARTNAME={name}\n")
    here = sys / "dev/block" / f"{os.major(number)}:{os.minor(number)}"
    here.parent.mkdir(parents=True)
    here.symlink_to(sys / "devices/vdb/vdb3")
    assert slots.partition_of("b", tmp_path, sys) == Path("/dev/vdb4")
    assert slots.partition_of("a", tmp_path, sys) == Path("/dev/vdb3")
