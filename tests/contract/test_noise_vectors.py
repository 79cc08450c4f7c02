"""The data plane's handshake against two other implementations of Noise (KT-1).

Everything is drawn here: keys, ephemerals, PSK, prologue, payloads. Each transcript is made by
another implementation in both roles; the data plane repeats each role against the other's
messages, and every octet and key must be the same.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from dissononce.cipher.aesgcm import AESGCMCipher
from dissononce.dh.x25519.private import PrivateKey
from dissononce.dh.x25519.public import PublicKey
from dissononce.dh.x25519.x25519 import X25519DH
from dissononce.hash.sha256 import SHA256Hash
from dissononce.processing.handshakepatterns.interactive.IK import IKHandshakePattern
from dissononce.processing.impl.cipherstate import CipherState
from dissononce.processing.impl.handshakestate import HandshakeState
from dissononce.processing.impl.symmetricstate import SymmetricState
from dissononce.processing.modifiers.psk import PSKPatternModifier
from noise.backends.default import DefaultNoiseBackend
from noise.connection import Keypair, NoiseConnection
from noise.functions.dh import DH
from noise.functions.keypair import KeyPair

from tests.contract.engine_peer import ask, build
from tests.proofs import record

# The package warns of what a test needs: known ephemerals.
pytestmark = pytest.mark.filterwarnings("ignore:One of ephemeral keypairs:UserWarning")

TRANSCRIPTS = 10_000
P256_TRANSCRIPTS = 500
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


@dataclass(frozen=True)
class Drawn:
    """What both sides are given."""

    suite: int
    initiator_private: bytes
    initiator_ephemeral: bytes
    responder_private: bytes
    responder_ephemeral: bytes
    psk: bytes
    prologue: bytes
    payload1: bytes
    payload2: bytes


@dataclass(frozen=True)
class Transcript:
    """What another implementation made of it."""

    message1: bytes
    message2: bytes
    first: bytes
    second: bytes
    initiator_public: bytes


@pytest.fixture(scope="module")
def peer() -> Path:
    """Return the program that does the data plane's handshakes."""
    return build("noise_peer")


@pytest.mark.timeout(300)
def test_every_octet_of_a_handshake_is_as_two_other_implementations_make_it(peer: Path) -> None:
    differing = {
        "noiseprotocol": compare(peer, by_noiseprotocol, 1, TRANSCRIPTS // 2),
        "dissononce": compare(peer, by_dissononce, 1, TRANSCRIPTS // 2),
        "noiseprotocol with P-256": compare(peer, by_noiseprotocol, 2, P256_TRANSCRIPTS),
    }

    assert record(
        "KT-1",
        what="Noise transcripts, both roles, as noiseprotocol and dissononce make them",
        bar=f"0 of {TRANSCRIPTS} (suite 1) and of {P256_TRANSCRIPTS} (suite 2) differ",
        value=sum(differing.values()),
        unit="transcripts",
        holds=not any(differing.values()),
    ), differing


def compare(peer: Path, make: Callable[[Drawn], Transcript], suite: int, count: int) -> int:
    """Return how many of `count` transcripts the data plane makes differently."""
    dice = random.Random(suite)
    drawn = [draw(dice, suite) for _ in range(count)]
    transcripts = [make(each) for each in drawn]
    answers = ask(peer, [request(*each) for each in zip(drawn, transcripts, strict=True)])
    return sum(
        answer != expected(each, transcript)
        for each, transcript, answer in zip(drawn, transcripts, answers, strict=True)
    )


def test_a_changed_message_is_not_taken(peer: Path) -> None:
    dice = random.Random(3)
    each = draw(dice, 1)
    asked = request(each, by_noiseprotocol(each))
    for name in ("message1", "message2"):
        octets = bytearray.fromhex(str(asked[name]))
        octets[dice.randrange(len(octets))] ^= 1 << dice.randrange(7)
        assert ask(peer, [asked | {name: octets.hex()}]) == [{"error": "not authentic"}]


def draw(dice: random.Random, suite: int) -> Drawn:
    """Draw a handshake; the keys are of the suite's curve."""

    def key() -> bytes:
        if suite == 1:
            return dice.randbytes(32)
        return dice.randrange(1, P256_ORDER).to_bytes(32, "big")

    return Drawn(
        suite=suite,
        initiator_private=key(),
        initiator_ephemeral=key(),
        responder_private=key(),
        responder_ephemeral=key(),
        psk=dice.randbytes(32),
        prologue=dice.randbytes(dice.choice([0, 1, 41, 200])),
        payload1=dice.randbytes(24),
        payload2=dice.randbytes(8),
    )


def request(drawn: Drawn, transcript: Transcript) -> dict[str, object]:
    """Build the line for the data plane."""
    given = {
        name: value.hex() if isinstance(value, bytes) else value
        for name, value in vars(drawn).items()
    }
    return given | {"message1": transcript.message1.hex(), "message2": transcript.message2.hex()}


def expected(drawn: Drawn, transcript: Transcript) -> dict[str, Any]:
    """Return the answer that is right."""
    first, second = transcript.first.hex(), transcript.second.hex()
    return {
        "initiator": {
            "message": transcript.message1.hex(),
            "payload": drawn.payload2.hex(),
            "seal": first,
            "open": second,
        },
        "responder": {
            "message": transcript.message2.hex(),
            "payload": drawn.payload1.hex(),
            "seal": second,
            "open": first,
        },
        "remote": transcript.initiator_public.hex(),
    }


def by_noiseprotocol(drawn: Drawn) -> Transcript:
    """Do the handshake with the package noiseprotocol."""
    backend = P256Backend() if drawn.suite == 2 else DefaultNoiseBackend()
    curve = b"P256" if drawn.suite == 2 else b"25519"
    name = b"Noise_IKpsk2_" + curve + b"_AESGCM_SHA256"

    def side(private: bytes, ephemeral: bytes) -> NoiseConnection:
        connection = NoiseConnection.from_name(name, backend)
        connection.set_psks(drawn.psk)
        connection.set_prologue(drawn.prologue)
        connection.set_keypair_from_private_bytes(Keypair.STATIC, private)
        connection.set_keypair_from_private_bytes(Keypair.EPHEMERAL, ephemeral)
        return connection

    initiator = side(drawn.initiator_private, drawn.initiator_ephemeral)
    responder = side(drawn.responder_private, drawn.responder_ephemeral)
    public = responder.noise_protocol.keypairs["s"].public_bytes
    initiator.set_keypair_from_public_bytes(Keypair.REMOTE_STATIC, public)
    initiator.set_as_initiator()
    responder.set_as_responder()
    initiator.start_handshake()
    responder.start_handshake()
    initiator_public = bytes(initiator.noise_protocol.keypairs["s"].public_bytes)
    message1 = bytes(initiator.write_message(drawn.payload1))
    assert bytes(responder.read_message(message1)) == drawn.payload1
    message2 = bytes(responder.write_message(drawn.payload2))
    assert bytes(initiator.read_message(message2)) == drawn.payload2
    protocol = initiator.noise_protocol
    first, second = protocol.cipher_state_encrypt.k, protocol.cipher_state_decrypt.k
    return Transcript(message1, message2, bytes(first), bytes(second), initiator_public)


def by_dissononce(drawn: Drawn) -> Transcript:
    """Do the handshake with the package dissononce."""
    pattern = PSKPatternModifier(2).modify(IKHandshakePattern())

    def side(ephemeral: bytes) -> HandshakeState:
        symmetric = SymmetricState(CipherState(AESGCMCipher()), SHA256Hash())
        return HandshakeState(symmetric, FixedDH(ephemeral))

    curve = X25519DH()
    initiator_pair = curve.generate_keypair(PrivateKey(drawn.initiator_private))
    responder_pair = curve.generate_keypair(PrivateKey(drawn.responder_private))
    initiator, responder = side(drawn.initiator_ephemeral), side(drawn.responder_ephemeral)
    remote = PublicKey(responder_pair.public.data)
    initiator.initialize(
        pattern, True, drawn.prologue, s=initiator_pair, rs=remote, psks=[drawn.psk]
    )
    responder.initialize(pattern, False, drawn.prologue, s=responder_pair, psks=[drawn.psk])
    message1, message2, read = bytearray(), bytearray(), bytearray()
    initiator.write_message(drawn.payload1, message1)
    responder.read_message(bytes(message1), read)
    assert bytes(read) == drawn.payload1
    responder.write_message(drawn.payload2, message2)
    states = initiator.read_message(bytes(message2), bytearray())
    first, second = (bytes(state._key) for state in states)
    public = bytes(initiator_pair.public.data)
    return Transcript(bytes(message1), bytes(message2), first, second, public)


class FixedDH(X25519DH):  # type: ignore[misc]  # the package has no types
    """X25519 whose next ephemeral is known."""

    def __init__(self, ephemeral: bytes) -> None:
        super().__init__()
        self._ephemeral = ephemeral

    def generate_keypair(self, privatekey: PrivateKey | None = None) -> Any:
        return super().generate_keypair(privatekey or PrivateKey(self._ephemeral))


class P256KeyPair(KeyPair):  # type: ignore[misc]  # the package has no types
    """A key pair whose public half is a compressed point."""

    @classmethod
    def from_private_bytes(cls, private_bytes: bytes) -> P256KeyPair:
        private = ec.derive_private_key(int.from_bytes(private_bytes, "big"), ec.SECP256R1())
        public = private.public_key()
        return cls(private=private, public=public, public_bytes=compressed(public))

    @classmethod
    def from_public_bytes(cls, public_bytes: bytes) -> P256KeyPair:
        public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), public_bytes)
        return cls(public=public, public_bytes=public_bytes)


class P256(DH):  # type: ignore[misc]  # the package has no types
    """ECDH on P-256 with compressed points (suite 2)."""

    @property
    def klass(self) -> type[P256KeyPair]:
        return P256KeyPair

    @property
    def dhlen(self) -> int:
        return 33

    def generate_keypair(self) -> P256KeyPair:
        raise AssertionError("the ephemeral is given")

    def dh(self, private_key: Any, public_key: Any) -> bytes:
        shared: bytes = private_key.exchange(ec.ECDH(), public_key)
        return shared


class P256Backend(DefaultNoiseBackend):  # type: ignore[misc]  # the package has no types
    """The package's backend with one more curve."""

    def __init__(self) -> None:
        super().__init__()
        self.diffie_hellmans["P256"] = P256
        self.keypairs["P256"] = P256KeyPair


def compressed(public: ec.EllipticCurvePublicKey) -> bytes:
    """Return the compressed point."""
    form = serialization.PublicFormat.CompressedPoint
    return public.public_bytes(serialization.Encoding.X962, form)
