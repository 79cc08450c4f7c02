"""A new cluster's files: whole or not at all, and nothing secret readable by others."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import textwrap
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cairn_appliance import settings as settings_file
from cairn_appliance.cluster import bootstrap
from cairn_appliance.cluster.errors import LocalStateUnusable
from cairn_appliance.domain.errors import Invalid
from cairn_appliance.domain.joining import Handover
from cairn_appliance.settings import Settings, SettingsError
from cairn_appliance.store import keys
from cairn_appliance.store.memory import MemoryStore
from cairn_appliance.store.port import Conflict, Put
from cryptography import x509

NOW = datetime(2026, 11, 23, tzinfo=UTC)
SETTINGS = Settings(addresses=["192.0.2.1:9000", "2001:DB8::1", "appliance.example"])


def create(data_dir: Path) -> bootstrap.Created:
    with bootstrap.drafting(data_dir) as draft:
        created = bootstrap.create(draft.path, SETTINGS, NOW)
        draft.publish()
    return created


def test_what_was_created_is_loaded(tmp_path: Path) -> None:
    created = create(tmp_path / "data")
    local = bootstrap.load(tmp_path / "data")
    assert local.cluster_id == created.cluster.id
    assert local.settings == SETTINGS
    assert local.data_dir == tmp_path / "data"
    assert created.cluster.appliances == (
        "192.0.2.1:9000", "[2001:DB8::1]:8002", "appliance.example:8002",
    )  # fmt: skip
    assert created.cluster.incarnation == 1


def test_two_clusters_share_no_key(tmp_path: Path) -> None:
    one, other = create(tmp_path / "a"), create(tmp_path / "b")
    assert one.cluster.id != other.cluster.id
    assert one.secrets.authority.pin != other.secrets.authority.pin
    assert one.secrets.map_key.public != other.secrets.map_key.public
    assert (tmp_path / "a/kek").read_bytes() != (tmp_path / "b/kek").read_bytes()


def test_secrets_are_readable_by_their_owner_alone_and_the_authoritys_key_is_on_no_disk(
    tmp_path: Path,
) -> None:
    old = os.umask(0)
    try:
        created = create(tmp_path / "data")
    finally:
        os.umask(old)
    private_key = created.secrets.authority.private_key
    for path in (tmp_path / "data").rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        if path.is_dir():
            assert mode == 0o700, path
        elif "key" in path.name or path.name == "kek":
            assert mode == 0o600, path
            assert private_key not in path.read_bytes()
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700


async def test_the_first_transaction_holds_its_secrets_sealed_and_happens_once(
    tmp_path: Path,
) -> None:
    created = create(tmp_path / "data")
    store = MemoryStore()
    await store.commit(*created.first_transaction())
    with pytest.raises(Conflict):
        await store.commit(*created.first_transaction())
    for item in (await store.list(keys.ROOT)).items:
        assert b"PRIVATE" not in item.value
        assert created.secrets.map_key.to_octets() not in item.value
    local = bootstrap.load(tmp_path / "data")
    secrets = await bootstrap.load_secrets(store, local)
    assert secrets.authority.private_key == created.secrets.authority.private_key


async def test_secrets_that_were_swapped_or_are_missing_are_told(tmp_path: Path) -> None:
    created = create(tmp_path / "data")
    local = bootstrap.load(tmp_path / "data")
    with pytest.raises(LocalStateUnusable, match="has no"):
        await bootstrap.load_secrets(MemoryStore(), local)
    store = MemoryStore()
    _, puts = created.first_transaction()
    ca, map_key = puts[1], puts[2]
    await store.commit([], [Put(ca.key, map_key.value), Put(map_key.key, ca.value)])
    with pytest.raises(LocalStateUnusable, match="another key"):
        await bootstrap.load_secrets(store, local)


def test_a_draft_that_is_not_published_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), bootstrap.drafting(tmp_path / "data") as draft:
        bootstrap.create(draft.path, SETTINGS, NOW)
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_init_left_is_removed_by_the_next_but_not_a_living_ones(
    tmp_path: Path,
) -> None:
    script = textwrap.dedent("""
        import sys, time
        from pathlib import Path
        from cairn_appliance.cluster import bootstrap
        with bootstrap.drafting(Path(sys.argv[1])) as draft:
            (draft.path / "half").write_text("made")
            print("ready", flush=True)
            time.sleep(60)
    """)
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "data")], stdout=subprocess.PIPE
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        with bootstrap.drafting(tmp_path / "data"):
            assert len(list(tmp_path.iterdir())) == 2  # the living one's is left alone
        child.send_signal(signal.SIGKILL)
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    assert not (tmp_path / "data").exists()
    assert len(list(tmp_path.iterdir())) == 1
    create(tmp_path / "data")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_directory_in_use_is_refused_and_an_empty_one_taken(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    create(tmp_path / "empty")
    before = (tmp_path / "empty/kek").read_bytes()
    with pytest.raises(LocalStateUnusable, match="in use") as caught:
        create(tmp_path / "empty")
    assert caught.value.remedy
    assert (tmp_path / "empty/kek").read_bytes() == before
    (tmp_path / "file").write_text("")
    with pytest.raises(LocalStateUnusable):
        create(tmp_path / "file")
    with pytest.raises(LocalStateUnusable):
        create(tmp_path / "file" / "below")


def test_two_inits_at_once_make_one_cluster(tmp_path: Path) -> None:
    with (
        bootstrap.drafting(tmp_path / "data") as first,
        bootstrap.drafting(tmp_path / "data") as second,
    ):
        created = bootstrap.create(first.path, SETTINGS, NOW)
        bootstrap.create(second.path, SETTINGS, NOW)
        first.publish()
        with pytest.raises(LocalStateUnusable):
            second.publish()
    assert bootstrap.load(tmp_path / "data").cluster_id == created.cluster.id
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("name", ["settings.toml", "member.json", "kek"])
@pytest.mark.parametrize("octets", [None, b"", b"\xff\x00", b"{", b"x" * 33])
def test_a_missing_or_corrupt_file_is_told_with_the_remedy(
    tmp_path: Path, name: str, octets: bytes | None
) -> None:
    create(tmp_path / "data")
    path = tmp_path / "data" / name
    if octets is None:
        path.unlink()
    else:
        path.write_bytes(octets)
    with pytest.raises((LocalStateUnusable, SettingsError)) as caught:
        bootstrap.load(tmp_path / "data")
    assert name in str(caught.value)
    assert caught.value.remedy


def test_the_apis_certificate_follows_the_addresses_and_the_time(tmp_path: Path) -> None:
    secrets = create(tmp_path / "data").secrets
    local = bootstrap.load(tmp_path / "data")
    assert _api_names(local) == {
        "192.0.2.1", "2001:db8::1", "appliance.example", "localhost", "127.0.0.1", "::1",
    }  # fmt: skip
    chain = x509.load_pem_x509_certificates(local.pki("api.pem").read_bytes())
    assert chain[-1].subject == chain[-1].issuer  # an agent that has only the pin sees its end
    assert not bootstrap.renew_api_certificate(local, secrets, NOW)
    assert bootstrap.renew_api_certificate(local, secrets, NOW + timedelta(days=200))
    text = (tmp_path / "data/settings.toml").read_text().replace("192.0.2.1", "192.0.2.2")
    (tmp_path / "data/settings.toml").write_text(text)
    moved = bootstrap.load(tmp_path / "data")
    assert bootstrap.renew_api_certificate(moved, secrets, NOW)
    assert "192.0.2.2" in _api_names(moved)


def _api_names(local: bootstrap.Local) -> set[str]:
    certificate = x509.load_pem_x509_certificate(local.pki("api.pem").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    addresses = names.get_values_for_type(x509.IPAddress)
    return {*names.get_values_for_type(x509.DNSName), *map(str, addresses)}


def adopted(directory: Path, created: bootstrap.Created, address: str) -> bootstrap.Local:
    """Make the files of an appliance that joins what `created` began."""
    directory.mkdir()
    handed = Handover(
        cluster_id=created.cluster.id,
        name="m2",
        initial_cluster="m1=https://192.0.2.1:2380,m2=https://192.0.2.2:2380",
        endpoints=("192.0.2.1:2379",),
        heartbeat_s=7.0,
        keys=bootstrap.shared_keys(bootstrap.load(directory.parent / "data")),
    )
    settings = Settings(addresses=[address], cluster_address=address)
    return bootstrap.adopt(directory, settings, handed, NOW)


def test_one_that_joins_has_the_shared_keys_and_its_own_pairs(tmp_path: Path) -> None:
    created = create(tmp_path / "data")
    local = adopted(tmp_path / "other", created, "192.0.2.2")
    bootstrap.adopt_authority(local, created.secrets, NOW)

    again = bootstrap.load(tmp_path / "other")
    assert (again.cluster_id, again.member) == (created.cluster.id, "m2")
    assert again.initial_cluster.startswith("m1=https://192.0.2.1:2380,")
    assert again.endpoints == ("127.0.0.1:2379", "192.0.2.1:2379")
    assert again.sealer.open("x", created.local.sealer.seal("x", b"secret")) == b"secret"
    for name in ("kek", "pki/ca.pem", "pki/etcd-ca.pem", "pki/etcd-ca-key.sealed"):
        assert (tmp_path / "data" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()
    for name in ("pki/api-key.pem", "pki/etcd-peer-key.pem", "pki/etcd-client-key.pem"):
        assert (tmp_path / "data" / name).read_bytes() != (tmp_path / "other" / name).read_bytes()
    certificate = x509.load_pem_x509_certificate(
        (tmp_path / "other/pki/etcd-peer.pem").read_bytes()
    )
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "192.0.2.2" in map(str, names.get_values_for_type(x509.IPAddress))


def test_keys_that_don_t_belong_together_are_refused(tmp_path: Path) -> None:
    created = create(tmp_path / "data")
    (tmp_path / "data/kek").write_bytes(bytes(32))
    with pytest.raises(Invalid, match="handed over"):
        adopted(tmp_path / "other", created, "192.0.2.2")


def test_another_cluster_address_gets_other_certificates_for_etcd(tmp_path: Path) -> None:
    create(tmp_path / "data")
    path = tmp_path / "data/settings.toml"
    assert not bootstrap.renew_etcd_certificates(bootstrap.load(tmp_path / "data"), NOW)
    path.write_text(path.read_text().replace('"127.0.0.1"', '"192.0.2.7"'))

    local = bootstrap.load(tmp_path / "data")

    assert local.settings.peer_url == "https://192.0.2.7:2380"
    assert bootstrap.renew_etcd_certificates(local, NOW)
    assert not bootstrap.renew_etcd_certificates(local, NOW)


@pytest.mark.parametrize("address", ["name.example", "0.0.0.0", "::", "224.0.0.1", "fe80::1%eth0"])
def test_a_cluster_address_that_others_can_t_reach_is_refused(address: str) -> None:
    with pytest.raises(SettingsError):
        settings_file.check(Settings(addresses=["192.0.2.1"], cluster_address=address))


def test_the_others_are_known_again_after_a_restart_and_a_damaged_list_is_none(
    tmp_path: Path,
) -> None:
    create(tmp_path / "data")
    local = bootstrap.load(tmp_path / "data")
    assert local.others() == ()
    local.keep_others(("192.0.2.2:2379", "192.0.2.3:2379"))
    assert bootstrap.load(tmp_path / "data").others() == ("192.0.2.2:2379", "192.0.2.3:2379")
    (tmp_path / "data/others.json").write_text("[")
    assert local.others() == ()
