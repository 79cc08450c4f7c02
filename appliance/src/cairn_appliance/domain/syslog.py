"""Events as syslog messages (RFC 5424), whatever the names in them are made of."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime

from cairn_appliance.domain.event import Event, Severity
from cairn_appliance.domain.visible import visible

UDP_OCTETS = 2048  # RFC 5426 3.2: what a receiver should be able to take
STREAM_OCTETS = 8192  # RFC 5425 4.3.1
_LOCAL0 = 16
_SEVERITIES = {Severity.INFO: 6, Severity.WARNING: 4, Severity.ALARM: 1}
# Of RFC 5612, for documentation: Cairn has no number of its own with IANA.
_ENTERPRISE = 32473
_BOM = b"\xef\xbb\xbf"
_NOT_PRINTABLE = re.compile(r"[^\x21-\x7e]")
_NOT_A_NAME = re.compile(r'[^\x21-\x7e]|[="\]]')


def message(event: Event, host: str, cluster: str, *, most: int) -> bytes:
    """Return the message, at most so many octets: details go first, then the text is cut."""
    priority = 8 * _LOCAL0 + _SEVERITIES[event.severity]
    at = datetime.fromtimestamp(event.at, UTC).isoformat(timespec="milliseconds")
    head = " ".join(
        (
            f"<{priority}>1",
            at.replace("+00:00", "Z"),
            _token(host, 255),
            "cairn",
            "-",
            _token(event.kind, 32),
        )
    )
    about = _element("cairn", _about(event, cluster))
    details = _element("details", event.details.items()) if event.details else ""
    text = _BOM + visible(event.text).encode()
    whole = f"{head} {about}{details} ".encode() + text
    if len(whole) <= most:
        return whole
    return _cut(f"{head} {about} ".encode() + text, most)


def _about(event: Event, cluster: str) -> Iterable[tuple[str, str]]:
    yield "id", event.id
    yield "sequence", str(event.sequence)
    yield "cluster", cluster
    yield "by", f"{event.by.kind} {event.by.name}"
    for name, value in (("from", event.by.address), ("node", event.node)):
        if value:
            yield name, value
    if event.vsubnet:
        yield "vsubnet", event.vsubnet


def _element(name: str, params: Iterable[tuple[str, str]]) -> str:
    told = "".join(
        f' {_NOT_A_NAME.sub("_", key)[:32] or "_"}="{_escaped(value)}"' for key, value in params
    )
    return f"[{name}@{_ENTERPRISE}{told}]"


def _escaped(value: str) -> str:
    """Escape what RFC 5424 6.3.3 says, after what draws nothing was made visible."""
    shown = visible(value)[:512]
    return shown.replace("\\", "\\\\").replace('"', '\\"').replace("]", "\\]")


def _token(text: str, most: int) -> str:
    return _NOT_PRINTABLE.sub("_", text)[:most] or "-"


def _cut(octets: bytes, most: int) -> bytes:
    """Cut between characters."""
    return octets[:most].decode(errors="ignore").encode()
