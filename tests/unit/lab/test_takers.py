"""What takers were told, compared with the end: what no truth explains must be noticed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.takers import Operator, Taken, violations
from tests.sim.history import Kind, Operation, Outcome

DONE, REFUSED, UNKNOWN = Outcome


class End(Operator):
    """The lists that an appliance shows at the end."""

    def __init__(self, members: dict[str, str], nodes: list[str]) -> None:
        self._shown = {
            "/api/v1/vsubnets/taken/members": [
                {"node": {"id": node}, "mac": f"mac of {node}", "ips": [ip]}
                for ip, node in members.items()
            ],
            "/api/v1/nodes": [{"id": node} for node in nodes],
        }

    def everything(self, path: str) -> Iterator[dict[str, Any]]:
        yield from self._shown[path]


def took(owner: str, at: float, outcome: Outcome = DONE, kind: Kind = Kind.TAKE) -> Operation:
    return Operation(owner, kind, "ip 10.200.0.1", owner, at, at + 0.1, outcome)


def used(user: str, at: float) -> Operation:
    return Operation(user, Kind.USE, "token t", user, at, at + 0.1, DONE)


@pytest.mark.parametrize(
    ("operations", "members", "nodes", "kept", "rules"),
    [
        ([took("a", 1), took("b", 2, REFUSED)], {"10.200.0.1": "a"}, [], ["w"], []),
        ([took("a", 1), took("b", 2)], {"10.200.0.1": "b"}, [], ["w"], ["evicted", "exclusive"]),
        ([took("a", 1), took("a", 2, kind=Kind.RELEASE), took("b", 3)],
         {"10.200.0.1": "b"}, [], ["w"], []),
        ([took("a", 1), took("a", 2, UNKNOWN, Kind.RELEASE)], {}, [], ["w"], []),
        ([took("a", 1)], {}, [], ["w"], ["evicted"]),
        ([used("x", 1), used("y", 1)], {}, ["x", "y"], ["w"], []),
        ([used("x", 1), used("y", 1), used("z", 1)], {}, ["x", "y", "z"], ["w"], ["overused"]),
        ([used("x", 1), used("y", 1)], {}, ["x"], ["w"], ["lost"]),
        ([], {}, [], [], ["lost"]),
    ],
    ids=[
        *("one owner", "two owners", "one after the other", "gone or not", "evicted"),
        *("two uses", "three uses", "a node is lost", "a write is lost"),
    ],
)  # fmt: skip
def test_what_no_truth_explains_is_found(
    operations: list[Operation],
    members: dict[str, str],
    nodes: list[str],
    kept: list[str],
    rules: list[str],
) -> None:
    taken = Taken(operations, {"token t": 2})
    found = violations(taken, ["w"], End(members, nodes), {*kept})
    assert sorted({each.rule for each in found}) == rules
