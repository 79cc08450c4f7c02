"""Sealing at rest: damage, swaps and foreign keys are noticed."""

from __future__ import annotations

import base64

import pytest
from cairn_appliance.pki.errors import PkiError, SealBroken
from cairn_appliance.pki.map_key import MapKey
from cairn_appliance.pki.sealing import Sealer, new_kek
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ed25519
from hypothesis import given
from hypothesis import strategies as st

SEALER = Sealer(new_kek())


@given(st.text(), st.binary())
def test_what_was_sealed_opens_under_its_name_alone(name: str, secret: bytes) -> None:
    sealed = SEALER.seal(name, secret)
    assert SEALER.open(name, sealed) == secret
    with pytest.raises(SealBroken):
        SEALER.open(name + "x", sealed)


def test_another_kek_opens_nothing() -> None:
    with pytest.raises(SealBroken):
        Sealer(new_kek()).open("a", SEALER.seal("a", b"secret"))


def test_every_flipped_bit_and_every_cut_is_noticed() -> None:
    sealed = SEALER.seal("a", b"secret")
    for place in range(len(sealed) * 8):
        damaged = bytearray(sealed)
        damaged[place // 8] ^= 1 << place % 8
        with pytest.raises(SealBroken):
            SEALER.open("a", bytes(damaged))
    for length in range(len(sealed)):
        with pytest.raises(SealBroken):
            SEALER.open("a", sealed[:length])


def test_the_same_secret_is_never_sealed_alike() -> None:
    assert len({SEALER.seal("a", b"secret") for _ in range(100)}) == 100


def test_a_kek_has_32_octets() -> None:
    with pytest.raises(PkiError, match="32"):
        Sealer(b"short")


def test_a_map_key_signs_what_its_public_half_verifies() -> None:
    key = MapKey.create()
    again = MapKey.from_octets(key.to_octets())
    assert again.public == key.public
    public = ed25519.Ed25519PublicKey.from_public_bytes(base64.b64decode(key.public))
    public.verify(again.sign(b"netmap"), b"netmap")
    with pytest.raises(InvalidSignature):
        public.verify(again.sign(b"netmap"), b"other")
    with pytest.raises(PkiError):
        MapKey.from_octets(b"short")
