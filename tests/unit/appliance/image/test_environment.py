"""Which slot is started: what GRUB and the system tell each other comes through as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
from cairn_appliance.image import environment
from cairn_appliance.image.environment import Environment, EnvironmentUnusable
from hypothesis import given
from hypothesis import strategies as st

slots = st.sampled_from(["a", "b"])


@given(st.builds(
    Environment, slots, st.none() | slots, st.none() | slots,
    st.text("0123456789abcdef", max_size=32),
))  # fmt: skip
def test_a_block_says_what_was_put_in(known: Environment) -> None:
    octets = environment.encode(known)
    assert len(octets) == environment.SIZE and environment.decode(octets) == known


def test_a_block_is_written_in_place(tmp_path: Path) -> None:
    path = tmp_path / "grubenv"
    path.write_bytes(environment.encode(Environment()))
    before = path.stat().st_ino
    environment.write(path, Environment("b", machine_id="0" * 32))
    assert environment.read(path) == Environment("b", machine_id="0" * 32)
    assert path.stat().st_ino == before


@pytest.mark.parametrize("octets", [b"", b"#" * 1024, environment.encode(Environment())[:-1]])
def test_a_damaged_block_is_told(octets: bytes) -> None:
    with pytest.raises(EnvironmentUnusable):
        environment.decode(octets)


def test_what_grub_adds_is_passed_over() -> None:
    octets = b"# GRUB Environment Block\nsaved_entry=0\ndefault_slot=b\n".ljust(1024, b"#")
    assert environment.decode(octets) == Environment("b")


def test_a_trial_keeps_its_place_only_when_it_is_confirmed() -> None:
    tried = Environment("a", tried="b")  # as GRUB leaves it for the start of b
    assert tried.is_trial("b") and not tried.fell_back("b")
    assert tried.fell_back("a") and not tried.is_trial("a")
    assert tried.confirmed("b") == Environment("b")
    assert tried.confirmed("a") == Environment("a")
    asked = Environment("a", trial="b")  # an update came while the judge of this boot waited
    assert asked.confirmed("a") == asked
    assert Environment("a", trial="b").confirmed("b") == Environment("b")


def test_the_slot_is_what_the_kernel_was_told() -> None:
    assert environment.running_slot("root=x ro cairn.slot=b quiet\n") == "b"
    for line in ("", "cairn.slot=c", "cairn.slot="):
        with pytest.raises(EnvironmentUnusable):
            environment.running_slot(line)
