"""What both ports say while the appliance waits for enough of the others to start."""

from __future__ import annotations

from starlette.types import Receive, Scope, Send

from cairn_appliance.api import errors
from cairn_appliance.domain.errors import Unavailable


async def wait_for_quorum(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer that the process is alive, and everything else with 503."""
    if scope["type"] == "http" and scope["path"] == "/healthz":
        await errors.answer_alive()(scope, receive, send)
        return
    problem = Unavailable(
        "this appliance waits for a quorum: too few of the others run or can be reached",
        "start the other appliances; `cairn-appliance status` on this one says which are missing. "
        "Where its log says that it makes a backup before an upgrade, wait for that",
    )
    await errors.answer_error(problem)(scope, receive, send)
