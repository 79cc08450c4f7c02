"""The menu's way to another password, as a process of its own: the store's client is large."""

from __future__ import annotations

import subprocess
from pathlib import Path

import msgspec

from cairn_appliance.domain.errors import CairnError
from cairn_appliance.image import places

_PROGRAM = Path("/usr/bin/cairn-image")
_WITHIN_S = 120.0


class Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whose, and what to. It goes by standard input: nothing of it is in an argv."""

    user: str  # empty: the only admin's
    password: str
    is_code_lost: bool  # then none is asked for any more

    def __repr__(self) -> str:
        return f"Order(user={self.user!r}, is_code_lost={self.is_code_lost!r})"


async def reset(line: str) -> str:
    """Do what an order says on the running store; return what to say. Raise CairnError."""
    from cairn_appliance.resetting import reset_password

    order = msgspec.json.decode(line, type=Order)
    done = await reset_password(
        places.DATA_DIR, order.user, order.password, remove_totp=order.is_code_lost
    )
    told = f"{done.user} has a new password; all sessions of this user have ended."
    if done.needs_code:
        told += " A code is asked for beside it, as before."
    if done.disabled:
        told += " But the account is disabled: an admin has to enable it."
    return told


def ask(order: Order, program: Path = _PROGRAM) -> str:
    """Have it done; return what to say. Raise CairnError."""
    try:
        done = subprocess.run(
            [str(program), "reset-password"],
            input=msgspec.json.encode(order).decode() + "\n",
            text=True,
            capture_output=True,
            check=False,
            timeout=_WITHIN_S,
        )
    except subprocess.TimeoutExpired as error:
        raise CairnError("the appliance did not answer in time", "do it again later") from error
    if done.returncode == 0:
        return done.stdout
    cause, _, remedy = done.stderr.rpartition("error: ")[2].partition("\n  what to do: ")
    raise CairnError(cause.strip() or "it failed", remedy.strip() or "look into the journal")
