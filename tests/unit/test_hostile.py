"""What `make hostile` makes of the answers, and when its proofs hold."""

from __future__ import annotations

from typing import Any

import pytest

from tests import hostile, proofs


def lines(count: int, *more: str) -> list[str]:
    named = [f"admin:GET:/api/v1/{name} 200 described" for name in ("nodes", "users")]
    return [*named * count, *more]


def proved(monkeypatch: pytest.MonkeyPatch, given: list[str], *, passed: bool = True) -> Any:
    told: dict[str, Any] = {}

    def record(proof: str, **rest: Any) -> bool:
        told.update(rest, id=proof)
        return bool(rest["holds"])

    monkeypatch.setattr(proofs, "record", record)
    assert hostile._record("operations", hostile.counted(given), is_passed=passed) == told["holds"]
    return told


def test_enough_good_answers_of_each_operation_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    # A method that the path has not is asked for less often: it is no operation.
    told = proved(monkeypatch, lines(1000, "admin:other-method:/api/v1/nodes 405 described"))
    assert (told["id"], told["value"], told["holds"]) == ("HOSTILE-operations", 0, True)
    assert told["what"].startswith("2,001 hostile requests to 2 operations, 1,000 or more each")


@pytest.mark.parametrize(
    ("given", "passed", "value"),
    [
        (lines(999), True, 0),
        (lines(1000), False, 0),
        (lines(1000, "admin:GET:/api/v1/one 200 described"), True, 0),
        (lines(1000, "admin:GET:/api/v1/nodes 500 described"), True, 1),
        (lines(1000, "admin:GET:/api/v1/nodes 418 undescribed"), True, 1),
        ([], True, 0),
    ],
)
def test_too_few_or_a_bad_one_do_not_hold(
    monkeypatch: pytest.MonkeyPatch, given: list[str], passed: bool, value: int
) -> None:
    told = proved(monkeypatch, given, passed=passed)
    assert (told["value"], told["holds"]) == (value, False)
