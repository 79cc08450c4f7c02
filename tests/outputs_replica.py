"""One replica that tells events to receivers, as a process of its own that a test can kill.

python -m tests.outputs_replica NAME ETCD KEK
"""

from __future__ import annotations

import sys

import uvloop
from cairn_appliance.pki.sealing import Sealer
from cairn_appliance.services.events import Journal
from cairn_appliance.services.outputs import Outputs
from cairn_appliance.services.receivers import lines
from cairn_appliance.store.etcd import EtcdStore

LEASE_S = 2


def outputs(store: EtcdStore, kek: bytes, name: str) -> Outputs:
    """Return what tells events, as `services.build` makes it."""
    sealer = Sealer(kek)
    return Outputs(store, sealer, Journal(), lines(sealer, lambda: "c"), name, lease_s=LEASE_S)


async def _run(name: str, etcd: str, kek: str) -> None:
    store = EtcdStore([etcd], None)
    await outputs(store, bytes.fromhex(kek), name).run()


if __name__ == "__main__":
    uvloop.run(_run(*sys.argv[1:]))
