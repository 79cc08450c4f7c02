"""Fills the store of the appliance with the data directory given, until etcd refuses.

It overwrites one key: what takes the room is history. With a number, it writes so often at most.
"""

import asyncio
import sys
from pathlib import Path

from cairn_appliance.cluster import bootstrap
from cairn_appliance.cluster.etcd_process import client_tls
from cairn_appliance.store.etcd import EtcdStore
from cairn_appliance.store.port import Full, Put

_KEY = "/cairn/1/names/test/filler"


async def main() -> None:
    """Write until it is full."""
    local = bootstrap.load(Path(sys.argv[1]))
    store = EtcdStore(local.endpoints, client_tls(local))
    try:
        for number in range(int(sys.argv[2]) if len(sys.argv) > 2 else 10_000):
            await store.commit([], [Put(_KEY, number.to_bytes(4) * 200_000)])
    except Full:
        print("full")
    finally:
        await store.close()


asyncio.run(main())
