"""Codes of apps, by the vectors of the RFC, and recovery codes."""

from __future__ import annotations

import pytest
from cairn_appliance.domain import totp

# RFC 6238, appendix B: SHA-1, eight digits, of which six are the last.
SECRET = b"12345678901234567890"


@pytest.mark.parametrize(
    ("at", "code"),
    [
        (59, "94287082"),
        (1111111109, "07081804"),
        (1111111111, "14050471"),
        (1234567890, "89005924"),
        (2000000000, "69279037"),
        (20000000000, "65353130"),
    ],
)
def test_the_vectors_of_the_rfc(at: int, code: str) -> None:
    assert totp.code_at(SECRET, at // 30) == code[-6:]


@pytest.mark.parametrize(
    ("off", "is_good"), [(-2, False), (-1, True), (0, True), (1, True), (2, False)]
)
def test_a_clock_may_be_off_by_one_step(off: int, is_good: bool) -> None:
    now = 1234567890.0
    step = int(now // 30) + off

    found = totp.matching_step(SECRET, totp.code_at(SECRET, step), now=now, used=0)

    assert found == (step if is_good else 0)


def test_a_step_that_was_used_opens_no_more_and_none_before_it() -> None:
    now = 1234567890.0
    step = int(now // 30)

    for older in (step - 1, step):
        code = totp.code_at(SECRET, older)
        assert totp.matching_step(SECRET, code, now=now, used=step) == 0
    code = totp.code_at(SECRET, step + 1)
    assert totp.matching_step(SECRET, code, now=now, used=step) == step + 1


def test_the_uri_is_one_that_apps_read() -> None:
    assert totp.uri(SECRET, "a.user", "Cairn") == (
        "otpauth://totp/Cairn:a.user?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ&issuer=Cairn"
    )


def test_recovery_codes_differ_and_are_found_however_they_are_typed() -> None:
    codes = totp.new_recovery_codes()

    assert len(set(codes)) == 10
    for code in codes:
        typed = [code, code.upper(), f" {code.replace('-', ' ')}\n", code.replace("-", "")]
        assert len({totp.recovery_hash("bob", each) for each in typed}) == 1
        assert totp.recovery_hash("bob", code) != totp.recovery_hash("eve", code)
        assert not totp.is_totp(totp.tidy(code))
