"""Updates as the build makes them, small: a release key, a file system of some MiB."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path

from cairn_appliance.pki.update_file import Manifest, described, signed_part
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

MIB = 1 << 20


def pem(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def packed(root: bytes) -> bytes:
    done = subprocess.run(["zstd", "-q", "-9", "-c"], input=root, capture_output=True, check=True)
    return done.stdout


def update_of(
    key: Ed25519PrivateKey, version: str, root: bytes, small: bytes | None = None
) -> bytes:
    """Return the file; `small` is what is packed in it in place of the root."""
    small = packed(root) if small is None else small
    return sealed(key, described(version, io.BytesIO(root), io.BytesIO(small)), small)


def sealed(key: Ed25519PrivateKey, manifest: Manifest, small: bytes) -> bytes:
    head = signed_part(manifest)
    return head + key.sign(head) + small


def file_system(directory: Path, mark: str, mib: int = 8) -> bytes:
    """Return an ext4 file system with a file that says which one it is."""
    content = directory / f"content-{mark}"
    content.mkdir()
    (content / "which").write_text(mark)
    (content / "noise").write_bytes(Ed25519PrivateKey.generate().private_bytes_raw() * 40_000)
    image = directory / f"{mark}.ext4"
    command = ["mke2fs", "-q", "-F", "-t", "ext4", "-d", str(content), str(image), f"{mib}M"]
    subprocess.run(command, check=True, capture_output=True)
    return image.read_bytes()
