"""A seed is understood as a whole or refused with the place that is wrong."""

from __future__ import annotations

import pytest
from cairn_appliance.domain import joining
from cairn_appliance.image import seed, system
from cairn_appliance.image.seed import SeedError
from cairn_appliance.services.passwords import hash_password
from hypothesis import given
from hypothesis import strategies as st

HASH = hash_password("a password for tests, long enough")
JOIN = joining.encode(joining.JoinString(("192.0.2.10:443",), "a" * 64, "1", "secret-of-join"))
NETWORK = """[network]
mac = "52:54:00:12:34:56"
addresses = ["192.0.2.10/24", "2001:db8::10/64"]
gateways = ["192.0.2.1", "fe80::1"]
dns = ["192.0.2.53"]
ntp = ["ntp.example"]
"""
CREATE = f'[cluster]\naction = "create"\nadmin_password_hash = "{HASH}"\n'


def text(*parts: str, head: str = "schema = 1\n") -> str:
    return "#cairn-appliance\n" + head + "\n".join(parts)


def test_a_whole_seed_is_read() -> None:
    read = seed.parse(text(NETWORK, CREATE, head='schema = 1\nhostname = "cairn-1"\n'))
    assert read.hostname == "cairn-1"
    assert read.network.hosts() == ["192.0.2.10", "2001:db8::10"]
    assert read.cluster is not None
    settings = seed.settings_for(read.cluster, read.network.hosts())
    assert settings.addresses == ["192.0.2.10", "2001:db8::10"]
    assert settings.ops_port == 443 and settings.agent_port == 8002


def test_a_seed_may_say_no_more_than_that_it_is_one() -> None:
    read = seed.parse(text())
    assert read.cluster is None and read.system.hostname == "cairn"


def test_a_seed_that_joins_is_read_and_its_secrets_are_in_no_repr() -> None:
    read = seed.parse(text(f'[cluster]\naction = "join"\njoin_string = "{JOIN}"\n'))
    assert read.cluster is not None and read.cluster.join_string == JOIN
    assert JOIN not in repr(read) and HASH not in repr(seed.parse(text(CREATE)))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("#cloud-config\nhostname: a\n", "cloud-init's language"),
        ("", "first line is not #cairn-appliance"),
        ("#cairn-appliance\n", "schema"),
        ("#cairn-appliance\nschema = 2\n", "schema"),
        ("#cairn-appliance\nschema = 1\nhostname\n", "at line 3"),
        (text(head='schema = 1\nhostnam = "a"\n'), "hostnam"),
        (text(head='schema = 1\nhostname = "a b"\n'), "hostname = 'a b'"),
        (text(head='schema = 1\nhostname = "-a"\n'), "hostname"),
        (text('[network]\naddresses = ["192.0.2.1"]\n'), "no address with a prefix length"),
        (text('[network]\naddresses = ["x/24"]\n'), "'x/24'"),
        (text('[network]\nmac = "52-54"\n'), "network.mac"),
        (text('[network]\ngateways = ["192.0.2.1"]\n'), "without network.addresses"),
        (text('[network]\naddresses = ["192.0.2.2/24"]\ngateways = ["198.51.100.1"]\n'), "in no"),
        (text('[network]\ndns = ["a"]\n'), "network.dns"),
        (text('[network]\nntp = ["a\\nb"]\n'), "network.ntp"),
        (text('[cluster]\naction = "grow"\n'), "$.cluster.action"),
        (text('[cluster]\naction = "create"\n'), "without cluster.admin_password_hash"),
        (text('[cluster]\naction = "join"\n'), "without cluster.join_string"),
        (text(CREATE + f'join_string = "{JOIN}"\n'), "does not go with"),
        (text('[cluster]\naction = "join"\njoin_string = "cairn-join1.abcdefgh"\n'), "damaged"),
        (text('[cluster]\naction="create"\nadmin_password_hash = "plain"\n'), "no argon2 hash"),
        (text(CREATE.replace("argon2id", "argon2i")), "not of the kind argon2id"),
        (text(CREATE.replace("m=65536", "m=9999999")), "costs more"),
        (text(CREATE + 'addresses = ["a b"]\n'), "not an address"),
        (text(CREATE + 'cluster_address = "name"\n'), "no IP address"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_place_and_a_remedy(given: str, told: str) -> None:
    with pytest.raises(SeedError) as caught:
        seed.parse(given)
    assert told in caught.value.cause and caught.value.remedy
    assert HASH not in caught.value.cause and JOIN not in caught.value.cause


@given(st.text(max_size=200))
def test_whatever_is_on_a_medium_it_is_read_or_refused(rest: str) -> None:
    try:
        seed.parse("#cairn-appliance\n" + rest)
    except SeedError as error:
        assert error.cause


def test_the_network_is_told_to_systemd() -> None:
    unit = system.network_unit(seed.parse(text(NETWORK)).network)
    assert "MACAddress=52:54:00:12:34:56\n" in unit
    assert "Address=192.0.2.10/24\nAddress=2001:db8::10/64\n" in unit
    assert "Gateway=192.0.2.1\nGateway=fe80::1\nIPv6AcceptRA=no\n" in unit
    assert "DHCP" not in unit
    assert system.time_unit(seed.parse(text(NETWORK)).network) == "[Time]\nNTP=ntp.example\n"
    plain = seed.Network()
    assert "DHCP=yes" in system.network_unit(plain) and system.time_unit(plain) == ""
