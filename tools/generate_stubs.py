"""Generates the stubs of etcd's API from store/rpc.proto, where they are older than it."""

from __future__ import annotations

import sys
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent / "appliance" / "src"
PROTO = SOURCE / "cairn_appliance" / "store" / "rpc.proto"
STUBS = [PROTO.with_name(name) for name in ("rpc_pb2.py", "rpc_pb2.pyi", "rpc_pb2_grpc.py")]


def main() -> int:
    """Return 0 where the stubs are there; their import name is cairn_appliance.store.rpc_pb2."""
    newest = max(PROTO.stat().st_mtime_ns, Path(__file__).stat().st_mtime_ns)
    if all(stub.exists() and stub.stat().st_mtime_ns >= newest for stub in STUBS):
        return 0
    from grpc_tools import protoc

    # The include path is the package's root, so that the generated imports are absolute.
    arguments = [f"--{kind}_out={SOURCE}" for kind in ("python", "pyi", "grpc_python")]
    return int(protoc.main(["protoc", f"-I{SOURCE}", *arguments, str(PROTO)]))


if __name__ == "__main__":
    sys.exit(main())
