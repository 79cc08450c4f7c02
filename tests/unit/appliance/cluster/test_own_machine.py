"""What an appliance keeps of an update that somebody brings: all of it and signed, or nothing."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from cairn_appliance.cluster.own_machine import OwnMachine
from cairn_appliance.domain.errors import NotFound, UpdateRefused, UpdateUnusable
from cairn_appliance.domain.update import Action, Standing, Wish
from cairn_appliance.image import places
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.unit.appliance.image.updates import MIB, pem, update_of

KEY = Ed25519PrivateKey.generate()
FILE = update_of(KEY, "0.1.0-2", os.urandom(2 * MIB))


async def chunks(octets: bytes) -> AsyncGenerator[bytes, None]:
    for at in range(0, len(octets), 65_536):
        yield octets[at : at + 65_536]


@pytest.fixture
def machine(tmp_path: Path) -> OwnMachine:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    (tmp_path / "release.pem").write_bytes(pem(KEY))
    return OwnMachine(inbox, tmp_path / "standing.json", tmp_path / "release.pem", 0)


async def test_what_was_brought_is_there_as_it_was(machine: OwnMachine) -> None:
    assert machine.bundle() is None
    with pytest.raises(NotFound):
        machine.open()
    head = await machine.keep(chunks(FILE))
    assert head.version == "0.1.0-2" and machine.bundle() == head
    kept = machine.open()
    assert kept.octets == len(FILE)
    assert b"".join([each async for each in kept.chunks()]) == FILE
    kept.close()
    machine.remove()
    assert machine.bundle() is None and not list(machine.inbox.iterdir())


@pytest.mark.parametrize("octets", [FILE[:-1], b"", b"x" * 99, FILE[:-1] + b"?", FILE + b"?"])
async def test_nothing_is_left_of_what_is_no_update(machine: OwnMachine, octets: bytes) -> None:
    good = update_of(KEY, "0.1.0-3", os.urandom(MIB))
    await machine.keep(chunks(good))
    with pytest.raises(UpdateUnusable):
        await machine.keep(chunks(octets))
    assert [each.name for each in machine.inbox.iterdir()] == ["bundle"]
    assert (machine.inbox / "bundle").read_bytes() == good


async def test_who_brings_it_has_the_last_word_before_it_is_in_place(machine: OwnMachine) -> None:
    async def no() -> None:
        assert not (machine.inbox / "bundle").exists()
        raise UpdateRefused("an update of the cluster is under way")

    with pytest.raises(UpdateRefused):
        await machine.keep(chunks(FILE), no)
    assert not list(machine.inbox.iterdir())


async def test_another_key_and_a_disk_without_room_are_told(machine: OwnMachine) -> None:
    with pytest.raises(UpdateUnusable) as caught:
        await machine.keep(chunks(update_of(Ed25519PrivateKey.generate(), "0.1.0-2", b"root")))
    assert caught.value.code == "update_not_signed"
    with pytest.raises(UpdateUnusable) as caught:
        await replace(machine, left_free_octets=1 << 60).keep(chunks(FILE))
    assert caught.value.code == "update_no_space" and not list(machine.inbox.iterdir())


def test_the_machine_says_how_it_stands_or_is_none_of_the_image(machine: OwnMachine) -> None:
    assert machine.standing() is None
    machine.standing_file.write_bytes(b"{")
    assert machine.standing() is None
    told = Standing("b", "0.1.0-2", {"b": "0.1.0-2"})
    machine.standing_file.write_bytes(msgspec.json.encode(told))
    assert machine.standing() == told


def test_root_finds_what_it_is_asked_for_where_it_looks(machine: OwnMachine) -> None:
    machine.ask(Wish("w1", Action.ROLLBACK))
    octets = (machine.inbox / places.WISH).read_bytes()
    assert msgspec.json.decode(octets, type=Wish) == Wish("w1", Action.ROLLBACK)
    own = OwnMachine()
    assert (own.inbox, own.standing_file) == (places.INBOX, places.STANDING)
    assert own.release_key == places.RELEASE_KEY
