"""The file of a backup: what opens it, and that nothing else does."""

from __future__ import annotations

import io
import random

import pytest
from cairn_appliance.domain.backup import Head
from cairn_appliance.pki.backup_file import (
    MAGIC,
    PIECE_OCTETS,
    BackupReader,
    BackupWriter,
    NoBackup,
    OtherKey,
)
from cairn_appliance.pki.errors import PkiError, SealBroken
from cairn_appliance.pki.recovery_key import NoRecoveryKey, RecoveryKey, share_with

HEAD = Head("0f7b5e0e-5b0e-4a53-9f6e-0d6b6c2a1d11", 1, 4512, 1_800_000_000.0, "m1", "0.1.0")
KEY = RecoveryKey.create()
SEALED_PIECE = PIECE_OCTETS + 16


def sealed(content: bytes, key: RecoveryKey = KEY, *, at_once: int = 100_000) -> bytes:
    out = io.BytesIO()
    writer = BackupWriter(out, key.public, HEAD)
    for begin in range(0, len(content), at_once):
        writer.write(content[begin : begin + at_once])
    writer.finish()
    return out.getvalue()


def opened(octets: bytes, key: RecoveryKey = KEY) -> bytes:
    return b"".join(BackupReader(io.BytesIO(octets), "x.backup").pieces(key))


def body_at(octets: bytes) -> int:
    return octets.index(b"\n", len(MAGIC)) + 1


@pytest.mark.parametrize(
    "size",
    [0, 1, PIECE_OCTETS - 1, PIECE_OCTETS, PIECE_OCTETS + 1, 2 * PIECE_OCTETS, 3_333_333],
)
def test_what_was_sealed_is_opened(size: int) -> None:
    content = random.Random(size).randbytes(size)
    octets = sealed(content)
    assert opened(octets) == content
    pieces = max(1, -(-size // PIECE_OCTETS))
    assert len(octets) == body_at(octets) + size + 16 * pieces


def test_the_head_can_be_read_by_anybody_and_the_body_by_nobody() -> None:
    octets = sealed(b"canary-secret" * 1000)
    reader = BackupReader(io.BytesIO(octets), "x.backup")
    assert reader.head == HEAD
    assert reader.key_id == KEY.id
    assert b"canary" not in octets


def test_two_backups_of_the_same_share_nothing() -> None:
    one, other = sealed(b"same" * 1000), sealed(b"same" * 1000)
    assert one[body_at(one) :] != other[body_at(other) :]


def test_a_file_that_is_cut_short_anywhere_is_refused() -> None:
    octets = sealed(bytes(2 * PIECE_OCTETS + 50))
    begin = body_at(octets)
    whole_pieces = [begin, begin + SEALED_PIECE, begin + 2 * SEALED_PIECE]
    for end in [*whole_pieces, begin + 1, begin + SEALED_PIECE - 1, len(octets) - 1]:
        with pytest.raises(SealBroken, match="damaged or cut short"):
            opened(octets[:end])


def test_a_file_that_goes_on_is_refused() -> None:
    octets = sealed(b"x" * 100)
    for more in (b"\0", octets[body_at(octets) :]):
        with pytest.raises(SealBroken):
            opened(octets + more)


def test_pieces_in_another_order_or_twice_are_refused() -> None:
    octets = sealed(random.Random(1).randbytes(3 * PIECE_OCTETS))
    begin = body_at(octets)
    first, second, third = (
        octets[begin + number * SEALED_PIECE : begin + (number + 1) * SEALED_PIECE]
        for number in range(3)
    )
    for pieces in ([second, first, third], [first, first, third], [first, third], [third]):
        with pytest.raises(SealBroken):
            opened(octets[:begin] + b"".join(pieces))


def test_a_piece_of_another_backup_is_refused() -> None:
    one, other = (sealed(bytes(2 * PIECE_OCTETS)) for _ in range(2))
    begin = body_at(one)
    swapped = other[body_at(other) :][:SEALED_PIECE]
    with pytest.raises(SealBroken):
        opened(one[:begin] + swapped + one[begin + SEALED_PIECE :])


def test_any_bit_that_flips_is_noticed() -> None:
    octets = sealed(b"all that etcd has" * 20)
    dice = random.Random(7)
    for at in [*range(body_at(octets)), *dice.sample(range(body_at(octets), len(octets)), 100)]:
        flipped = bytearray(octets)
        flipped[at] ^= 1 << dice.randrange(8)
        with pytest.raises(PkiError):
            opened(bytes(flipped))


def test_another_key_is_told_apart_from_damage() -> None:
    with pytest.raises(OtherKey, match=f"recovery key {KEY.id}, not for "):
        opened(sealed(b"x"), RecoveryKey.create())


@pytest.mark.parametrize(
    "octets", [b"", b"PK\x03\x04", MAGIC, MAGIC + b"{}\n", MAGIC + b"{" * 10_000, b"\n" * 99]
)
def test_what_is_no_backup_is_refused(octets: bytes) -> None:
    with pytest.raises(NoBackup):
        BackupReader(io.BytesIO(octets), "x.backup")


def test_a_recovery_key_can_be_typed_in_again() -> None:
    text = KEY.text
    assert text.startswith("cairn-recovery-")
    lines = text[:40].upper() + "\n  " + text[40:] + "\n"
    assert RecoveryKey.parse(lines).public == KEY.public


def test_a_mistyped_recovery_key_is_noticed() -> None:
    text = KEY.text
    at = len("cairn-recovery-")
    other = "a" if text[at] != "a" else "b"
    for wrong in (text[:at] + other + text[at + 1 :], text[:-5], text + "-aaaa", "", "secret"):
        with pytest.raises(NoRecoveryKey):
            RecoveryKey.parse(wrong)


@pytest.mark.parametrize("public", [b"", bytes(31), bytes(32), (1).to_bytes(32, "little")])
def test_a_public_half_that_shares_nothing_is_refused(public: bytes) -> None:
    with pytest.raises(PkiError):
        share_with(public)
