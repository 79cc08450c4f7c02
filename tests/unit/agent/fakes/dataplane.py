"""A data plane that keeps what it is told, behind the real control socket."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any


class FakeDataPlane:
    """Speaks docs/protocol.md section 2; start and stop it as often as a test wants."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.instance = 0
        self.generation: int | None = None
        self.state: dict[str, Any] | None = None
        self.applied: list[dict[str, Any]] = []
        self.underlay_changes = 0
        self.warmed_all = 0
        self.gates: dict[int, tuple[int, int]] = {}  # VNI -> term, until
        self.forgotten: list[tuple[int, str]] = []
        self.refuse_apply: str | None = None
        self.is_silent = False
        self.peers: list[dict[str, Any]] = []
        self.probes = 0
        self.answers_probes = True
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        """Start as a new process: nothing is known."""
        self.instance += 1
        self.generation, self.state = None, None
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, self.path, limit=1 << 26)

    async def stop(self) -> None:
        """End as a killed process does."""
        assert self._server is not None
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        await self._server.wait_closed()
        self.path.unlink(missing_ok=True)

    async def until(self, what: str, condition: Any, within_s: float = 5.0) -> None:
        """Wait until `condition(self)` holds."""
        async with asyncio.timeout(within_s):
            while not condition(self):
                await asyncio.sleep(0.01)

    def emit(self, **event: Any) -> None:
        """Send an event to everyone connected."""
        for writer in self._writers:
            writer.write(json.dumps({"events": [event]}).encode() + b"\n")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while line := await reader.readline():
                if self.is_silent:
                    continue
                request = json.loads(line)
                answer = {"id": request["id"], "ok": True} | self._answer(request)
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        except OSError:
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        match request["op"]:
            case "hello":
                return {
                    "version": "0.1.0",
                    "protocol": 1,
                    "pid": 1,
                    "instance": f"{self.instance:08x}",
                    "generation": self.generation,
                    "offloads": {"udp_gso": "on"},
                    "entropy": "rdrand",
                }
            case "apply":
                return self._apply(request)
            case "stats":
                vnis = [v["vni"] for v in (self.state or {}).get("vsubnets", [])]
                return {
                    "instance": f"{self.instance:08x}",
                    "vsubnets": [{"vni": vni, "peers": self.peers} for vni in vnis],
                }
            case "probe":
                self.probes += 1
                if self.answers_probes:
                    return {"rtt_us": 420, "endpoint": "192.0.2.2:8002"}
                return {"ok": False, "error": {"code": "timeout", "message": "no answer; look"}}
            case "gate":
                return self._gate(request)
            case "forget":
                self.forgotten.append((request["vni"], request["peer"]))
                return {"forgotten": 3}
            case "underlay_changed":
                self.underlay_changes += 1
                return {}
            case "warm_all":
                self.warmed_all += 1
                return {}
            case "subscribe":
                return {}
            case other:
                return {"ok": False, "error": {"code": "unknown_op", "message": other}}

    def _gate(self, request: dict[str, Any]) -> dict[str, Any]:
        seen, _ = self.gates.get(request["vni"], (0, 0))
        if request["term"] < seen:
            return {"ok": False, "error": {"code": "older_term", "message": "seen; ask"}}
        self.gates[request["vni"]] = (request["term"], request["forward_until_ns"])
        return {}

    def _apply(self, request: dict[str, Any]) -> dict[str, Any]:
        if self.refuse_apply:
            return {"ok": False, "error": {"code": "bad_state", "message": self.refuse_apply}}
        changed = request["state"] != self.state
        self.state, self.generation = request["state"], request["generation"]
        self.applied.append(request["state"])
        return {"generation": self.generation, "changed": changed}
