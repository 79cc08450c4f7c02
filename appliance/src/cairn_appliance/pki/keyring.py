"""The cluster's keys as they are now, opened; in memory only.

The store has them sealed: at first as two secrets, and from their first replacement on in one
value with those that follow and those that were (domain/trust.py). A keyring follows that.
"""

from __future__ import annotations

import base64
import binascii

import msgspec

from cairn_appliance.domain.trust import Authorities, MapKeys, SealedKey, Trust
from cairn_appliance.pki.authority import Authority, KeyPair, key_id_of, pin_of
from cairn_appliance.pki.errors import PkiError
from cairn_appliance.pki.map_key import MapKey
from cairn_appliance.pki.sealing import Sealer
from cairn_appliance.store import keys
from cairn_appliance.store.port import Put

SECRET_CA = keys.cluster_secret("ca")
SECRET_MAP_KEY = keys.cluster_secret("map_key")


class _SealedPair(msgspec.Struct, frozen=True):
    certificate: str
    private_key: str


class Keyring:
    """The authority that issues and the key that signs netmaps, with whom else to believe."""

    def __init__(self, sealer: Sealer, authority: Authority, map_key: MapKey) -> None:
        self._sealer = sealer
        self.authority = authority
        self.map_key = map_key
        self.trust: Trust | None = None  # None: nothing was ever replaced
        self._note()

    @classmethod
    def of_secrets(cls, sealer: Sealer, ca: bytes, map_key: bytes) -> Keyring:
        """Return the keyring of a cluster whose keys were never replaced; raise PkiError."""
        try:
            pair = msgspec.json.decode(sealer.open(SECRET_CA, ca), type=_SealedPair)
        except msgspec.MsgspecError as error:
            raise PkiError(f"the authority can't be read: {error}") from error
        authority = Authority.load(KeyPair(pair.certificate.encode(), pair.private_key.encode()))
        return cls(sealer, authority, MapKey.from_octets(sealer.open(SECRET_MAP_KEY, map_key)))

    @classmethod
    def of_trust(cls, sealer: Sealer, trust: Trust) -> Keyring:
        """Return the keyring of a cluster whose keys were; raise PkiError."""
        authority = open_authority(sealer, trust.authorities.issuer)
        ring = cls(sealer, authority, open_map_key(sealer, trust.map_keys.current))
        ring.take(trust)
        return ring

    def take(self, trust: Trust) -> None:
        """Follow the store; raise PkiError and stay as it is."""
        issuer, current = trust.authorities.issuer, trust.map_keys.current
        authority, map_key = self.authority, self.map_key
        if issuer.public.encode() != authority.certificate:
            authority = open_authority(self._sealer, issuer)
        if current.public != map_key.public:
            map_key = open_map_key(self._sealer, current)
        self.authority, self.map_key, self.trust = authority, map_key, trust
        self._note()

    def sign(self, octets: bytes) -> bytes:
        """Sign by the map key."""
        return self.map_key.sign(octets)

    def as_trust(self) -> Trust:
        """Return what the store has of it, or would have if anything had been replaced."""
        if self.trust is not None:
            return self.trust
        return Trust(
            MapKeys(seal_map_key(self._sealer, self.map_key)),
            Authorities(seal_authority(self._sealer, self.authority)),
        )

    @property
    def believed(self) -> str:
        """The authorities that nodes trust, PEM, the issuer first."""
        return "".join(self._believed)

    @property
    def chain(self) -> str:
        """What an appliance shows after its certificate, PEM.

        First each authority's key signed by the one before, for who knows only an old one;
        then the authorities themselves, for who knows only the fingerprint of one.
        """
        crosses = self.trust.authorities.crosses if self.trust else ()
        return "".join((*crosses, *self._believed, *self._retired))

    @property
    def clients(self) -> str:
        """The authorities whose certificates say who a client is, PEM."""
        return "".join((*self._believed, *self._retired))

    def is_believed(self, issuer: str) -> bool:
        """True for the key identifier of an authority whose certificates are good."""
        return issuer in self._believed_ids

    def is_retired(self, issuer: str) -> bool:
        """True for one whose certificates were good: they say whose key it is, no more."""
        return issuer in self._retired_ids

    def is_pin_good(self, pin: str) -> bool:
        """True for the pin of an authority that is believed; "" is that of the very first."""
        return pin in self._believed_pins or (not pin and not self._retired)

    def _note(self) -> None:
        authorities = self.trust.authorities if self.trust else None
        own = self.authority.certificate.decode()
        self._believed = authorities.believed if authorities else (own,)
        retired = authorities.retired if authorities else ()
        self._retired = tuple(each.certificate for each in retired)
        self._believed_ids = frozenset(map(key_id_of, self._believed))
        self._believed_pins = frozenset(map(pin_of, self._believed))
        self._retired_ids = frozenset(map(key_id_of, self._retired))


def as_secrets(sealer: Sealer, authority: Authority, map_key: MapKey) -> list[Put]:
    """Return the writes of the two secrets, which is all that older appliances know of."""
    pair = _SealedPair(authority.certificate.decode(), authority.private_key.decode())
    return [
        Put(SECRET_CA, sealer.seal(SECRET_CA, msgspec.json.encode(pair))),
        Put(SECRET_MAP_KEY, sealer.seal(SECRET_MAP_KEY, map_key.to_octets())),
    ]


def seal_authority(sealer: Sealer, authority: Authority) -> SealedKey:
    """Return an authority as the store has it."""
    certificate = authority.certificate.decode()
    sealed = sealer.seal(f"trust/ca/{authority.pin}", authority.private_key)
    return SealedKey(certificate, base64.b64encode(sealed).decode())


def open_authority(sealer: Sealer, sealed: SealedKey) -> Authority:
    """Return the authority; raise PkiError."""
    key = sealer.open(f"trust/ca/{pin_of(sealed.public)}", _octets(sealed.sealed))
    return Authority.load(KeyPair(sealed.public.encode(), key))


def seal_map_key(sealer: Sealer, key: MapKey) -> SealedKey:
    """Return a map key as the store has it."""
    sealed = sealer.seal(f"trust/map-key/{key.public}", key.to_octets())
    return SealedKey(key.public, base64.b64encode(sealed).decode())


def open_map_key(sealer: Sealer, sealed: SealedKey) -> MapKey:
    """Return the map key; raise PkiError."""
    octets = sealer.open(f"trust/map-key/{sealed.public}", _octets(sealed.sealed))
    key = MapKey.from_octets(octets)
    if key.public != sealed.public:
        raise PkiError("the map key's private and public parts don't belong together")
    return key


def _octets(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise PkiError("a sealed key is not base64") from error
