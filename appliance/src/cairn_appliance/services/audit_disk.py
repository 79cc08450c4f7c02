"""What an appliance keeps of the audit on its own disk: marks, the archive, and the spool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from cairn_appliance.domain.audit import Mark


class Files(Protocol):
    """What an appliance keeps of the audit on its own disk (cluster/audit_files.py)."""

    def marks(self) -> dict[str, Mark]:
        """Return how far each chain was when it was looked at last."""

    def keep_marks(self, marks: Mapping[str, Mark]) -> None:
        """Write that down; raise CairnError."""

    def archive(self, name: str, lines: Sequence[bytes]) -> str:
        """Keep lines durably and return where; raise CairnError."""

    def spool(self, line: bytes) -> None:
        """Keep a record durably until the store has room; raise CairnError."""

    def spooled(self) -> list[bytes]:
        """Return what was kept."""

    def unspool(self) -> None:
        """Forget it: the store has it."""


class NoFiles:
    """Files in memory, for tests."""

    def __init__(self) -> None:
        self.kept: dict[str, list[bytes]] = {}
        self._marks: dict[str, Mark] = {}
        self._spool: list[bytes] = []

    def marks(self) -> dict[str, Mark]:
        """Return the marks."""
        return dict(self._marks)

    def keep_marks(self, marks: Mapping[str, Mark]) -> None:
        """Keep them."""
        self._marks = dict(marks)

    def archive(self, name: str, lines: Sequence[bytes]) -> str:
        """Keep lines."""
        self.kept[name] = list(lines)
        return name

    def spool(self, line: bytes) -> None:
        """Keep a record."""
        self._spool.append(line)

    def spooled(self) -> list[bytes]:
        """Return them."""
        return list(self._spool)

    def unspool(self) -> None:
        """Forget them."""
        self._spool.clear()
