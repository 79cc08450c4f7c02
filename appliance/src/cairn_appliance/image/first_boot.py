"""The cluster, at the first boot: made or joined as the seed says, whole or not at all."""

from __future__ import annotations

import socket
import time

import msgspec

from cairn_appliance.domain.errors import Unavailable
from cairn_appliance.domain.joining import decode as decode_join_string
from cairn_appliance.image import places, seed
from cairn_appliance.image.seed import Cluster
from cairn_appliance.initialising import cluster_address_of, initialise
from cairn_appliance.joining import join
from cairn_appliance.settings import Settings
from cairn_appliance.settings import check as check_settings

_ADDRESS_WITHIN_S = 60.0
# Nothing is sent there: the kernel only says which address of ours it would be sent from.
_ELSEWHERE = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))


async def first_boot() -> str:
    """Make or join the cluster as the seed says; return what to tell. Raises CairnError."""
    asked = msgspec.json.decode(places.CLUSTER.read_bytes(), type=Cluster)
    settings = seed.settings_for(asked, asked.addresses or own_addresses())
    own = cluster_address_of(settings.addresses, asked.cluster_address)
    settings = msgspec.structs.replace(settings, cluster_address=own)
    check_settings(settings)
    return await _set_up(asked, settings)


async def _set_up(asked: Cluster, settings: Settings) -> str:
    if asked.action == "join":
        string = decode_join_string(asked.join_string)
        joined = await join(places.DATA_DIR, settings, string)
        return f"joined cluster={joined.cluster_id} name={joined.name}"
    made = await initialise(
        places.DATA_DIR, settings, admin_password_hash=asked.admin_password_hash
    )
    # The recovery key is not told: nobody looks, and logs are kept. `cairn backup key` makes one.
    return f"made cluster={made.cluster_id} fingerprint={made.ca_pin}"


def own_addresses() -> list[str]:
    """Wait for the network and return the addresses that others see; raise Unavailable."""
    end = time.monotonic() + _ADDRESS_WITHIN_S
    while True:
        found = [address for address in map(_address, _ELSEWHERE) if address]
        if found:
            return found
        if time.monotonic() > end:
            raise Unavailable(
                "this machine has got no address",
                "connect its network to one with DHCP, or give network.addresses in the seed",
            )
        time.sleep(0.5)


def _address(place: tuple[socket.AddressFamily, str]) -> str | None:
    family, elsewhere = place
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((elsewhere, 9))
            address = str(probe.getsockname()[0])
    except OSError:
        return None
    return None if address.startswith(("fe80:", "127.", "::1")) else address
