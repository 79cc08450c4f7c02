"""TLS to an appliance: the cluster's CA and nothing else is trusted.

No system trust store, no proxy or CA environment variable. Before the first secret is
sent, the server's chain must contain the CA whose SHA-256 is the token's pin, and then a
second handshake must verify against exactly that CA. The host name isn't compared: the
CA signs server certificates for appliances only, and NAT may change how they are reached.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import hmac
import ipaddress
import os
import re
import ssl
from typing import Any, Final

from cryptography import x509

from cairn_agent.entropy import stir_tls
from cairn_agent.errors import (
    AgentError,
    BadInput,
    Environment,
    NoAnswer,
    Refused,
    StateUnusable,
    TurnedAway,
    Unreachable,
)
from cairn_agent.identity import Identity

CONNECT_TIMEOUT_S: Final = 5.0
_LABEL: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
# X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED
_CLOCK_ERRORS: Final = frozenset({9, 10})
_BUSY_ALERT: Final = "TLSV1_ALERT_INTERNAL_ERROR"  # as Python names it
_AFTER_SECONDS: Final = frozenset({errno.EHOSTUNREACH, errno.ETIMEDOUT})  # of waiting in vain


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of "host:port" or "[v6]:port"; raise BadInput."""
    host, colon, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    is_port = port.isascii() and port.isdecimal() and 0 < int(port[:6]) < 65536
    if not colon or not is_port or not _is_host(host):
        raise BadInput(f"{address!r} is not an appliance's address (host:port)", "make a new token")
    return host, int(port)


def is_address(address: str) -> bool:
    """Return whether an appliance's address can be used at all."""
    try:
        split_address(address)
    except BadInput:
        return False
    return True


async def pinned_authority(address: str, pin: str) -> str:
    """Return the PEM of the CA with this pin (hex SHA-256 of its DER) as the server shows it.

    Nothing is sent but the handshake. Raises Refused where another CA signs there.
    """
    stir_tls()
    host, port = split_address(address)
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            _, writer = await asyncio.open_connection(host, port, ssl=_blind_context())
    except (OSError, TimeoutError) as error:
        raise connection_error(address, error) from error
    try:
        chain = _shown_chain(writer.get_extra_info("ssl_object"))
    finally:
        writer.transport.abort()
    for der in chain:
        if hmac.compare_digest(hashlib.sha256(der).hexdigest(), pin):
            return ssl.DER_cert_to_PEM_cert(der)
    raise Refused(
        f"the appliance at {address} is not the one that the token is for: "
        "its certificate authority has another fingerprint",
        "check the address; if the cluster's authority was changed since the token was made, or "
        "the token is for another cluster, make a new one there",
        code="foreign_pin",
    )


def server_context(ca: str) -> ssl.SSLContext:
    """Return a context that trusts this CA (PEM) only."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.load_verify_locations(cadata=ca)
    return context


def node_context(identity: Identity) -> ssl.SSLContext:
    """Return a context that also shows the node's certificate; raise StateUnusable."""
    try:
        context = server_context(identity.ca)
        show_certificate(context, identity)
    except (ssl.SSLError, ValueError, TypeError) as error:  # TypeError: the CA isn't ASCII
        raise StateUnusable(
            f"the identity's certificate, key or CA can't be used: {error}",
            "put the identity back from a backup, or leave with --force and join again",
        ) from error
    return context


def trust_also(context: ssl.SSLContext, ca: str) -> None:
    """Let new connections of a context trust these authorities (PEM), too."""
    context.load_verify_locations(cadata=ca)


def issuer_of(certificate: str) -> str:
    """Return the hex key identifier of the authority that signed a certificate (PEM)."""
    parsed = x509.load_pem_x509_certificate(certificate.encode())
    try:
        found = parsed.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    except x509.ExtensionNotFound:
        return ""
    return (found.key_identifier or b"").hex()


def show_certificate(context: ssl.SSLContext, identity: Identity) -> None:
    """Let new connections of a context show this certificate; raise SSLError."""
    _load_certificate(context, identity.certificate + identity.keys.control_key)


def connection_error(address: str, error: BaseException) -> AgentError:
    """Return what to tell a person about a connection that could not be made."""
    cause = _tls_cause(error)
    if isinstance(cause, ssl.SSLCertVerificationError):
        if cause.verify_code in _CLOCK_ERRORS:
            return Environment(
                f"the certificate of {address} isn't valid at the time of this machine's clock",
                "set the clock (timedatectl, chronyc makestep) and try again",
            )
        return Refused(
            f"the certificate of {address} is not signed by the cluster: {cause.verify_message}",
            "check the address; if the cluster was set up anew, leave and join again",
            code="foreign_ca",
        )
    if is_turned_away(cause):
        return TurnedAway(
            f"the appliance at {address} has more newcomers than it can serve at once",
            "nothing: the agent tries again within seconds",
        )
    if isinstance(cause, ssl.SSLError):
        return Unreachable(
            f"{address} doesn't speak TLS as an appliance does: {cause.reason or cause}",
            "check the address and port; see whether a proxy is in between",
        )
    if isinstance(error, TimeoutError) or "timed out" in str(error):
        return NoAnswer(
            f"the appliance at {address} gives no answer",
            "check that a firewall or security group lets TCP to that port through",
        )
    is_swallowed = isinstance(cause, OSError) and cause.errno in _AFTER_SECONDS
    return (NoAnswer if is_swallowed else Unreachable)(
        f"the appliance at {address} can't be reached: {_reason(cause or error)}",
        "check the address, the route, and that the appliance runs",
    )


def is_turned_away(error: BaseException | None) -> bool:
    """True where the appliance said that it is too busy, in the place of a handshake."""
    return isinstance(error, ssl.SSLError) and error.reason == _BUSY_ALERT


def _is_host(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return len(host) <= 253 and all(map(_LABEL.fullmatch, host.removesuffix(".").split(".")))
    return True


def _tls_cause(error: BaseException | None) -> BaseException | None:
    """Return the operating system's or TLS's error behind a library's, the deepest there is."""
    found = None
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return error
        if isinstance(error, OSError) and error.errno:
            found = error
        group = error.exceptions if isinstance(error, BaseExceptionGroup) else (None,)
        error = group[0] or error.__cause__ or error.__context__
    return found


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno and error.errno > 0:
        return os.strerror(error.errno)
    if type(error).__name__ in ("RemoteProtocolError", "ReadError"):
        return "it ended the connection"
    return str(error) or type(error).__name__


def _blind_context() -> ssl.SSLContext:
    """Return a context that believes anybody; only for looking at what a server shows."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _shown_chain(connection: Any) -> list[bytes]:
    """Return the DER certificates that the server sent.

    Python 3.13 has this as a method; before, the object below it has.
    """
    if hasattr(connection, "get_unverified_chain"):
        return list(connection.get_unverified_chain())
    chain = connection._sslobj.get_unverified_chain() or ()
    return [ssl.PEM_cert_to_DER_cert(certificate.public_bytes()) for certificate in chain]


def _load_certificate(context: ssl.SSLContext, pem: str) -> None:
    """Load certificate and key, which Python can only do from a file, from memory."""
    descriptor = os.memfd_create("cairn-certificate", os.MFD_CLOEXEC)
    try:
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write(pem.encode())
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
