"""The command against a real HTTPS server of this process, with a store in memory."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import pytest
import uvicorn
from cairn_appliance.cli.app import run
from cairn_appliance.cli.session import Session, save
from cairn_appliance.domain.access import Role

from tests.unit.appliance.operations import Clock, Operations, operations

T = TypeVar("T")


@dataclass
class Live:
    """An appliance that listens on loopback."""

    operations: Operations
    server: uvicorn.Server
    thread: threading.Thread
    loop: asyncio.AbstractEventLoop

    @property
    def port(self) -> int:
        """The port it listens on."""
        port = self.server.servers[0].sockets[0].getsockname()[1]
        assert isinstance(port, int)
        return port

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"https://127.0.0.1:{self.port}"

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 of its CA."""
        return self.operations.authority.pin

    def stop(self) -> None:
        """End it; nothing listens any more."""
        self.server.should_exit = True
        self.cut()
        self.thread.join(10)

    def cut(self) -> None:
        """Cut every connection, without a word."""
        self.loop.call_soon_threadsafe(_abort, self.server)

    def do(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run something in the appliance's own loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(10)


@dataclass
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


class Shell:
    """Runs `cairn` in this process and keeps what it printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str) -> Ended:
        """Run one command line."""
        self._capsys.readouterr()
        code = run(list(arguments))
        captured = self._capsys.readouterr()
        return Ended(code, captured.out, captured.err)

    def ok(self, *arguments: str) -> str:
        """Run a command that must succeed; return what it printed."""
        ended = self(*arguments)
        assert ended.code == 0, ended.err
        assert ended.err == ""
        return ended.out


@pytest.fixture
def cairn(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Shell:
    """Return the command, with an empty configuration of its own."""
    monkeypatch.setenv("CAIRN_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TZ", "UTC")
    return Shell(capsys)


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    """Yield an appliance with the user `admin`, and stop it."""
    made = operations(Clock(time.time()))
    pair = made.authority.issue_pair("api", "server", ["127.0.0.1"], datetime.now(UTC))
    certificate, key = tmp_path / "api.pem", tmp_path / "api-key.pem"
    certificate.write_bytes(pair.certificate)
    key.write_bytes(pair.private_key)
    config = uvicorn.Config(
        made.app,
        host="127.0.0.1",
        port=0,
        ssl_certfile=certificate,
        ssl_keyfile=key,
        log_level="warning",
    )
    server, loop = uvicorn.Server(config), asyncio.new_event_loop()
    thread = threading.Thread(target=_serve, args=(server, loop), daemon=True)
    thread.start()
    deadline = time.monotonic() + 10
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.01)
    appliance = Live(made, server, thread, loop)
    appliance.do(made.add_user("admin", Role.ADMIN))
    yield appliance
    if thread.is_alive():
        appliance.stop()


@pytest.fixture
def logged_in(live: Live, cairn: Shell) -> Shell:
    """Return the command with a session of `admin`, as a login leaves it behind."""
    ca = live.operations.authority.certificate.decode()
    token = live.do(live.operations.session())
    save(Session(live.url, "admin", ca, live.fingerprint, token))
    return cairn


def _abort(server: uvicorn.Server) -> None:
    for connection in list(server.server_state.connections):
        transport = getattr(connection, "transport", None)
        if isinstance(transport, asyncio.Transport):
            transport.abort()


def _serve(server: uvicorn.Server, loop: asyncio.AbstractEventLoop) -> None:
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(server.serve())
