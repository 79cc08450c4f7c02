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
from cairn_appliance.domain.access import Role

from tests.unit.appliance.operations import PASSWORD, Clock, Operations, operations

T = TypeVar("T")


@dataclass
class Live:
    """An appliance that listens on loopback."""

    operations: Operations
    port: int
    loop: asyncio.AbstractEventLoop

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"https://127.0.0.1:{self.port}"

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 of its CA."""
        return self.operations.authority.pin

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
    port = server.servers[0].sockets[0].getsockname()[1]
    appliance = Live(made, port, loop)
    appliance.do(made.add_user("admin", Role.ADMIN))
    yield appliance
    server.should_exit = True
    thread.join(10)


@pytest.fixture
def logged_in(live: Live, cairn: Shell, tmp_path: Path) -> Shell:
    """Return the command with a session of `admin`."""
    password = tmp_path / "password"
    password.write_text(PASSWORD + "\n")
    cairn.ok("login", live.url, "--fingerprint", live.fingerprint, "--password-file", str(password))
    return cairn


def _serve(server: uvicorn.Server, loop: asyncio.AbstractEventLoop) -> None:
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(server.serve())
