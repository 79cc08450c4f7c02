"""What the machine's screen and its serial line show: where it is, who it is, how it is."""

from __future__ import annotations

import hashlib
import platform
import re
import socket
import ssl
from dataclasses import dataclass

from cairn_appliance.domain.update import Step
from cairn_appliance.image import health, interfaces, local_api, places, standing, state
from cairn_appliance.settings import SettingsError, join_address
from cairn_appliance.settings import read as read_settings

_UNDER_WAY = {
    Step.INSTALLING: "an update is being written to the other slot",
    Step.RESTARTING: "starts again, to try the other slot",
    Step.ON_TRIAL: "starts; this slot is on trial until the appliance is ready",
}


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
    under_way = _UNDER_WAY.get(standing.read().step, "")
    if under_way:
        return under_way
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
        return _update_problem()
    return cause, remedy


def _update_problem() -> tuple[str, str]:
    """Return why the last update was rolled back or could not be made, until another is."""
    told = standing.read()
    if told.step is Step.ROLLED_BACK:
        return f"the update to {told.wanted} was rolled back: {told.cause}", told.remedy
    if told.step is Step.FAILED:
        return f"the update was not made: {told.cause}", told.remedy
    return "", ""
