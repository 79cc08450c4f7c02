"""What the machine's screen and its serial line show: where it is, who it is, how it is."""

from __future__ import annotations

import hashlib
import platform
import re
import socket
import ssl
from dataclasses import dataclass

from cairn_appliance.image import health, interfaces, local_api, places, state
from cairn_appliance.settings import SettingsError, join_address
from cairn_appliance.settings import read as read_settings


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
    own_addresses: tuple[str, ...] = ()  # of the machine, while it is no appliance yet

    @property
    def urls(self) -> tuple[str, ...]:
        """Where the console is."""
        return tuple(f"https://{join_address(each, 443)[:-4]}/" for each in self.addresses)


def text_of(shown: Shown) -> str:
    """Return the lines."""
    rows = [
        *(("console", each) for each in shown.urls),
        *(("address", each) for each in shown.own_addresses),
        ("fingerprint", shown.fingerprint),
        ("state", shown.state),
        ("problem", shown.problem),
        ("what to do", shown.remedy),
    ]
    present = [(name, value) for name, value in rows if value]
    lines = [f"Cairn appliance {shown.hostname}, {shown.version}, slot {shown.slot.upper()}", ""]
    lines += [f"  {name:<12} {value}" for name, value in present]
    return "\n".join([*lines, "", "  Enter opens the menu."]) + "\n"


def look() -> Shown:
    """Return what there is to show now."""
    problem, remedy = _problem()
    ready = local_api.is_ready() if state.is_set_up() else False
    return Shown(
        hostname=socket.gethostname(),
        version=platform.freedesktop_os_release().get("IMAGE_VERSION", ""),
        slot=health.running_slot(),
        addresses=hosts(),
        fingerprint=_fingerprint() if ready else "",
        state=_state(ready),
        problem=problem,
        remedy=remedy,
        own_addresses=() if state.is_set_up() else interfaces.addresses(),
    )


def _state(ready: bool) -> str:
    if ready:
        return "ready"
    if state.is_set_up():
        return "starts, or has no quorum"
    if places.CLUSTER.exists():
        return "is being set up"
    return "not set up: use the menu, or a seed (a medium with the label cidata; docs/install.md)"


def hosts() -> tuple[str, ...]:
    """Return at which addresses or names nodes and operators reach the appliance."""
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
