"""Certificate authorities: the cluster's, for agents and APIs, and etcd's own.

Pure: keys and certificates in, certificates out. A node is its ID in the subject's CN;
nothing is ever identified by a certificate's fingerprint, since an ECDSA signature has two
valid forms and the fingerprint changes with it.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cairn_appliance.pki.errors import PkiError, RequestRefused
from cairn_appliance.pki.private_keys import new_p256, p256_from_pem, p256_to_pem

Purpose = Literal["client", "server", "peer"]

AUTHORITY_LIFE = timedelta(days=20 * 365)
AGENT_LIFE_DAYS = 30
SERVER_LIFE_DAYS = 365
BACKDATE = timedelta(hours=1)  # replicas' clocks may differ by this much
_REQUEST_MAX_OCTETS = 4096  # ours have about 400
_PEM_REQUEST = re.compile(
    rb"\s*-----BEGIN CERTIFICATE REQUEST-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE REQUEST-----\s*"
)
_PEM_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----\n?")
_UNPARSABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
_USAGES: dict[Purpose, list[x509.ObjectIdentifier]] = {
    "client": [ExtendedKeyUsageOID.CLIENT_AUTH],
    "server": [ExtendedKeyUsageOID.SERVER_AUTH],
    # etcd's peers connect both ways; its gRPC gateway is a client of its own server.
    "peer": [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH],
}


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate with its private key, both PEM."""

    certificate: bytes
    private_key: bytes


class Authority:
    """A certificate authority that can sign."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        if certificate.public_key() != key.public_key():
            raise PkiError("the authority's certificate and private key don't belong together")
        self._certificate = certificate
        self._key = key

    @classmethod
    def create(cls, name: str, now: datetime) -> Authority:
        """Return a new authority (P-256) that signs itself; it may have no authority below."""
        key = new_p256()
        subject = _name(name)
        builder = _builder(subject, subject, key.public_key(), now, AUTHORITY_LIFE)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        builder = builder.add_extension(_key_usage(is_authority=True), True)
        return cls(builder.sign(key, hashes.SHA256()), key)

    @classmethod
    def load(cls, pair: KeyPair) -> Authority:
        """Return the authority; raise PkiError."""
        try:
            certificate = x509.load_pem_x509_certificate(pair.certificate)
        except ValueError as error:
            raise PkiError("not a certificate in PEM") from error
        return cls(certificate, p256_from_pem(pair.private_key))

    @property
    def certificate(self) -> bytes:
        """The certificate, PEM."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def private_key(self) -> bytes:
        """The private key, PEM; seal it before it is written anywhere."""
        return p256_to_pem(self._key)

    @property
    def pin(self) -> str:
        """Hex SHA-256 of the certificate (DER): what enrolment tokens carry."""
        der = self._certificate.public_bytes(serialization.Encoding.DER)
        return hashlib.sha256(der).hexdigest()

    @property
    def key_id(self) -> str:
        """Hex key identifier, as in the certificates that it signs."""
        return x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()).digest.hex()

    @property
    def name(self) -> str:
        """The CN of its subject."""
        return str(self._certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)

    def successor(self, now: datetime) -> Authority:
        """Return a new authority of the same name.

        The name is the same so that its key, signed by this one, is "self-issued" (RFC 5280
        6.1): such a certificate counts for no path length, of which this one allows none.
        """
        return Authority.create(self.name, now)

    def cross(self, following: Authority, now: datetime) -> bytes:
        """Return the successor's key signed by this authority (PEM).

        Who believes this one only comes to believe the successor by it.
        """
        certificate = following._certificate
        end = min(certificate.not_valid_after_utc, self._certificate.not_valid_after_utc)
        key = certificate.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        builder = _builder(certificate.subject, self._certificate.subject, key, now, end - now)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        builder = builder.add_extension(_key_usage(is_authority=True), True)
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), False
        )
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def issue_agent(
        self, request_pem: bytes, node_id: str, now: datetime, days: float = AGENT_LIFE_DAYS
    ) -> bytes:
        """Return a client certificate (PEM) with CN = node ID; raise RequestRefused.

        Only the public key is taken from the request.
        """
        public_key = checked_request(request_pem, node_id)
        return self._issue(node_id, public_key, "client", (), now, days)

    def issue_pair(
        self,
        name: str,
        purpose: Purpose,
        addresses: Sequence[str],
        now: datetime,
        days: int = SERVER_LIFE_DAYS,
    ) -> KeyPair:
        """Return a new key with a certificate for the addresses (IP or DNS name, no port)."""
        key = new_p256()
        certificate = self._issue(name, key.public_key(), purpose, addresses, now, days)
        return KeyPair(certificate, p256_to_pem(key))

    def _issue(
        self,
        name: str,
        public_key: ec.EllipticCurvePublicKey,
        purpose: Purpose,
        addresses: Sequence[str],
        now: datetime,
        days: float,
    ) -> bytes:
        issuer = self._certificate.subject
        life = timedelta(days=days)
        builder = _builder(_name(name), issuer, public_key, now, life)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
        builder = builder.add_extension(_key_usage(is_authority=False), True)
        builder = builder.add_extension(x509.ExtendedKeyUsage(_USAGES[purpose]), False)
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), False
        )
        if addresses:
            names = [_general_name(address) for address in dict.fromkeys(addresses)]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), False)
        signed = builder.sign(self._key, hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.PEM)


def checked_request(pem: bytes, node_id: str) -> ec.EllipticCurvePublicKey:
    """Return the public key of an agent's request; raise RequestRefused.

    Accepted: one PEM block of at most 4096 octets, P-256, signed by its own key with
    SHA-256, the subject exactly one CN that is the node ID, and nothing else asked for.
    """
    if len(pem) > _REQUEST_MAX_OCTETS:
        raise RequestRefused(f"the request has more than {_REQUEST_MAX_OCTETS} octets")
    if not _PEM_REQUEST.fullmatch(pem):
        raise RequestRefused("the request is not one PEM block of a certificate request")
    try:
        return _checked(x509.load_pem_x509_csr(pem), node_id)
    except _UNPARSABLE as error:  # each part of a request is parsed when it is first looked at
        raise RequestRefused("the request can't be parsed") from error


def key_id_of(pem: str) -> str:
    """Return the hex key identifier of an authority's certificate; raise PkiError."""
    certificate = _parsed(pem)
    return x509.SubjectKeyIdentifier.from_public_key(certificate.public_key()).digest.hex()


def pin_of(pem: str) -> str:
    """Return the hex SHA-256 of a certificate (DER); raise PkiError."""
    return hashlib.sha256(_parsed(pem).public_bytes(serialization.Encoding.DER)).hexdigest()


def issuer_id_of(certificate: x509.Certificate) -> str:
    """Return the hex key identifier of the authority that signed a certificate."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    except x509.ExtensionNotFound:
        return ""
    return (found.key_identifier or b"").hex()


def split_pem(text: str) -> list[str]:
    """Return the certificates of a PEM bundle, each on its own."""
    return _PEM_CERTIFICATE.findall(text)


def issued_by(pem: bytes, authority: Authority) -> bool:
    """Return whether an authority signed a certificate, by the identifier of its key."""
    try:
        return issuer_id_of(x509.load_pem_x509_certificate(pem)) == authority.key_id
    except ValueError:
        return False


def _parsed(pem: str) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem.encode())
    except ValueError as error:
        raise PkiError("not a certificate in PEM") from error


def is_past_half_life(certificate_pem: bytes, now: datetime) -> bool:
    """Return whether it is time to renew a certificate."""
    certificate = x509.load_pem_x509_certificate(certificate_pem)
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return now >= begin + (end - begin) / 2


def utc_now() -> datetime:
    """Return the time of now for certificates; callers pass it in."""
    return datetime.now(UTC)


def _checked(request: x509.CertificateSigningRequest, node_id: str) -> ec.EllipticCurvePublicKey:
    key = request.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise RequestRefused("the key of the request is not ECDSA P-256")
    if not request.is_signature_valid or not isinstance(
        request.signature_hash_algorithm, hashes.SHA256
    ):
        raise RequestRefused("the request is not signed by its own key with SHA-256")
    subject = list(request.subject)
    if len(subject) != 1 or subject[0].oid != NameOID.COMMON_NAME or subject[0].value != node_id:
        raise RequestRefused("the subject of the request is not the node ID alone")
    if list(request.attributes) or list(request.extensions):
        raise RequestRefused("the request asks for extensions or attributes")
    return key


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    now: datetime,
    life: timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - min(BACKDATE, life / 10))
        .not_valid_after(now + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), False)
    )


def _key_usage(*, is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_authority,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _general_name(address: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(address))
    except ValueError:
        return x509.DNSName(address)
