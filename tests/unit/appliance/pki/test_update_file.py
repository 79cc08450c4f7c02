"""What an update says is believed by its signature alone, and each piece by its checksum."""

from __future__ import annotations

import hashlib
import io
import random

import msgspec
import pytest
from cairn_appliance.domain.errors import UpdateUnusable
from cairn_appliance.domain.update import version_of
from cairn_appliance.pki import update_file
from cairn_appliance.pki.update_file import check_whole, pieces_of, read_head
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.unit.appliance.image.updates import packed, pem, sealed, update_of

KEY = Ed25519PrivateKey.generate()
ROOT = random.Random(7).randbytes(3 << 20) + bytes(1 << 20)
FILE = update_of(KEY, "1.2.3-4", ROOT)


def refused(octets: bytes, key: Ed25519PrivateKey = KEY) -> str:
    with pytest.raises(UpdateUnusable) as caught:
        check_whole(io.BytesIO(octets), pem(key))
    assert caught.value.cause and caught.value.remedy
    return caught.value.code


def test_a_file_says_what_was_put_in() -> None:
    file = io.BytesIO(FILE)
    head = read_head(file, pem(KEY))
    assert head.version == "1.2.3-4" and head.manifest.root_octets == len(ROOT)
    assert head.manifest.root_sha256 == hashlib.sha256(ROOT).hexdigest()
    pieces = list(pieces_of(file, head.manifest))
    assert b"".join(pieces) == packed(ROOT) and len(pieces) > 3
    assert max(map(len, pieces)) <= update_file.PIECE_OCTETS
    assert check_whole(io.BytesIO(FILE), pem(KEY)) == head


def test_another_key_is_refused() -> None:
    assert refused(FILE, Ed25519PrivateKey.generate()) == "update_not_signed"


def test_no_octet_may_be_changed_left_out_or_added() -> None:
    dice = random.Random(11)
    head = len(FILE) - len(packed(ROOT))
    places = [*range(0, head, 7), *(dice.randrange(head, len(FILE)) for _ in range(40))]
    for at in places:
        changed = bytearray(FILE)
        changed[at] ^= 1 << dice.randrange(8)
        assert refused(bytes(changed)).startswith("update_"), at
    for length in (0, 1, 18, 19, head - 1, head, len(FILE) - 1):
        assert refused(FILE[:length]) == "update_damaged"
    assert refused(FILE + b"\0") == "update_damaged"


def test_nothing_after_a_changed_piece_is_given_away() -> None:
    changed = bytearray(FILE)
    changed[-1] ^= 1
    file = io.BytesIO(bytes(changed))
    head = read_head(file, pem(KEY))
    given = []
    with pytest.raises(UpdateUnusable):
        for piece in pieces_of(file, head.manifest):
            given.append(piece)
    assert len(given) == len(head.manifest.pieces) - 1


@pytest.mark.parametrize(
    "changes",
    [
        {"piece_octets": 1 << 40},
        {"piece_octets": 0},
        {"packed_octets": 0},
        {"packed_octets": 1 << 50},
        {"root_octets": -1},
        {"pieces": []},
        {"version": "1.2"},
        {"version": "1.2.3-4; reboot"},
    ],
)
def test_a_signed_manifest_that_contradicts_itself_is_refused(changes: dict[str, object]) -> None:
    manifest = msgspec.structs.replace(read_head(io.BytesIO(FILE), pem(KEY)).manifest, **changes)
    assert refused(sealed(KEY, manifest, packed(ROOT))).startswith("update_")


def test_a_later_schema_is_told_as_such() -> None:
    manifest = msgspec.to_builtins(read_head(io.BytesIO(FILE), pem(KEY)).manifest)
    octets = msgspec.json.encode(manifest | {"schema": 2})
    head = b"cairn-update 1\n" + len(octets).to_bytes(4) + octets
    with pytest.raises(UpdateUnusable) as caught:
        check_whole(io.BytesIO(head + KEY.sign(head)), pem(KEY))
    assert "version between" in caught.value.remedy


def test_versions_are_compared_as_numbers() -> None:
    texts = ["0.1.0-1", "0.1.0-2", "0.1.0-10", "0.2.0-1", "0.10.0-1", "1.0.0-1"]
    assert sorted(reversed(texts), key=version_of) == texts
