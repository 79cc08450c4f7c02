"""One real appliance with its own etcd on loopback, for the browser tests."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.ports import free_port

BIN = Path(sys.executable).parent
STARTS_WITHIN_S = 40.0
_PORTS = ("agent_port", "ops_port", "etcd_client_port", "etcd_peer_port", "etcd_metrics_port")


@dataclass
class Running:
    """The appliance as an operator knows it."""

    home: Path
    url: str
    password: str
    process: subprocess.Popen[bytes]
    client: httpx.Client

    def ask(self, method: str, path: str, **body: Any) -> Any:
        """Ask the operations API as admin, and return what it answered."""
        answer = self.client.request(method, f"/api/v1{path}", json=body or None)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None


@contextmanager
def appliance(home: Path) -> Iterator[Running]:
    """Yield a running appliance with a data directory of its own, and end it."""
    data = home / "data"
    init = ["init", "--data-dir", str(data), "--address", "127.0.0.1", "--json"]
    made = subprocess.run(
        [BIN / "cairn-appliance", *init], capture_output=True, check=True, timeout=60
    )
    told = json.loads(made.stdout)
    ports = {name: free_port() for name in _PORTS}
    text = (data / "settings.toml").read_text()
    for name, port in ports.items():
        text = re.sub(rf"(?m)^{name} = \d+$", f"{name} = {port}", text)
    (data / "settings.toml").write_text(text)
    url = f"https://127.0.0.1:{ports['ops_port']}"
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            [BIN / "cairn-appliance", "run", "--data-dir", str(data)], stderr=log
        )
    with httpx.Client(base_url=url, verify=False, timeout=15) as client:
        running = Running(home, url, told["admin_password"], process, client)
        try:
            _wait_until_ready(running)
            login = {"name": "admin", "password": running.password}
            token = client.post("/api/v1/login", json=login).json()["token"]
            client.headers["Authorization"] = f"Bearer {token}"
            yield running
        finally:
            process.send_signal(signal.SIGCONT)
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(5)


def _wait_until_ready(running: Running) -> None:
    deadline = time.monotonic() + STARTS_WITHIN_S
    while time.monotonic() < deadline:
        assert running.process.poll() is None, (running.home / "log").read_text()
        try:
            if running.client.get("/readyz").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError((running.home / "log").read_text())
