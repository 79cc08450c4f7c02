"""The file of a backup: readable at its head, sealed in its body (docs/adr/0007).

    cairn-backup-1\\n
    {"cluster_id": ..., "key_id": ..., "share": ...}\\n     at most 4096 octets
    pieces of 1 MiB and a tag of 16 octets each, the last one shorter or as long

The body's key comes from X25519 between a key made for this file and the recovery key, and is
bound to the head: who changes a digit of it opens nothing. Each piece is sealed with
AES-256-GCM under its number, and the last one as the last: pieces can't be left out, put in
another order, cut off at the end, or taken from another backup.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterator
from typing import BinaryIO

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from cairn_appliance.domain.backup import Head
from cairn_appliance.pki.errors import PkiError, SealBroken
from cairn_appliance.pki.recovery_key import RecoveryKey, key_id, share_with

MAGIC = b"cairn-backup-1\n"
PIECE_OCTETS = 1 << 20
HEAD_MAX_OCTETS = 4096
_TAG_OCTETS = 16
_COUNTER_OCTETS = 11
_LAST, _NOT_LAST = b"\x01", b"\x00"


class NoBackup(PkiError):
    """A file is no backup of a version that this one reads."""


class OtherKey(PkiError):
    """A backup is sealed for another recovery key."""


class _SealedHead(msgspec.Struct, frozen=True):
    head: Head
    key_id: str
    share: str  # base64 of the public half that was made for this file


class BackupWriter:
    """Seals what is written to it for a recovery key."""

    def __init__(self, out: BinaryIO, recipient: bytes, head: Head) -> None:
        share, secret = share_with(recipient)
        sealed = _SealedHead(head, key_id(recipient), base64.b64encode(share).decode())
        octets = MAGIC + msgspec.json.encode(sealed) + b"\n"
        if len(octets) > HEAD_MAX_OCTETS:
            raise PkiError("the head of the backup is too long")
        self._pieces = _Pieces(secret, share + recipient, octets)
        self._out = out
        self._kept = bytearray()
        out.write(octets)

    def write(self, octets: bytes) -> None:
        """Seal whole pieces and keep the rest; it may block for as long as the disk does."""
        self._kept += octets
        while len(self._kept) > PIECE_OCTETS:  # a full one at the end may be the last
            self._put(bytes(self._kept[:PIECE_OCTETS]), _NOT_LAST)
            del self._kept[:PIECE_OCTETS]

    def finish(self) -> None:
        """Seal the last piece: without it the file opens as cut short."""
        self._put(bytes(self._kept), _LAST)
        self._kept.clear()

    def _put(self, piece: bytes, mark: bytes) -> None:
        self._out.write(self._pieces.seal(piece, mark))


class BackupReader:
    """Opens a backup; what it yields is verified, and whole only when it ends without an error."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        """Read the head; raise NoBackup."""
        self._file = file
        self._name = name
        line = file.read(len(MAGIC))
        if line != MAGIC:
            raise NoBackup(f"{name} is no backup of Cairn, or of a newer version")
        line = file.readline(HEAD_MAX_OCTETS)
        try:
            sealed = msgspec.json.decode(line, type=_SealedHead)
            self._share = base64.b64decode(sealed.share, validate=True)
        except (msgspec.MsgspecError, binascii.Error, ValueError) as error:
            raise NoBackup(f"{name}: the head of the backup is damaged") from error
        self._octets = MAGIC + line
        self.head = sealed.head
        self.key_id = sealed.key_id

    def pieces(self, key: RecoveryKey) -> Iterator[bytes]:
        """Yield the content; raise OtherKey, SealBroken."""
        if self.key_id != key.id:
            raise OtherKey(
                f"{self._name} is sealed for the recovery key {self.key_id}, not for {key.id}"
            )
        try:
            secret = key.shared(self._share)
        except PkiError as error:
            raise self._broken() from error
        pieces = _Pieces(secret, self._share + key.public, self._octets)
        sealed = self._file.read(PIECE_OCTETS + _TAG_OCTETS)
        while True:
            following = self._file.read(PIECE_OCTETS + _TAG_OCTETS)
            try:
                yield pieces.open(sealed, _NOT_LAST if following else _LAST)
            except InvalidTag as error:
                raise self._broken() from error
            if not following:
                return
            sealed = following

    def _broken(self) -> SealBroken:
        return SealBroken(f"{self._name}: the backup is damaged or cut short")


class _Pieces:
    """Seals or opens one piece after the other."""

    def __init__(self, secret: bytes, both: bytes, head: bytes) -> None:
        info = MAGIC + hashlib.sha256(head).digest()
        derived = HKDF(hashes.SHA256(), 32, salt=both, info=info)
        self._aead = AESGCM(derived.derive(secret))
        self._number = 0

    def seal(self, piece: bytes, mark: bytes) -> bytes:
        return self._aead.encrypt(self._nonce(mark), piece, None)

    def open(self, sealed: bytes, mark: bytes) -> bytes:
        """Return the piece; raise InvalidTag."""
        if len(sealed) < _TAG_OCTETS:
            raise InvalidTag
        return self._aead.decrypt(self._nonce(mark), sealed, None)

    def _nonce(self, mark: bytes) -> bytes:
        """Never the same twice: the key is of this file alone."""
        number, self._number = self._number, self._number + 1
        return number.to_bytes(_COUNTER_OCTETS) + mark
