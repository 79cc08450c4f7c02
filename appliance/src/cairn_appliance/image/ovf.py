"""OVF properties: the seed of a virtual machine that was deployed from the OVA.

The hypervisor makes a CD with the file `ovf-env.xml` of what was filled in (transport "iso").
The fields have the seed's own names and are checked as a seed is; the OVA's descriptor lists
them (images/appliance/ova.py).
"""

from __future__ import annotations

import re
from pathlib import Path
from xml.parsers import expat

from cairn_appliance.image import medium, seed
from cairn_appliance.image.seed import Seed, SeedError

FILE_NAME = "ovf-env.xml"
CLASS = "cairn"
# Property -> its place in the seed, and whether it is a list.
FIELDS: dict[str, tuple[str, str, bool]] = {
    "hostname": ("", "hostname", False),
    "mac": ("network", "mac", False),
    "addresses": ("network", "addresses", True),
    "gateways": ("network", "gateways", True),
    "dns": ("network", "dns", True),
    "ntp": ("network", "ntp", True),
    "action": ("cluster", "action", False),
    "admin_password_hash": ("cluster", "admin_password_hash", False),
    "join_string": ("cluster", "join_string", False),
    "node_addresses": ("cluster", "addresses", True),
    "cluster_address": ("cluster", "cluster_address", False),
}

_ENVIRONMENT = "http://schemas.dmtf.org/ovf/environment/1"
_DRIVES = "sr[0-9]*"
_REMEDY = "correct the virtual machine's OVF properties, then start it again"


def find() -> Seed | None:
    """Return what the CD of a hypervisor says, None where there is none; raise SeedError."""
    for drive in sorted(Path("/dev").glob(_DRIVES)):
        octets = _environment(drive)
        if octets is not None:
            return parse(octets)
    return None


def _environment(drive: Path) -> bytes | None:
    try:
        return medium.read_file(drive, FILE_NAME)
    except medium.Unmountable:
        return None


def parse(octets: bytes) -> Seed | None:
    """Return the seed that the properties make, None where none is filled in; raise SeedError."""
    document: dict[str, object] = {"schema": 1}
    for name, value in properties(octets).items():
        if name not in FIELDS:
            raise SeedError(f"the OVF property {CLASS}.{name} is none of ours", _REMEDY)
        section, field, is_list = FIELDS[name]
        place = document
        if section:
            place = document.setdefault(section, {})  # type: ignore[assignment]
        place[field] = re.split(r"[,\s]+", value) if is_list else value
    if len(document) == 1:
        return None
    try:
        return seed.convert(document)
    except SeedError as error:
        given = type(error).remedy == error.remedy
        raise SeedError(error.cause, _REMEDY if given else error.remedy) from error


def properties(octets: bytes) -> dict[str, str]:
    """Return our properties that have a value; raise SeedError."""
    found: dict[str, str] = {}
    reader = expat.ParserCreate(namespace_separator=" ")

    def element(name: str, attributes: dict[str, str]) -> None:
        key = attributes.get(f"{_ENVIRONMENT} key", "")
        value = attributes.get(f"{_ENVIRONMENT} value", "").strip()
        if name == f"{_ENVIRONMENT} Property" and key.startswith(f"{CLASS}.") and value:
            found[key.removeprefix(f"{CLASS}.")] = value

    reader.StartElementHandler = element
    reader.StartDoctypeDeclHandler = _refuse  # no entities: nothing that grows or is fetched
    try:
        reader.Parse(octets, True)
    except expat.ExpatError as error:
        raise SeedError(f"{FILE_NAME} is no XML: {error}", _REMEDY) from error
    return found


def _refuse(*_: object) -> None:
    raise SeedError(f"{FILE_NAME} has a DOCTYPE, which is not read", _REMEDY)
