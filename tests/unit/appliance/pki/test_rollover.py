"""Authorities that follow each other, as OpenSSL judges them in real handshakes."""

from __future__ import annotations

import ssl
import uuid
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cairn_agent.control.tls import server_context as agent_context
from cairn_appliance.api.client_certificate import server_context
from cairn_appliance.pki.authority import Authority, issuer_id_of, key_id_of, pin_of, split_pem
from cryptography import x509

from tests.simulated_node import SimulatedNode

NOW = datetime.now(UTC)
NODE = SimulatedNode(id=str(uuid.UUID(int=0x4000 << 64 | 0x8000 << 48 | 1)))


class Line:
    """Four authorities, each the successor of the one before."""

    def __init__(self) -> None:
        self.all = [Authority.create("Cairn cluster x", NOW)]
        self.crosses: list[str] = []  # the newest first
        for _ in range(3):
            self.all.append(self.all[-1].successor(NOW))
            self.crosses.insert(0, self.all[-2].cross(self.all[-1], NOW).decode())

    def chain(self) -> str:
        roots = [each.certificate.decode() for each in reversed(self.all)]
        return "".join((*self.crosses, *roots))


@pytest.fixture(scope="module")
def line() -> Line:
    return Line()


def appliance(directory: Path, issuer: Authority, chain: str, clients: str) -> ssl.SSLContext:
    pair = issuer.issue_pair("cairn-appliance", "server", ["127.0.0.1"], NOW)
    for name, octets in (
        ("api.pem", pair.certificate + chain.encode()),
        ("key.pem", pair.private_key),
        ("ca.pem", clients.encode()),
    ):
        (directory / name).write_bytes(octets)
    return server_context(directory / "api.pem", directory / "key.pem", directory / "ca.pem")


def shaken_hands(
    server: ssl.SSLContext, client: ssl.SSLContext
) -> tuple[bytes | None, list[bytes]]:
    """Return the certificate that the server saw, and the chain that the client was shown."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    one = client.wrap_bio(to_client, to_server)
    other = server.wrap_bio(to_server, to_client, server_side=True)
    done = set()
    for _ in range(10):
        for side in (one, other):
            try:
                side.do_handshake()
                done.add(side)
            except ssl.SSLWantReadError:
                pass
        if len(done) == 2:
            break
    assert len(done) == 2
    shown = one._sslobj.get_unverified_chain() or []  # type: ignore[attr-defined]
    ders = [ssl.PEM_cert_to_DER_cert(each.public_bytes()) for each in shown]
    return other.getpeercert(binary_form=True), ders


@pytest.mark.parametrize("known", [0, 1, 2, 3])
def test_who_knows_any_authority_of_the_line_believes_the_newest(
    line: Line, known: int, tmp_path: Path
) -> None:
    server = appliance(tmp_path, line.all[3], line.chain(), line.all[3].certificate.decode())
    _, shown = shaken_hands(server, agent_context(line.all[known].certificate.decode()))
    pins = [pin_of(ssl.DER_cert_to_PEM_cert(der)) for der in shown]
    assert line.all[known].pin in pins, "so does who knows its fingerprint only"


@pytest.mark.parametrize("known", [0, 1])
def test_before_the_next_one_issues_all_is_as_it_was(
    line: Line, known: int, tmp_path: Path
) -> None:
    server = appliance(tmp_path, line.all[1], line.chain(), line.all[1].certificate.decode())
    shaken_hands(server, agent_context(line.all[known].certificate.decode()))


def test_who_knows_only_the_newest_believes_none_before_it(line: Line, tmp_path: Path) -> None:
    server = appliance(tmp_path, line.all[0], line.chain(), line.all[0].certificate.decode())
    with pytest.raises(ssl.SSLCertVerificationError):
        shaken_hands(server, agent_context(line.all[3].certificate.decode()))


def test_another_cluster_of_the_same_name_is_not_believed(line: Line, tmp_path: Path) -> None:
    foreign = Authority.create("Cairn cluster x", NOW)
    server = appliance(tmp_path, line.all[3], line.chain(), line.all[3].certificate.decode())
    with pytest.raises(ssl.SSLCertVerificationError):
        shaken_hands(server, agent_context(foreign.certificate.decode()))


@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_the_appliance_can_tell_whose_certificate_a_node_shows(
    line: Line, number: int, tmp_path: Path
) -> None:
    clients = "".join(each.certificate.decode() for each in line.all)
    server = appliance(tmp_path, line.all[3], line.chain(), clients)
    client = agent_context(line.all[3].certificate.decode())
    certificate = line.all[number].issue_agent(NODE.certificate_request().encode(), NODE.id, NOW)
    file = tmp_path / "node.pem"
    file.write_bytes(certificate + NODE.key_pem)
    client.load_cert_chain(file)
    seen, _ = shaken_hands(server, client)
    assert seen is not None
    assert issuer_id_of(x509.load_der_x509_certificate(seen)) == line.all[number].key_id
    assert key_id_of(line.all[number].certificate.decode()) == line.all[number].key_id


def test_a_node_of_an_authority_that_is_not_known_is_turned_away(
    line: Line, tmp_path: Path
) -> None:
    """Its name is the same, and it may claim any key identifier that it likes."""
    foreign = Authority.create("Cairn cluster x", NOW)
    server = appliance(tmp_path, line.all[3], line.chain(), line.all[3].certificate.decode())
    client = agent_context(line.all[3].certificate.decode())
    certificate = foreign.issue_agent(NODE.certificate_request().encode(), NODE.id, NOW)
    file = tmp_path / "node.pem"
    file.write_bytes(certificate + NODE.key_pem)
    client.load_cert_chain(file)
    with pytest.raises(ssl.SSLError):
        shaken_hands(server, client)


def test_a_bundle_falls_into_its_certificates(line: Line) -> None:
    pems = [each.certificate.decode() for each in line.all]
    assert split_pem("".join(pems)) == pems
    assert split_pem("no certificate") == []
