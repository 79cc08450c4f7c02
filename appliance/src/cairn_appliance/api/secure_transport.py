"""TLS on a TCP connection of the loop, made for many connections that are idle.

The loop's own TLS has a buffer of 256 KiB for each connection, of which what was ever read into
stays in memory, and leaves buffers in OpenSSL that are as large as the largest piece that there
ever was. Here one buffer serves all connections, since what is in it is taken out before the loop
goes on, and OpenSSL gets everything in small slices.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from enum import Enum, auto
from typing import Any, cast

SLICE_OCTETS = 1024  # that OpenSSL is given to read at once
RECORD_OCTETS = 2048  # that it is given to write at once
SHUTDOWN_S = 5.0  # a peer that is gone says nothing
_ENCRYPTED = memoryview(bytearray(64 * 1024))
_PLAIN = memoryview(bytearray(16 * 1024))  # as much as a record has


class _State(Enum):
    SHAKING_HANDS = auto()
    OPEN = auto()
    CLOSING = auto()  # the end was said; what comes is passed over until the peer ends as well
    LOST = auto()


class SecureTransport(asyncio.Transport, asyncio.BufferedProtocol):
    """The server's side of TLS: a protocol of TCP's transport, and a transport itself."""

    __slots__ = (
        "_incoming",
        "_is_shaken",
        "_outgoing",
        "_protocol",
        "_shutting_down",
        "_state",
        "_tcp",
        "_tls",
    )

    def __init__(self, context: ssl.SSLContext, protocol: asyncio.BaseProtocol) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._protocol: Any = protocol
        self._tcp: asyncio.Transport | None = None
        self._state = _State.SHAKING_HANDS
        loop = asyncio.get_running_loop()
        self._is_shaken: asyncio.Future[None] | None = loop.create_future()
        self._shutting_down: asyncio.TimerHandle | None = None

    async def shaken(self) -> None:
        """Return once hands are shaken; raise OSError where they are not, or were not already."""
        if self._is_shaken is not None:
            try:
                await self._is_shaken
            finally:
                self._is_shaken = None

    # What TCP's transport tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._tcp = cast(asyncio.Transport, transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the buffer that all connections share."""
        return _ENCRYPTED

    def buffer_updated(self, nbytes: int) -> None:
        """Take what has come, slice by slice, so that OpenSSL's own buffer stays small."""
        for begin in range(0, nbytes, SLICE_OCTETS):
            if self._state in (_State.CLOSING, _State.LOST):
                return
            self._incoming.write(_ENCRYPTED[begin : min(begin + SLICE_OCTETS, nbytes)])
            if self._state is _State.SHAKING_HANDS:
                self._shake_hands()
            if self._state is _State.OPEN:
                self._read()

    def eof_received(self) -> bool:
        """End with the peer."""
        return False

    def pause_writing(self) -> None:
        """Tell that the peer is slow."""
        if self._state is _State.OPEN:
            self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """Tell that it has caught up."""
        if self._state is _State.OPEN:
            self._protocol.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave nothing behind."""
        state, self._state = self._state, _State.LOST
        if self._shutting_down is not None:
            self._shutting_down.cancel()
            self._shutting_down = None
        protocol, self._protocol, self._tcp = self._protocol, None, None
        if state is _State.SHAKING_HANDS:
            self._told(exc or ConnectionResetError("the client left within the handshake"))
        else:
            protocol.connection_lost(exc)

    # What the protocol above asks for

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send, record by record."""
        if self._state is not _State.OPEN or self._tcp is None:
            return
        octets, sent = memoryview(data), []
        try:
            for begin in range(0, len(octets), RECORD_OCTETS):
                self._tls.write(octets[begin : begin + RECORD_OCTETS])
                sent.append(self._outgoing.read())
        except ssl.SSLError:
            self.abort()
            return
        self._tcp.write(sent[0] if len(sent) == 1 else b"".join(sent))

    def close(self) -> None:
        """Say the end after what was written, and wait for the peer's for some seconds.

        To close at once would have the kernel throw away what the peer hasn't read yet, where it
        has sent something itself meanwhile.
        """
        if self._state is _State.SHAKING_HANDS:
            self.abort()
        if self._state is not _State.OPEN or self._tcp is None:
            return
        self._state = _State.CLOSING
        with contextlib.suppress(ssl.SSLError):  # it would read the peer's word of the end
            self._tls.unwrap()
        self._flush()
        self._tcp.write_eof()
        self._tcp.resume_reading()
        loop = asyncio.get_running_loop()
        self._shutting_down = loop.call_later(SHUTDOWN_S, self.abort)

    def abort(self) -> None:
        """End it at once."""
        if self._tcp is not None:
            self._tcp.abort()

    def is_closing(self) -> bool:
        """True once nothing can be sent any more."""
        return self._state in (_State.CLOSING, _State.LOST)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Have another protocol above."""
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the protocol above."""
        protocol: asyncio.BaseProtocol = self._protocol
        return protocol

    def pause_reading(self) -> None:
        """Read no more for now."""
        if self._state is _State.OPEN and self._tcp is not None:
            self._tcp.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        if self._state is _State.OPEN and self._tcp is not None:
            self._tcp.resume_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Say when the peer is slow."""
        if self._tcp is not None:
            self._tcp.set_write_buffer_limits(high=high, low=low)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return what is known of the connection."""
        if name == "ssl_object":
            return self._tls
        if name == "sslcontext":
            return self._tls.context
        return default if self._tcp is None else self._tcp.get_extra_info(name, default)

    def _shake_hands(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
        except ssl.SSLError as error:
            self._flush()  # the alert says why
            self._told(error)
            self._fail()
        else:
            self._flush()
            self._state = _State.OPEN
            self._protocol.connection_made(self)
            self._told(None)

    def _read(self) -> None:
        """Give what there is to the protocol above."""
        try:
            while self._state is _State.OPEN:
                count = cast(int, self._tls.read(len(_PLAIN), _PLAIN))
                if not count:
                    self.close()
                    break
                self._protocol.data_received(bytes(_PLAIN[:count]))
        except ssl.SSLWantReadError:
            self._flush()  # a key may be updated
        except ssl.SSLError:
            self._flush()
            self._fail()

    def _fail(self) -> None:
        if self._tcp is not None:
            self._tcp.close()

    def _flush(self) -> None:
        if self._outgoing.pending and self._tcp is not None:
            self._tcp.write(self._outgoing.read())

    def _told(self, error: BaseException | None) -> None:
        """Tell who waits for the handshake, or will."""
        waiting = self._is_shaken
        if waiting is None or waiting.done():
            return
        if error is None:
            waiting.set_result(None)
        else:
            waiting.set_exception(error)
            waiting.exception()  # nobody may wait any more
