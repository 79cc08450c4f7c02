"""The data plane's sealed packets against OpenSSL (KT-2).

NIST's own vectors are checked by `cargo test --test gcm`; here packets of every length are
sealed by one side and opened by the other, both ways.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.contract.engine_peer import ask, build
from tests.proofs import record

LONGEST = 9000


@pytest.fixture(scope="module")
def peer() -> Path:
    """Return the program that seals and opens as the data plane does."""
    return build("seal_peer")


@pytest.mark.timeout(600)
def test_packets_of_every_length_are_sealed_and_opened_as_openssl_does(peer: Path) -> None:
    dice = random.Random(2)
    drawn = [draw(dice, length) for length in range(LONGEST + 1)]

    sealed = ask(peer, [{"op": "seal", **each} for each in drawn])
    expected = [seal(each) for each in drawn]
    opened = ask(
        peer,
        [
            {"op": "open", "key": each["key"], "datagram": datagram}
            for each, datagram in zip(drawn, expected, strict=True)
        ],
    )

    wrong = sum(
        answer != {"datagram": right} for answer, right in zip(sealed, expected, strict=True)
    )
    wrong += sum(
        answer != {"plaintext": each["plaintext"]}
        for answer, each in zip(opened, drawn, strict=True)
    )
    assert record(
        "KT-2",
        what=f"packets of 0 to {LONGEST} octets sealed and opened as OpenSSL does",
        bar=f"0 of {2 * len(drawn)} differ",
        value=wrong,
        unit="packets",
        holds=wrong == 0,
    )


@pytest.mark.timeout(600)
def test_no_changed_bit_is_taken(peer: Path) -> None:
    each = draw(random.Random(4), 60)
    datagram = bytes.fromhex(seal(each))
    changed = [
        datagram[:at] + bytes([datagram[at] ^ (1 << bit)]) + datagram[at + 1 :]
        for at in range(len(datagram))
        for bit in range(8)
    ]
    asked = [{"op": "open", "key": each["key"], "datagram": one.hex()} for one in changed]
    assert ask(peer, asked) == [{"error": "refused"}] * len(changed)


def draw(dice: random.Random, length: int) -> dict[str, Any]:
    """Draw what a packet is made of."""
    return {
        "key": dice.randbytes(32).hex(),
        "kind": dice.choice(["data", "control"]),
        "receiver": dice.randrange(1 << 24),
        "salt": dice.randbytes(6).hex(),
        "counter": dice.choice([0, 1, dice.randrange(1 << 48), (1 << 48) - 1]),
        "plaintext": dice.randbytes(length).hex(),
    }


def seal(each: dict[str, Any]) -> str:
    """Seal with OpenSSL as docs/protocol.md 1.2 says."""
    header = bytes([0x15 if each["kind"] == "control" else 0x14])
    header += each["receiver"].to_bytes(3, "big") + bytes.fromhex(each["salt"])
    header += each["counter"].to_bytes(6, "big")
    plaintext = bytes.fromhex(each["plaintext"])
    cipher = AESGCM(bytes.fromhex(each["key"]))
    return (header + cipher.encrypt(header[4:], plaintext, header)).hex()
