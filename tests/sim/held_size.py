"""Prints how many octets of memory a netmap takes that holds the vSubnet given on stdin.

`python -m tests.sim.held_size`. The signature is not checked here: only the size matters.
"""

from __future__ import annotations

import gc
import sys
import tracemalloc

from cairn_agent.netmap.held import NetmapCopy
from cairn_agent.protocol import netmap as wire


def main() -> None:
    """Hold it, and tell."""
    line = sys.stdin.buffer.read().rstrip(b"\n")
    tracemalloc.start()
    update = wire.decode_received(line)
    assert isinstance(update, wire.ReceivedVSubnet)
    copy = NetmapCopy(cluster_id="", node_id="", map_key="")
    members = dict(copy._member(update.vni, bytes(raw)) for raw in update.set)
    del update
    gc.collect()
    print(tracemalloc.get_traced_memory()[0])
    del members, copy


if __name__ == "__main__":
    main()
