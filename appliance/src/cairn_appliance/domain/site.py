"""Sites: named places with one underlay and one administrator."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Site:
    """A cloud region, a data centre, an office."""

    name: str
    created_at: float  # seconds since 1970
    description: str = ""
