"""Events: what happened, who did it, to what."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from cairn_appliance.domain.identity import Actor


class Severity(StrEnum):
    """Info is an operator's fact; a warning wants a look; an alarm wants it now."""

    INFO = "info"
    WARNING = "warning"
    ALARM = "alarm"


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened.

    `sequence` is the store's revision of the change itself, filled in when read: the order
    in which things happened, the same at every replica. Events of one change share it.
    """

    id: str
    kind: str  # "node_enrolled", "token_refused", ...
    text: str  # one sentence
    at: float  # seconds since 1970
    by: Actor
    severity: Severity = Severity.INFO
    node: str = ""  # ID
    vsubnet: str = ""  # ID
    details: dict[str, str] = field(default_factory=dict)
    sequence: int = 0
