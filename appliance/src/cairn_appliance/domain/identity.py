"""Names and IDs, who did it, and what a machine says of itself."""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass, replace
from enum import StrEnum

from cairn_appliance.domain.errors import Invalid

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


def checked_name(name: str, what: str) -> str:
    """Return the name if people, files and URLs can carry it; raise Invalid."""
    if not _NAME.fullmatch(name):
        raise Invalid(
            f"{name[:80]!r} can't be the name of a {what}",
            remedy="use 1 to 63 letters, digits, '.', '_' or '-', with a letter or digit at "
            "both ends",
            code="invalid_name",
        )
    return name


def checked_labels(labels: dict[str, str]) -> dict[str, str]:
    """Return the labels if there are not too many and none is too long; raise Invalid."""
    if len(labels) > 32 or any(len(key) > 63 or len(labels[key]) > 128 for key in labels):
        raise Invalid("at most 32 labels, names up to 63 and values up to 128 characters")
    for key in labels:
        checked_name(key, "label")
    return labels


def checked_node_id(text: str) -> str:
    """Return the node ID if it is a UUID in its usual lower-case form; raise Invalid."""
    try:
        if str(uuid.UUID(text)) == text:
            return text
    except ValueError:
        pass
    raise Invalid("the node ID is not a UUID in lower case", code="invalid_node_id")


class ActorKind(StrEnum):
    """Where a change came from."""

    OPERATOR = "operator"
    NODE = "node"
    SYSTEM = "system"


@dataclass(frozen=True, slots=True)
class Actor:
    """Who made a change, for the events."""

    kind: ActorKind
    name: str  # user name, node ID, or the part of the appliance
    address: str = ""  # where the request came from


SYSTEM = Actor(ActorKind.SYSTEM, "appliance")


@dataclass(frozen=True, slots=True)
class Facts:
    """What a machine says of itself; each only where it exists."""

    dmi_uuid: str = ""
    machine_id: str = ""
    cloud_instance_id: str = ""
    boot_id: str = ""
    root_disk_id: str = ""
    first_mac: str = ""

    @property
    def instance_id(self) -> str:
        """What names the machine best: its cloud's ID, its hardware's, its system's.

        The agent has the same rule (cairn_agent.host.machine).
        """
        return self.cloud_instance_id or self.dmi_uuid or self.machine_id

    def same_machine(self, other: Facts) -> bool:
        """True unless a fact that names the machine differs.

        The boot ID says that something happened to the machine, not that it is another one.
        The machine ID and the disk's go along with a copy of the disk: where nothing of the
        hardware is known, the MAC address counts too. The agent has the same rule
        (cairn_agent.host.machine).
        """
        hardware = self._known(other, "cloud_instance_id", "dmi_uuid")
        known = hardware + self._known(other, "machine_id", "root_disk_id")
        if not hardware:
            known += self._known(other, "first_mac")
        return all(mine == theirs for mine, theirs in known)

    def _known(self, other: Facts, *names: str) -> list[tuple[str, str]]:
        pairs = [(getattr(self, name), getattr(other, name)) for name in names]
        return [(mine, theirs) for mine, theirs in pairs if mine and theirs]

    def clipped(self) -> Facts:
        """Return the facts with none longer than 128 characters."""
        return replace(self, **{name: getattr(self, name)[:128] for name in self.__slots__})
