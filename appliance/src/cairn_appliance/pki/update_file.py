"""The file of an update: a manifest, its signature, and the file system of a slot, packed.

    "cairn-update 1" and a line feed
    4 octets     length of the manifest, big-endian
    ...          the manifest, JSON
    64 octets    Ed25519 signature of all of the above, by the release key
    ...          the file system, packed by zstd

The manifest has a checksum of each piece of the packed part. So whoever reads needs room for one
piece, and hands nothing to the program that unpacks it which the release key has not signed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import BinaryIO, Literal

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from cairn_appliance.domain.errors import UpdateUnusable
from cairn_appliance.domain.update import version_of

PIECE_OCTETS = 1 << 20
MOST_OCTETS = 1 << 30  # of the whole file: a slot, not packed at all, has no more
_MAGIC = b"cairn-update 1\n"
_LENGTH_OCTETS = 4
_MANIFEST_MOST_OCTETS = 1 << 18
_SIGNATURE_OCTETS = 64


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is in an update."""

    schema: Literal[1]
    version: str  # of the image: MAJOR.MINOR.PATCH-RELEASE
    root_octets: int  # of the file system, unpacked
    root_sha256: str
    packed_octets: int
    piece_octets: int
    pieces: list[str]  # SHA-256 of each piece of the packed part, in order


class Head(msgspec.Struct, frozen=True):
    """What an update says of itself, believed since the release key has signed it."""

    manifest: Manifest
    digest: str  # hex SHA-256 over manifest and signature: which file it is

    @property
    def version(self) -> str:
        """The version of the image that it brings."""
        return self.manifest.version


def described(version: str, root: BinaryIO, packed: BinaryIO) -> Manifest:
    """Return the manifest of a file system and of the same packed."""
    version_of(version)
    checksum = hashlib.sha256()
    for each in _read_pieces(root, PIECE_OCTETS):
        checksum.update(each)
    pieces = [hashlib.sha256(each).hexdigest() for each in _read_pieces(packed, PIECE_OCTETS)]
    return Manifest(
        1, version, root.tell(), checksum.hexdigest(), packed.tell(), PIECE_OCTETS, pieces
    )


def signed_part(manifest: Manifest) -> bytes:
    """Return what the release key signs, and what a file begins with."""
    octets = msgspec.json.encode(manifest)
    if len(octets) > _MANIFEST_MOST_OCTETS:
        raise ValueError("the manifest is longer than a reader takes")
    return _MAGIC + len(octets).to_bytes(_LENGTH_OCTETS) + octets


def read_head(file: BinaryIO, release_key: bytes) -> Head:
    """Read a file up to its packed part; raise UpdateUnusable. `release_key`: PEM.

    The signature is looked at before anything that it covers.
    """
    start = _exactly(file, len(_MAGIC) + _LENGTH_OCTETS)
    if not start.startswith(_MAGIC):
        raise UpdateUnusable("the file is no update of an appliance", code="update_unknown")
    length = int.from_bytes(start[len(_MAGIC) :])
    if length > _MANIFEST_MOST_OCTETS:
        raise _damaged("its manifest is too long")
    octets = _exactly(file, length)
    signature = _exactly(file, _SIGNATURE_OCTETS)
    try:
        _loaded(release_key).verify(signature, start + octets)
    except InvalidSignature as error:
        raise UpdateUnusable(
            "the update is not signed by the release key that this appliance believes",
            "take the file from whom the appliance's image is from; if it is, the file was changed"
            " on its way: compare its checksum with SHA256SUMS",
            code="update_not_signed",
        ) from error
    return Head(_decoded(octets), hashlib.sha256(start + octets + signature).hexdigest())


def pieces_of(file: BinaryIO, manifest: Manifest) -> Iterator[bytes]:
    """Yield the packed part piece by piece, each as it was signed; raise UpdateUnusable."""
    for number, wanted in enumerate(manifest.pieces):
        left = manifest.packed_octets - number * manifest.piece_octets
        octets = _exactly(file, min(left, manifest.piece_octets))
        if hashlib.sha256(octets).hexdigest() != wanted:
            raise _damaged(f"piece {number + 1} of {len(manifest.pieces)} is not as it was signed")
        yield octets
    if file.read(1):
        raise _damaged("something follows its end")


def check_whole(file: BinaryIO, release_key: bytes) -> Head:
    """Read all of a file and return its head; raise UpdateUnusable where anything is changed."""
    head = read_head(file, release_key)
    for _ in pieces_of(file, head.manifest):
        pass
    return head


def _decoded(octets: bytes) -> Manifest:
    try:
        manifest = msgspec.json.decode(octets, type=Manifest)
    except msgspec.MsgspecError as error:
        raise UpdateUnusable(
            f"this version can't read the update: {error}",
            "install the version between this one and that of the file first",
        ) from error
    version_of(manifest.version)
    sizes = (manifest.root_octets, manifest.packed_octets, manifest.piece_octets)
    if min(sizes) < 1 or manifest.piece_octets > PIECE_OCTETS:
        raise _damaged("its manifest contradicts itself")
    if len(manifest.pieces) != -(-manifest.packed_octets // manifest.piece_octets):
        raise _damaged("its manifest contradicts itself")
    return manifest


def _loaded(release_key: bytes) -> Ed25519PublicKey:
    try:
        key = load_pem_public_key(release_key)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError("the release key of this image can't be read") from error
    if not isinstance(key, Ed25519PublicKey):
        raise TypeError("the release key of this image is none of Ed25519")
    return key


def _exactly(file: BinaryIO, count: int) -> bytes:
    octets = file.read(count)
    if len(octets) != count:
        raise _damaged("it breaks off")
    return octets


def _read_pieces(file: BinaryIO, octets: int) -> Iterator[bytes]:
    while piece := file.read(octets):
        yield piece


def _damaged(how: str) -> UpdateUnusable:
    return UpdateUnusable(
        f"the update is damaged: {how}",
        "copy the file anew, and compare its checksum with SHA256SUMS",
        code="update_damaged",
    )
