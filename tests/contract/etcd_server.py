"""A real etcd for tests, that can be killed, paused and started again on its data."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from cairn_appliance.cluster.etcd_binary import find_etcd
from cairn_appliance.store.connection import Tls
from cairn_appliance.store.etcd import EtcdStore

from tests.ports import free_port

_READY_S = 15


class EtcdServer:
    """One member of etcd on loopback, in a directory of its own."""

    def __init__(
        self,
        directory: Path,
        *,
        name: str = "t",
        tls: dict[str, Path] | None = None,
        options: tuple[str, ...] = (),
    ) -> None:
        self.port, self.peer_port = free_port(), free_port()
        self.address = f"127.0.0.1:{self.port}"
        self._directory = directory
        self._name = name
        self._tls = tls
        self._options = options
        self._members = [self]
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def cluster(cls, directory: Path, count: int) -> list[EtcdServer]:
        """Return that many members of one cluster, running."""
        servers = []
        for number in range(count):
            (directory / f"m{number}").mkdir()
            servers.append(cls(directory / f"m{number}", name=f"m{number}"))
        for server in servers:
            server._members = servers
            server._spawn(server.port)
        for server in servers:
            server._wait_until_serving(server.port)
        return servers

    @property
    def _peer_url(self) -> str:
        return f"http://127.0.0.1:{self.peer_port}"

    def start(self, *, port: int | None = None) -> None:
        """Start on the data there is; on another client port if one is given."""
        is_first = not (self._directory / "data").exists()
        self._spawn(port or self.port)
        if is_first:
            self._wait_until_serving(port or self.port)
        else:
            self._wait_until_listening(port or self.port)

    def forget(self) -> None:
        """Remove its data; the next start makes a new cluster."""
        assert self._process is None
        shutil.rmtree(self._directory / "data")

    def _spawn(self, port: int) -> None:
        scheme = "https" if self._tls else "http"
        peer = self._peer_url
        members = ",".join(f"{member._name}={member._peer_url}" for member in self._members)
        command = [
            str(find_etcd().path),
            f"--name={self._name} --data-dir={self._directory / 'data'} --log-level=warn",
            f"--listen-client-urls={scheme}://127.0.0.1:{port}",
            f"--advertise-client-urls={scheme}://127.0.0.1:{port}",
            f"--listen-peer-urls={peer} --initial-advertise-peer-urls={peer}",
            f"--initial-cluster={members} --unsafe-no-fsync",
            *self._options,
        ]
        if self._tls:
            command += [
                f"--cert-file={self._tls['certificate']} --key-file={self._tls['key']}",
                f"--trusted-ca-file={self._tls['ca']} --client-cert-auth",
            ]
        arguments = [word for part in command for word in part.split()]
        with (self._directory / "etcd.log").open("ab") as log:
            self._process = subprocess.Popen(arguments, stdout=log, stderr=log)

    def kill(self) -> None:
        """End it as a crash does."""
        self.end(signal.SIGKILL)

    def end(self, number: int) -> None:
        """End it by a signal: SIGTERM lets it say goodbye to its clients."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait()
            self._process = None

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the process (SIGSTOP) inside the block."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)
        try:
            self._wait_until_stopped(self._process.pid)
            yield
        finally:
            os.kill(self._process.pid, signal.SIGCONT)

    @staticmethod
    def _wait_until_stopped(pid: int) -> None:
        """A thread on the other core may go on for a moment after the signal was sent."""
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        end = time.monotonic() + 5
        while any(
            (task / "stat").read_text().rpartition(")")[2].split()[0] != "T" for task in tasks
        ):
            assert time.monotonic() < end
            time.sleep(0.005)

    def _wait_until_serving(self, port: int) -> None:
        """Return once it has a leader. A new member listens before that, and never has one if it
        is killed before its log holds whom the cluster consists of (seen in 4 of 120 tries)."""
        self._wait_until(lambda: self._is_serving(port))

    def _wait_until_listening(self, port: int) -> None:
        self._wait_until(lambda: _is_listening(port))

    def _wait_until(self, condition: Callable[[], bool]) -> None:
        assert self._process is not None
        end = time.monotonic() + _READY_S
        while time.monotonic() < end:
            if self._process.poll() is not None:
                break
            if condition():
                return
            time.sleep(0.05)
        self.kill()
        raise AssertionError((self._directory / "etcd.log").read_text()[-2000:])

    def _is_serving(self, port: int) -> bool:
        """Ask for its health: 200 once a linearizable read succeeds, 503 until then."""
        connection: http.client.HTTPConnection
        if self._tls:
            context = ssl.create_default_context(cafile=self._tls["ca"])
            context.load_cert_chain(self._tls["certificate"], self._tls["key"])
            connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=2, context=context)
        else:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
        with contextlib.closing(connection):
            try:
                connection.request("GET", "/health")
                return connection.getresponse().status == http.HTTPStatus.OK
            except (OSError, http.client.HTTPException):
                return False


def _is_listening(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@contextlib.asynccontextmanager
async def client(*addresses: str, tls: Tls | None = None):  # type: ignore[no-untyped-def]
    """Yield a store on these endpoints, closed at the end."""
    store = EtcdStore(addresses, tls)
    try:
        yield store
    finally:
        await asyncio.wait_for(store.close(), 10)
