"""Certificates: what an agent's request must be (BI-10), and what is issued for it."""

from __future__ import annotations

import hashlib
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cairn_appliance.pki.authority import Authority, KeyPair, checked_request, is_past_half_life
from cairn_appliance.pki.errors import PkiError, RequestRefused
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import AttributeOID, NameOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

NODE = "6f2a2c0e-6a55-4f0e-9d4b-0d7a3c1a9f11"
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
KEY = ec.derive_private_key(7, ec.SECP256R1())
AUTHORITY = Authority.create("Cairn test", NOW)


def subject(*names: str, oid: x509.ObjectIdentifier = NameOID.COMMON_NAME) -> x509.Name:
    return x509.Name([x509.NameAttribute(oid, name) for name in names])


def request(
    name: x509.Name | None = None,
    key: object = KEY,
    algorithm: object = hashes.SHA256(),
    **more: object,
) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        subject(NODE) if name is None else name
    )
    if "san" in more:
        names = x509.SubjectAlternativeName([x509.DNSName(str(more["san"]))])
        builder = builder.add_extension(names, critical=False)
    if "authority" in more:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
    if "password" in more:
        builder = builder.add_attribute(AttributeOID.CHALLENGE_PASSWORD, b"secret")
    signed = builder.sign(key, algorithm)  # type: ignore[arg-type]
    return signed.public_bytes(serialization.Encoding.PEM)


GOOD = request()


def test_the_issued_certificate_names_the_node_and_can_only_be_a_client() -> None:
    certificate = x509.load_pem_x509_certificate(AUTHORITY.issue_agent(GOOD, NODE, NOW, days=30))
    assert certificate.subject == subject(NODE)
    assert certificate.public_key() == KEY.public_key()
    assert certificate.not_valid_after_utc == NOW + timedelta(days=30)
    assert certificate.not_valid_before_utc < NOW
    extensions = certificate.extensions
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    usage = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [x509.ExtendedKeyUsageOID.CLIENT_AUTH]
    with pytest.raises(x509.ExtensionNotFound):
        extensions.get_extension_for_class(x509.SubjectAlternativeName)
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(AUTHORITY.certificate))


@pytest.mark.parametrize(
    ("pem", "reason"),
    [
        pytest.param(request(subject("another-node")), "subject", id="another node's name"),
        pytest.param(request(subject(NODE, "admin")), "subject", id="two names"),
        pytest.param(request(x509.Name([])), "subject", id="no name"),
        pytest.param(
            request(subject(NODE, oid=NameOID.ORGANIZATION_NAME)), "subject", id="not a CN"
        ),
        pytest.param(request(subject(NODE + " ")), "subject", id="a name with a space"),
        pytest.param(request(subject(NODE.upper())), "subject", id="a name in another case"),
        pytest.param(request(san="appliance.example"), "extensions", id="a DNS name"),
        pytest.param(request(authority=True), "extensions", id="wants to be an authority"),
        pytest.param(request(password=True), "attributes", id="a challenge password"),
        pytest.param(request(key=ec.generate_private_key(ec.SECP384R1())), "P-256", id="P-384"),
        pytest.param(request(key=ec.generate_private_key(ec.SECP256K1())), "P-256", id="secp256k1"),
        pytest.param(request(key=rsa.generate_private_key(65537, 2048)), "P-256", id="RSA"),
        pytest.param(
            request(key=ed25519.Ed25519PrivateKey.generate(), algorithm=None), "P-256", id="Ed25519"
        ),
        pytest.param(request(algorithm=hashes.SHA512()), "SHA-256", id="another hash"),
        pytest.param(b"", "PEM", id="nothing"),
        pytest.param(b"\x00" * 100, "PEM", id="not text"),
        pytest.param(GOOD + GOOD, "PEM", id="two requests"),
        pytest.param(b"# a comment\n" + GOOD, "PEM", id="something before it"),
        pytest.param(AUTHORITY.certificate, "PEM", id="a certificate"),
        pytest.param(GOOD + b"\n" * 4096, "4096 octets", id="too long"),
        pytest.param(request(subject(*(["x" * 60] * 40))), "octets", id="a huge subject"),
    ],
)
def test_a_request_that_no_agent_of_ours_makes_is_refused(pem: bytes, reason: str) -> None:
    with pytest.raises(RequestRefused, match=reason):
        AUTHORITY.issue_agent(pem, NODE, NOW)


def test_a_request_signed_by_another_key_is_refused() -> None:
    der = x509.load_pem_x509_csr(GOOD).public_bytes(serialization.Encoding.DER)
    point = KEY.public_key().public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )
    other = ec.derive_private_key(8, ec.SECP256R1()).public_key()
    swapped = der.replace(
        point,
        other.public_bytes(
            serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
        ),
    )
    assert swapped != der
    pem = x509.load_der_x509_csr(swapped).public_bytes(serialization.Encoding.PEM)
    with pytest.raises(RequestRefused, match="not signed by its own key"):
        checked_request(pem, NODE)


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_a_damaged_request_is_refused_or_is_still_the_same_key(data: st.DataObject) -> None:
    """Flips, cuts and insertions in the DER: nothing but RequestRefused, never another key."""
    der = bytearray(x509.load_pem_x509_csr(GOOD).public_bytes(serialization.Encoding.DER))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(der) - 1))
        kind = data.draw(st.sampled_from(["flip", "cut", "insert"]))
        if kind == "flip":
            der[place] ^= data.draw(st.integers(1, 255))
        elif kind == "cut":
            del der[place : place + data.draw(st.integers(1, 8))]
        else:
            der[place:place] = data.draw(st.binary(min_size=1, max_size=8))
        if not der:
            return
    pem = ssl.DER_cert_to_PEM_cert(bytes(der)).replace("CERTIFICATE", "CERTIFICATE REQUEST")
    try:
        assert checked_request(pem.encode(), NODE) == KEY.public_key()
    except RequestRefused:
        return


def test_an_authority_comes_back_from_its_pair_and_refuses_a_foreign_key() -> None:
    pair = KeyPair(AUTHORITY.certificate, AUTHORITY.private_key)
    again = Authority.load(pair)
    assert again.pin == AUTHORITY.pin
    again.issue_agent(GOOD, NODE, NOW)
    other = Authority.create("other", NOW)
    for wrong in (
        KeyPair(AUTHORITY.certificate, other.private_key),
        KeyPair(b"", AUTHORITY.private_key),
        KeyPair(AUTHORITY.certificate, b"-----BEGIN PRIVATE KEY-----"),
    ):
        with pytest.raises(PkiError):
            Authority.load(wrong)


def test_the_pin_is_the_sha256_of_the_certificate() -> None:
    certificate = x509.load_pem_x509_certificate(AUTHORITY.certificate)
    der = certificate.public_bytes(serialization.Encoding.DER)
    assert AUTHORITY.pin == hashlib.sha256(der).hexdigest()
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.key_cert_sign
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (constraints.ca, constraints.path_length) == (True, 0)


@pytest.mark.parametrize("name", ["192.0.2.1", "2001:db8::1", "appliance.example"])
def test_a_server_certificate_is_taken_for_its_addresses_and_for_no_other(
    name: str, tmp_path: Path
) -> None:
    pair = AUTHORITY.issue_pair("cairn-appliance", "server", [name, "localhost"], NOW)
    assert _shakes_hands(pair, name, tmp_path)
    assert _shakes_hands(pair, "localhost", tmp_path)
    assert not _shakes_hands(pair, "192.0.2.99", tmp_path)
    assert not _shakes_hands(pair, "other.example", tmp_path)


def test_a_certificate_is_renewed_from_half_of_its_life() -> None:
    pem = AUTHORITY.issue_agent(GOOD, NODE, NOW, days=30)
    assert not is_past_half_life(pem, NOW + timedelta(days=14))
    assert is_past_half_life(pem, NOW + timedelta(days=15))


def test_every_key_is_another_one() -> None:
    pairs = [AUTHORITY.issue_pair("x", "client", (), NOW) for _ in range(50)]
    assert len({pair.private_key for pair in pairs}) == 50


def _shakes_hands(pair: KeyPair, name: str, directory: Path) -> bool:
    """Do a whole TLS 1.3 handshake in memory; the client checks the name."""
    (directory / "pair.pem").write_bytes(pair.private_key + pair.certificate)
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(directory / "pair.pem")
    client_side = ssl.create_default_context(cadata=AUTHORITY.certificate.decode())
    # The certificates are of the test's date; the handshake is checked at today's.
    client_side.verify_flags |= ssl.VerifyFlags(0x200000)  # X509_V_FLAG_NO_CHECK_TIME
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = server_side.wrap_bio(to_server, to_client, server_side=True)
    client = client_side.wrap_bio(to_client, to_server, server_hostname=name)
    for _ in range(4):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError:
                return False
    return client.version() == "TLSv1.3"


def test_the_corpus_has_a_good_request() -> None:
    """Otherwise every refusal above would prove nothing."""
    assert checked_request(GOOD, NODE) == KEY.public_key()
