"""TLS that shares its buffers: what is sent arrives, whoever is slow, silent or rude is bounded."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvloop
from cairn_appliance.api import secure_transport as secure_module
from cairn_appliance.api.client_certificate import server_context
from cairn_appliance.api.secure_transport import SecureTransport
from cairn_appliance.pki.authority import utc_now

from tests.unit.agent.fakes.running import until
from tests.unit.appliance.replica import AUTHORITY

MUCH = bytes(range(256)) * 65_536  # more than all buffers on the way


class Above(asyncio.Protocol):
    """What a protocol above is told."""

    def __init__(self) -> None:
        self.came = bytearray()
        self.is_paused = self.is_made = self.is_lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.is_made = True

    def data_received(self, data: bytes) -> None:
        self.came += data

    def pause_writing(self) -> None:
        self.is_paused = True

    def resume_writing(self) -> None:
        self.is_paused = False

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True


class Pair:
    """A listening socket, the server's context and a client's."""

    def __init__(self, directory: Path) -> None:
        pair = AUTHORITY.issue_pair("api", "server", ["127.0.0.1"], utc_now())
        paths = [directory / name for name in ("api.pem", "key.pem", "ca.pem")]
        contents = (pair.certificate, pair.private_key, AUTHORITY.certificate)
        for path, octets in zip(paths, contents, strict=True):
            path.write_bytes(octets)
        self.context = server_context(*paths)
        self.client = ssl.create_default_context(cafile=paths[2])
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.listening.setblocking(False)
        self.port = self.listening.getsockname()[1]

    async def accepted(self) -> tuple[SecureTransport, Above]:
        """Take the next connection; its hands are not shaken yet."""
        loop, above = asyncio.get_running_loop(), Above()
        accepted, _ = await loop.sock_accept(self.listening)
        secure = SecureTransport(self.context, above)
        await loop.connect_accepted_socket(lambda: secure, accepted)
        return secure, above

    def talk(self, talk: Callable[[ssl.SSLSocket], bytes]) -> bytes:
        """Talk as a client that blocks: the loop's own gives less than came at the end."""
        with (
            socket.create_connection(("127.0.0.1", self.port), timeout=20) as plain,
            self.client.wrap_socket(
                plain, server_hostname="127.0.0.1", suppress_ragged_eofs=False
            ) as secure,
        ):
            return talk(secure)

    @asynccontextmanager
    async def connected(
        self,
    ) -> AsyncIterator[tuple[SecureTransport, Above, asyncio.StreamReader, asyncio.StreamWriter]]:
        """Yield both ends."""
        opening = asyncio.create_task(
            asyncio.open_connection("127.0.0.1", self.port, ssl=self.client, limit=1024)
        )
        secure, above = await self.accepted()
        await secure.shaken()
        reader, writer = await opening
        try:
            yield secure, above, reader, writer
        finally:
            writer.transport.abort()
            secure.abort()
            await until(lambda: above.is_lost)


Played = Callable[[Pair], Awaitable[None]]


def play(scenario: Played, directory: Path) -> None:
    """Play it on the loop that the appliance runs on."""
    pair = Pair(directory)

    async def bounded() -> None:
        async with asyncio.timeout(30):
            await scenario(pair)

    with (
        pair.listening,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(bounded())


def read_all(secure: ssl.SSLSocket) -> bytes:
    """Read to the end, which has to be said by TLS."""
    octets = bytearray()
    while some := secure.recv(65_536):
        octets += some
    return bytes(octets)


def test_a_handshake_that_has_failed_before_it_is_waited_for_is_told(tmp_path: Path) -> None:
    async def scenario(pair: Pair) -> None:
        with socket.create_connection(("127.0.0.1", pair.port), timeout=20) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
            secure, above = await pair.accepted()
            await until(lambda: secure.is_closing())
            with pytest.raises(OSError):
                await secure.shaken()
            assert not above.is_made

    play(scenario, tmp_path)


def test_much_goes_both_ways_in_order_and_who_is_slow_is_waited_for(tmp_path: Path) -> None:
    async def scenario(pair: Pair) -> None:
        reads = threading.Event()

        def talk(secure: ssl.SSLSocket) -> bytes:
            reads.wait(20)
            return read_all(secure)

        talking = asyncio.create_task(asyncio.to_thread(pair.talk, talk))
        secure, above = await pair.accepted()
        await secure.shaken()
        secure.set_write_buffer_limits(high=32 * 1024)
        sent = 0
        while not above.is_paused:
            assert sent < len(MUCH)
            secure.write(MUCH[sent : sent + 5_000])
            sent += 5_000
            await asyncio.sleep(0)
        reads.set()
        await until(lambda: not above.is_paused)
        secure.write(MUCH[sent:])
        secure.close()
        assert await talking == MUCH
        await until(lambda: above.is_lost)

    play(scenario, tmp_path)


def test_what_comes_is_all_given_in_order(tmp_path: Path) -> None:
    async def scenario(pair: Pair) -> None:
        async with pair.connected() as (_secure, above, _reader, writer):
            writer.write(MUCH[:1_000_000])
            await until(lambda: len(above.came) == 1_000_000)
            assert above.came == MUCH[:1_000_000]

    play(scenario, tmp_path)


def test_what_is_written_before_the_end_arrives_although_the_peer_speaks(tmp_path: Path) -> None:
    """A node reports while it is sent away: the kernel must not throw the last line away."""

    async def scenario(pair: Pair) -> None:
        has_spoken = threading.Event()

        def talk(secure: ssl.SSLSocket) -> bytes:
            secure.sendall(b"a report that nobody reads\n" * 1_000)
            has_spoken.set()
            return read_all(secure)

        talking = asyncio.create_task(asyncio.to_thread(pair.talk, talk))
        secure, above = await pair.accepted()
        await secure.shaken()
        secure.pause_reading()
        await asyncio.to_thread(has_spoken.wait, 20)
        secure.write(MUCH)
        secure.close()
        secure.write(b"after the end")
        assert secure.is_closing()
        assert await talking == MUCH
        await until(lambda: above.is_lost)

    play(scenario, tmp_path)


def test_a_peer_that_does_not_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secure_module, "SHUTDOWN_S", 0.2)

    async def scenario(pair: Pair) -> None:
        async with pair.connected() as (secure, above, _reader, _writer):
            secure.write(MUCH)  # it reads nothing of it
            secure.close()
            await until(lambda: above.is_lost)

    play(scenario, tmp_path)


def test_the_peers_end_is_the_end(tmp_path: Path) -> None:
    async def scenario(pair: Pair) -> None:
        async with pair.connected() as (secure, above, _reader, writer):
            writer.write(b"the last")
            writer.close()
            await until(lambda: above.is_lost)
            assert above.came == b"the last"
            assert secure.is_closing()
            secure.close()
            secure.write(b"nothing happens")

    play(scenario, tmp_path)


@pytest.mark.parametrize("says", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b""])
def test_who_speaks_no_tls_is_not_let_in(tmp_path: Path, says: bytes) -> None:
    async def scenario(pair: Pair) -> None:
        with socket.create_connection(("127.0.0.1", pair.port)) as rude:
            secure, above = await pair.accepted()
            rude.sendall(says)
            rude.shutdown(socket.SHUT_WR)
            with pytest.raises(OSError):
                await secure.shaken()
            assert not above.is_made

    play(scenario, tmp_path)


def test_a_record_that_was_tampered_with_ends_the_connection(tmp_path: Path) -> None:
    async def scenario(pair: Pair) -> None:
        async with pair.connected() as (_secure, above, _reader, writer):
            plain = writer.get_extra_info("socket")
            descriptor = socket.socket(fileno=socket.dup(plain.fileno()))
            with descriptor:
                descriptor.send(b"\x17\x03\x03\x00\x20" + bytes(32))
            await until(lambda: above.is_lost)
            assert above.came == b""

    play(scenario, tmp_path)
