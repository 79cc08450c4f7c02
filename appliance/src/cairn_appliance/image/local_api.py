"""Asks the appliance on this machine what anybody may ask it."""

from __future__ import annotations

import http.client
import ssl
import time

from cairn_appliance.image.places import OPS_PORT

_ANSWER_S = 10.0
_PAUSE_S = 2.0


def ask(path: str) -> tuple[int, str]:
    """Return status and body of a GET; status 0 where nobody answers.

    Its certificate isn't checked: nothing secret goes there, and who answers on this machine's
    port 443 is the machine itself.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    connection = http.client.HTTPSConnection(
        "127.0.0.1", OPS_PORT, timeout=_ANSWER_S, context=context
    )
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read(65_536).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        return 0, ""
    finally:
        connection.close()


def is_ready() -> bool:
    """Say whether the appliance can serve."""
    return ask("/readyz")[0] == 200


def wait_until_ready(within_s: float) -> bool:
    """Wait for it; return whether it came."""
    end = time.monotonic() + within_s
    while not is_ready():
        if time.monotonic() > end:
            return False
        time.sleep(_PAUSE_S)
    return True
