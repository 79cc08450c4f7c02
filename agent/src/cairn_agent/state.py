"""What the agent keeps on disk: identity, netmap, how long it has been on its own."""

from __future__ import annotations

import base64
import binascii
import logging
from pathlib import Path

import msgspec

from cairn_agent.errors import StateUnusable
from cairn_agent.files import make_directory, quarantine, read_file, remove_file, write_whole
from cairn_agent.identity import SCHEMA, Identity, Keys

log = logging.getLogger(__name__)


_RESTORE = (
    "put it back from a backup, or give this node up with `cairn-agent leave --force` "
    "and join again with a new token"
)


class Standing(msgspec.Struct, frozen=True):
    """What a restart must not forget and no appliance can tell."""

    offline_s: float = 0.0  # CLOCK_BOOTTIME seconds without an appliance, added up
    behind_nat: bool = False  # as the appliance last saw it


class Attempt(msgspec.Struct, frozen=True):
    """A join whose answer has not come: the token may count as used by these keys."""

    token_id: str
    keys: Keys


class Recent(msgspec.Struct, frozen=True):
    """The peers with a session of late, to be warmed at start (rule 14)."""

    peers: list[str] = []


class StateDir:
    """The state directory; every write is atomic, every file 0600."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._identity = path / "identity.json"
        self._netmap = path / "netmap.jsonl"
        self._standing = path / "standing.json"
        self._attempt = path / "joining.json"
        self._first_boot = path / "first-boot.token"

    @property
    def lock(self) -> Path:
        """The lock of the one running agent."""
        return self.path / "agent.lock"

    @property
    def join_lock(self) -> Path:
        """The lock of the one command that changes the identity."""
        return self.path / "join.lock"

    def prepare(self) -> None:
        """Make the directory where it is missing."""
        make_directory(self.path)

    def identity(self) -> Identity | None:
        """Return the identity, None before `join`; raise StateUnusable where it is damaged.

        It is never thrown away by itself: it can't be had again.
        """
        octets = read_file(self._identity)
        if octets is None:
            return None
        try:
            identity = msgspec.json.decode(octets, type=Identity)
        except msgspec.MsgspecError as error:
            raise StateUnusable(
                f"the identity file {self._identity} is damaged: {error}",
                _RESTORE,
            ) from error
        if not all(map(_is_key, (identity.map_key, identity.keys.data_key))):
            raise StateUnusable(
                f"the identity file {self._identity} is damaged: a key in it is none", _RESTORE
            )
        if identity.schema > SCHEMA:
            raise StateUnusable(
                f"the identity file {self._identity} was written by a newer agent",
                "install that version again",
            )
        return identity

    def keep_identity(self, identity: Identity) -> None:
        """Write the identity."""
        self.prepare()
        write_whole(self._identity, msgspec.json.encode(identity))

    def forget(self) -> None:
        """Remove everything that belongs to the identity, the identity last."""
        self.forget_attempt()
        self.forget_membership()
        remove_file(self._identity)

    def forget_membership(self) -> None:
        """Remove what is known beside the identity."""
        for path in (self._netmap, self._standing):
            remove_file(path)

    def attempted(self, token_id: str) -> Keys | None:
        """Return the keys that this token was shown with, if its answer was lost."""
        octets = read_file(self._attempt)
        try:
            attempt = msgspec.json.decode(octets or b"null", type=Attempt | None)
        except msgspec.MsgspecError:
            return None  # cut short: the token was not shown with what it would hold
        return attempt.keys if attempt and attempt.token_id == token_id else None

    def keep_attempt(self, token_id: str, keys: Keys) -> None:
        """Write down the keys before the token is shown with them."""
        write_whole(self._attempt, msgspec.json.encode(Attempt(token_id, keys)))

    def forget_attempt(self) -> None:
        """Remove them: the answer has come."""
        remove_file(self._attempt)

    def first_boot_token(self) -> str:
        """Return the token that a sealed image joins with when it first boots, or nothing."""
        return (read_file(self._first_boot) or b"").decode(errors="replace").strip()

    def keep_first_boot_token(self, token: str) -> None:
        """Write it."""
        write_whole(self._first_boot, token.encode())

    def forget_first_boot_token(self) -> None:
        """Remove it: no machine needs it twice."""
        remove_file(self._first_boot)

    def netmap(self) -> bytes | None:
        """Return the netmap as it was kept."""
        return read_file(self._netmap)

    def keep_netmap(self, octets: bytes) -> None:
        """Write the netmap."""
        write_whole(self._netmap, octets)

    def forget_netmap(self) -> None:
        """Remove the netmap."""
        remove_file(self._netmap)

    def set_netmap_aside(self, reason: str) -> None:
        """Move a netmap that can't be used away; the next one comes from an appliance."""
        aside = quarantine(self._netmap)
        log.warning("kept netmap is damaged and was moved aside reason=%s to=%s", reason, aside)

    def standing(self) -> Standing:
        """Return what was kept; a damaged file is moved aside."""
        octets = read_file(self._standing)
        if octets is None:
            return Standing()
        try:
            return msgspec.json.decode(octets, type=Standing)
        except msgspec.MsgspecError:
            aside = quarantine(self._standing)
            log.warning("damaged file was moved aside to=%s", aside)
            return Standing()

    def keep_standing(self, standing: Standing) -> None:
        """Write it."""
        write_whole(self._standing, msgspec.json.encode(standing))


class RuntimeDir:
    """The runtime directory: what a reboot may forget."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._recent = path / "recent-peers.json"

    def prepare(self) -> None:
        """Make the directory where it is missing."""
        make_directory(self.path)

    def recent(self) -> frozenset[str]:
        """Return the peers to warm; none where the file is missing or damaged."""
        octets = read_file(self._recent)
        if octets is None:
            return frozenset()
        try:
            return frozenset(msgspec.json.decode(octets, type=Recent).peers)
        except msgspec.MsgspecError:
            remove_file(self._recent)
            return frozenset()

    def forget(self) -> None:
        """Remove what it holds of the peers."""
        remove_file(self._recent)

    def keep_recent(self, peers: frozenset[str]) -> None:
        """Write them."""
        write_whole(self._recent, msgspec.json.encode(Recent(sorted(peers))))


def _is_key(text: str) -> bool:
    """Return whether this is the base64 of a key's 32 octets."""
    try:
        return len(base64.b64decode(text, validate=True)) == 32
    except (binascii.Error, ValueError):
        return False
