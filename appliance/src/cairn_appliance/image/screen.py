"""What the machine's screen and its serial line show: where it is, who it is, how it is."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import socket
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass

from cairn_appliance.image import health, local_api, places, state
from cairn_appliance.settings import SettingsError, join_address
from cairn_appliance.settings import read as read_settings

TERMINALS = ("/dev/tty1", "/dev/ttyS0")
_PAUSE_S = 5.0
_CLEAR = "\x1b[H\x1b[2J"


@dataclass(frozen=True, slots=True)
class Shown:
    """All that is on the screen."""

    hostname: str
    version: str
    slot: str
    addresses: tuple[str, ...]
    fingerprint: str
    state: str
    problem: str
    remedy: str


def text_of(shown: Shown) -> str:
    """Return the lines; nothing that somebody else wrote gets a control character through."""
    rows = [
        *(("console", f"https://{join_address(each, 443)[:-4]}/") for each in shown.addresses),
        ("fingerprint", shown.fingerprint),
        ("state", shown.state),
        ("problem", shown.problem),
        ("what to do", shown.remedy),
    ]
    present = [(name, value) for name, value in rows if value]
    lines = [f"Cairn appliance {shown.hostname}, {shown.version}, slot {shown.slot.upper()}", ""]
    lines += [f"  {name:<12} {_printable(value)}" for name, value in present]
    return "\r\n".join(lines) + "\r\n"


def show(terminals: Sequence[str] = TERMINALS) -> None:
    """Draw it, and again whenever it has changed; never ends."""
    drawn = ""
    while True:
        text = text_of(look())
        if text != drawn:
            for terminal in terminals:
                _draw(terminal, text)
            drawn = text
        time.sleep(_PAUSE_S)


def look() -> Shown:
    """Return what there is to show now."""
    problem, remedy = _problem()
    ready = local_api.is_ready() if state.is_set_up() else False
    return Shown(
        hostname=socket.gethostname(),
        version=platform.freedesktop_os_release().get("IMAGE_VERSION", ""),
        slot=health.running_slot(),
        addresses=_addresses(),
        fingerprint=_fingerprint() if ready else "",
        state=_state(ready),
        problem=problem,
        remedy=remedy,
    )


def _state(ready: bool) -> str:
    if ready:
        return "ready"
    if state.is_set_up():
        return "starts, or has no quorum"
    if places.CLUSTER.exists():
        return "is being set up"
    return "not set up: waits for a seed (a medium with the label cidata; docs/install.md)"


def _addresses() -> tuple[str, ...]:
    try:
        return read_settings(places.DATA_DIR).hosts()
    except SettingsError:
        return ()


def _fingerprint() -> str:
    status, pem = local_api.ask("/api/v1/ca")
    first = re.search(r"-----BEGIN.*?-----END CERTIFICATE-----", pem, re.DOTALL)
    if status != 200 or first is None:
        return ""
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(first[0])).hexdigest()


def _problem() -> tuple[str, str]:
    try:
        cause, remedy = places.PROBLEM.read_text("utf-8").splitlines()[:2]
    except (OSError, ValueError):
        if health.ROLLED_BACK.exists():
            return "the last update did not come up well and was rolled back", "see its journal"
        return "", ""
    return cause, remedy


def _draw(terminal: str, text: str) -> None:
    """Write to a terminal that may not exist, and never wait for it."""
    try:
        file = os.open(terminal, os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError:
        return
    try:
        os.write(file, (_CLEAR + text).encode("utf-8", "replace"))
    except OSError:
        return
    finally:
        os.close(file)


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
