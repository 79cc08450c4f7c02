"""The file by which appliances are updated: the system's file system, packed and signed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from cairn_appliance.pki.update_file import described, signed_part

from images.building import sign_file


def make(root: Path, version: str, key: Path, file: Path) -> None:
    """Write the update of this version from a slot's file system."""
    packed, head, signature = (file.with_suffix(end) for end in (".zst", ".head", ".head.sig"))
    try:
        with packed.open("wb") as into:
            # One thread: so many as there are would be another file on another machine.
            command = ("zstd", "-q", "-9", "--single-thread", "--no-check", "-c", str(root))
            subprocess.run(command, check=True, stdout=into)
        with root.open("rb") as plain, packed.open("rb") as small:
            head.write_bytes(signed_part(described(version, plain, small)))
        sign_file(head, key, signature)
        with file.open("wb") as into:
            for part in (head, signature, packed):
                with part.open("rb") as source:
                    shutil.copyfileobj(source, into)
    finally:
        for part in (packed, head, signature):
            part.unlink(missing_ok=True)
