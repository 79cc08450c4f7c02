"""Keys, node IDs and where they are kept."""

from __future__ import annotations

import base64
import os
import stat
from pathlib import Path

import pytest
from cairn_agent import entropy, files
from cairn_agent.control.tls import node_context
from cairn_agent.errors import Environment, StateUnusable
from cairn_agent.identity import (
    Identity,
    certificate_request,
    data_public_key,
    new_keys,
)
from cairn_agent.state import RuntimeDir, Standing, StateDir
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st


def identity(**changes: object) -> Identity:
    values: dict[str, object] = {
        "keys": new_keys(),
        "name": "vm",
        "state": "approved",
        "cluster_id": "c",
        "pin": "p",
        "certificate": "x",
        "ca": "y",
        "map_key": base64.b64encode(bytes(32)).decode(),
        "appliances": ["192.0.2.1:8002"],
        "generation": 3,
    }
    return Identity(**(values | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("ca", ["no PEM", "\u0080"])
def test_a_ca_that_is_none_is_said_to_be_unusable(ca: str) -> None:
    with pytest.raises(StateUnusable, match="can't be used"):
        node_context(identity(ca=ca))


def test_two_nodes_share_nothing() -> None:
    made = [new_keys() for _ in range(50)]
    for name in ("node_id", "control_key", "data_key"):
        assert len({getattr(keys, name) for keys in made}) == 50


def test_clones_that_draw_the_same_from_the_kernel_still_differ(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rule 12: after a snapshot, getrandom and every clock may repeat; the CPU does not."""
    monkeypatch.setattr(os, "getrandom", bytes)
    for clock in ("time_ns", "monotonic_ns"):
        monkeypatch.setattr(entropy.time, clock, lambda: 1)
    monkeypatch.setattr(entropy.time, "clock_gettime_ns", lambda _: 1)
    monkeypatch.setattr(entropy, "_cycles", lambda: 1)
    if not entropy.has_cpu_generator():
        pytest.skip("this machine has no RDRAND")

    assert len({entropy.key_octets("data key") for _ in range(50)}) == 50

    monkeypatch.setattr(entropy, "_cpu_octets", bytes)
    control = {entropy.key_octets("data key") for _ in range(50)}
    assert len(control) == 1, "the test would not notice a clone"


def test_a_stuck_cpu_generator_counts_as_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some AMD parts return constants after a resume."""
    for stuck in (0xFFFF_FFFF_FFFF_FFFF, 7, None):
        monkeypatch.setattr(entropy, "_machine_function", lambda _, value=stuck: lambda: value)
        assert entropy._cpu_octets() == b""


def test_the_data_key_has_the_public_half_that_is_sent() -> None:
    keys = new_keys()
    assert len(base64.b64decode(keys.data_key)) == 32
    assert len(base64.b64decode(data_public_key(keys))) == 32
    assert data_public_key(keys) == data_public_key(keys)


def test_a_request_names_the_node_alone_and_is_the_same_each_time() -> None:
    keys = new_keys()
    request = x509.load_pem_x509_csr(certificate_request(keys).encode())
    assert request.is_signature_valid
    assert request.subject.rfc4514_string() == f"CN={keys.node_id}"
    assert list(request.extensions) == []
    public_key = request.public_key()
    assert isinstance(public_key, ec.EllipticCurvePublicKey)
    assert public_key.curve.name == "secp256r1"
    assert certificate_request(keys) == certificate_request(keys), "a random nonce may repeat"


def test_secrets_are_not_in_what_is_printed() -> None:
    one = identity()
    for secret in (one.keys.control_key, one.keys.data_key):
        assert secret not in repr(one) + str(one) + repr(one.keys)


def test_an_identity_is_kept_for_its_owner_alone(tmp_path: Path) -> None:
    state = StateDir(tmp_path / "state")
    one = identity()
    state.keep_identity(one)

    assert state.identity() == one
    path = tmp_path / "state" / "identity.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [each.name for each in path.parent.iterdir()] == ["identity.json"]


@given(st.binary(max_size=200))
def test_a_damaged_identity_is_named_and_never_removed(
    tmp_path_factory: pytest.TempPathFactory, octets: bytes
) -> None:
    state = StateDir(tmp_path_factory.mktemp("state"))
    path = state.path / "identity.json"
    path.write_bytes(octets)
    with pytest.raises(StateUnusable, match="is damaged") as error:
        state.identity()
    assert error.value.remedy
    assert path.read_bytes() == octets


@pytest.mark.parametrize("key", ["", "z", "AAAA", "ü" * 44])
def test_an_identity_with_a_key_that_is_none_is_damaged(tmp_path: Path, key: str) -> None:
    state = StateDir(tmp_path)
    state.keep_identity(identity(map_key=key))
    with pytest.raises(StateUnusable, match="is damaged"):
        state.identity()


def test_an_identity_of_a_newer_agent_is_left_alone(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    state.keep_identity(identity(schema=99))
    with pytest.raises(StateUnusable, match="newer agent"):
        state.identity()


@given(st.binary(max_size=200))
def test_a_damaged_standing_is_moved_aside(
    tmp_path_factory: pytest.TempPathFactory, octets: bytes
) -> None:
    state = StateDir(tmp_path_factory.mktemp("state"))
    (state.path / "standing.json").write_bytes(b"\xff" + octets)
    assert state.standing() == Standing()
    [aside] = state.path.glob("standing.json.corrupt-*")
    assert aside.read_bytes() == b"\xff" + octets


def test_recent_peers_that_cannot_be_read_are_none(tmp_path: Path) -> None:
    runtime = RuntimeDir(tmp_path)
    runtime.keep_recent(frozenset({"b", "a"}))
    assert runtime.recent() == {"a", "b"}
    (tmp_path / "recent-peers.json").write_text("{")
    assert runtime.recent() == frozenset()


def test_a_write_that_fails_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    files.write_whole(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StateUnusable, match="No space left") as error:
        files.write_whole(path, b"new")

    assert "free space" in error.value.remedy
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_lock_is_held_by_one(tmp_path: Path) -> None:
    path = tmp_path / "agent.lock"
    with (
        files.held_lock(path, "the agent"),
        pytest.raises(Environment, match="already running"),
        files.held_lock(path, "the agent"),
    ):
        pass
    with files.held_lock(path, "the agent"):
        pass


def test_a_link_in_the_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    """Root would give what it names to the owner of the directory."""
    other = tmp_path / "other"
    lock = tmp_path / "state" / "lock"
    lock.parent.mkdir()
    lock.symlink_to(other)

    with pytest.raises(StateUnusable), files.held_lock(lock, "the agent"):
        pass

    assert not other.exists()
