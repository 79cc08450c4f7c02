"""Secrets that are looked for, in every form that they may be written in, and where they were."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

_FILE_HOLE = b"\0" * 4096


@dataclass(frozen=True)
class Canary:
    """A secret by what it is."""

    name: str
    needles: frozenset[bytes]

    @classmethod
    def of_text(cls, name: str, text: str) -> Canary:
        """A secret that people see as it is."""
        octets = text.encode()
        written = {quote(text, safe="").encode(), json.dumps(text)[1:-1].encode()}
        return cls(name, frozenset(written | _encoded(octets)))

    @classmethod
    def of_octets(cls, name: str, octets: bytes) -> Canary:
        """A secret that is no text."""
        return cls(name, frozenset(_encoded(octets)))

    @classmethod
    def of_pem(cls, name: str, pem: str) -> Canary:
        """A private key: its octets, and each line of its PEM that has some of them."""
        key = load_pem_private_key(pem.encode(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        scalar = key.private_numbers().private_value.to_bytes(32)
        lines = [line.encode() for line in pem.splitlines() if not line.startswith("-----")]
        # After the second the public key follows, which anybody may see.
        return cls(name, frozenset({*lines[:2], *_encoded(scalar)}))

    def is_in(self, octets: bytes) -> bool:
        """Return whether the secret is there, whole, in any form."""
        return any(needle in octets for needle in self.needles)


@dataclass(frozen=True)
class Place:
    """Something that was looked through; `meant` are the secrets that belong there."""

    name: str
    octets: bytes = field(repr=False)
    meant: frozenset[str] = frozenset()


def files_of(directory: Path) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of all files, sockets and such left out."""
    for path in directory.rglob("*"):
        if path.is_file():
            with contextlib.suppress(FileNotFoundError):  # its program has just removed it
                yield str(path.relative_to(directory)), path.read_bytes()


def found(places: Iterable[Place], canaries: Iterable[Canary]) -> Iterator[tuple[str, str]]:
    """Yield each place and secret that came together and were not meant to."""
    looked_for = list(canaries)
    for place in places:
        octets = place.octets.replace(_FILE_HOLE, b"")
        for canary in looked_for:
            if canary.name not in place.meant and canary.is_in(octets):
                yield place.name, canary.name


def _encoded(octets: bytes) -> set[bytes]:
    """Return what can be seen of octets, however they are encoded and whatever is around them."""
    forms = {octets, octets.hex().encode(), octets.hex().upper().encode()}
    base32 = base64.b32encode(octets).rstrip(b"=")
    forms |= {base32, base32.lower()}
    for before in range(3):  # base64 of a longer text has one of three forms of it
        encoded = base64.b64encode(b"\0" * before + octets).rstrip(b"=")
        first = -(-before * 8 // 6)
        last = (before + len(octets)) * 8 // 6
        whole = encoded[first:last]
        forms |= {whole, whole.replace(b"+", b"-").replace(b"/", b"_")}
        forms.add(whole.replace(b"/", b"\\/"))
    return forms
