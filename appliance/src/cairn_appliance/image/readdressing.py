"""The appliance follows its machine to another address: its settings named the old one.

It makes new certificates and tells the cluster by itself when it starts (docs/operate.md).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

import msgspec

from cairn_appliance import settings as settings_file
from cairn_appliance.cluster.files import PUBLIC, write_whole
from cairn_appliance.image import places, state
from cairn_appliance.settings import Settings, join_address, split_address


def follow(before: Sequence[str], after: Sequence[str]) -> bool:
    """Write the new addresses where the old ones are; return whether the appliance has to start.

    Raise SettingsError.
    """
    if not state.is_set_up():
        return False
    known = settings_file.read(places.DATA_DIR)
    changed = readdressed(known, before, after)
    if changed == known:
        return False
    settings_file.check(changed)
    path = places.DATA_DIR / settings_file.FILE_NAME
    write_whole(path, settings_file.to_toml(changed).encode(), PUBLIC)
    state.give_away(path)
    return True


def readdressed(known: Settings, before: Sequence[str], after: Sequence[str]) -> Settings:
    """Return the settings with each address that went replaced by one of its family that came.

    A name, and an address that the machine never had (a NAT's), stays.
    """
    successors = _successors(before, after)
    addresses = []
    for text in known.addresses:
        host, port = split_address(text, known.agent_port)
        new = successors.get(host)
        if new and port == known.agent_port:
            text = new
        elif new:
            text = join_address(new, port)
        addresses.append(text)
    return msgspec.structs.replace(
        known,
        addresses=list(dict.fromkeys(addresses)),
        cluster_address=successors.get(known.cluster_address, known.cluster_address),
    )


def _successors(before: Sequence[str], after: Sequence[str]) -> dict[str, str]:
    """Return for each address that went the first one of its family that came."""
    came = [each for each in after if each not in before]
    return {
        old: new
        for old in before
        if old not in after
        for new in came[::-1]
        if _version(old) == _version(new)
    }


def _version(address: str) -> int:
    return ipaddress.ip_address(address).version
