"""Changes at a steady rate, and how long each takes to every member that applies it.

A node that changes registers an endpoint that is the time of asking, so that whoever applies
the line knows how old the change is, in whichever process. Only deltas count: what comes in
full was not sent because of the change.
"""

from __future__ import annotations

import re
from collections import Counter

BUCKET_S = 0.01
_MARK = re.compile(rb'"198\.19\.(\d{1,3})\.(\d{1,3}):(\d{1,5})"')
_FIRST_PORT = 10_000


def endpoint_at(asked_s: float) -> str:
    """Return the endpoint that says when it was asked for, in seconds since the churn began."""
    whole, millis = divmod(int(asked_s * 1000), 1000)
    return f"198.19.{whole >> 8 & 255}.{whole & 255}:{_FIRST_PORT + millis}"


def asked_in(line: bytes) -> list[float]:
    """Return when the changes that a line tells of were asked for."""
    return [
        (int(high) << 8 | int(low)) + (int(port) - _FIRST_PORT) / 1000
        for high, low, port in _MARK.findall(line)
    ]


class Arrivals:
    """How old changes were when agents applied them, by hundredths of a second.

    A line is the same for all members of a vSubnet: when it came is noted for each agent, what
    is in it is worked out once.
    """

    def __init__(self, began: float) -> None:
        self.began = began
        self._lines: dict[bytes, Counter[int]] = {}

    def note(self, line: bytes, at: float) -> None:
        """Note that an agent applied a delta."""
        self._lines.setdefault(line, Counter())[int((at - self.began) / BUCKET_S)] += 1

    def taken(self) -> Counter[int]:
        """Return how many changes came how late, and forget them."""
        ages: Counter[int] = Counter()
        for line, arrivals in self._lines.items():
            asked = asked_in(line)
            for bucket, count in arrivals.items():
                for each in asked:
                    ages[max(0, bucket + 1 - int(each / BUCKET_S))] += count
        self._lines.clear()
        return ages


def age_s(ages: Counter[int], share: float) -> float:
    """Return the age that a share of all doesn't exceed; of none: infinity."""
    left = int(ages.total() * share)
    for bucket in sorted(ages):
        left -= ages[bucket]
        if left < 0:
            return bucket * BUCKET_S
    return float("inf")


def slope(points: list[tuple[float, float]]) -> float:
    """Return how fast the second of two values rises with the first (least squares)."""
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0
