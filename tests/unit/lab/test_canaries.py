"""What looks for secrets finds them in each form, and nothing where there is none."""

from __future__ import annotations

import base64
import json
import os
from urllib.parse import quote

import pytest
from cairn_appliance.pki.private_keys import new_p256, p256_to_pem

from tests.integration.canaries import Canary, Place, found

TEXT = 'a secret: with "quotes", + and %'


@pytest.mark.parametrize("around", ["", "x", "xy", "xyz"])
def test_a_text_is_found_in_each_form(around: str) -> None:
    canary = Canary.of_text("it", TEXT)
    longer = (around + TEXT + around).encode()
    for form in (
        longer,
        longer.hex().encode(),
        base64.b64encode(longer),
        base64.urlsafe_b64encode(longer),
        base64.b32encode(TEXT.encode()),
        quote(longer, safe="").encode(),
        json.dumps({"a": longer.decode()}).encode(),
    ):
        assert canary.is_in(b"before " + form + b" after"), form


def test_octets_and_keys_are_found_in_each_form() -> None:
    octets = os.urandom(32)
    canary = Canary.of_octets("it", octets)
    for form in (octets, octets.hex().upper().encode(), base64.b64encode(octets)):
        assert canary.is_in(b"." + form + b".")
    key = new_p256()
    pem = p256_to_pem(key)
    canary = Canary.of_pem("key", pem.decode())
    scalar = key.private_numbers().private_value.to_bytes(32)
    for form in (pem, json.dumps(pem.decode()).encode(), scalar, base64.b64encode(b"ab" + scalar)):
        assert canary.is_in(form)


def test_nothing_is_found_where_nothing_is_or_where_it_is_meant_to_be() -> None:
    canaries = [Canary.of_text("it", TEXT), Canary.of_pem("key", p256_to_pem(new_p256()).decode())]
    other = p256_to_pem(new_p256())
    assert list(found([Place("there", TEXT[:-1].encode()), Place("pem", other)], canaries)) == []
    meant = Place("there", TEXT.encode(), frozenset({"it"}))
    assert list(found([meant], canaries)) == []
    assert list(found([Place("there", TEXT.encode())], canaries)) == [("there", "it")]
