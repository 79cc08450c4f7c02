"""What a hypervisor hands over is a seed like any other, or refused with its cause."""

from __future__ import annotations

from xml.sax.saxutils import quoteattr

import pytest
from cairn_appliance.image import ovf
from cairn_appliance.image.seed import SeedError
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.appliance.image.test_seed import HASH, JOIN


def environment(**properties: str) -> bytes:
    """As vSphere writes it: among properties of others, and with a section of its own."""
    rows = "".join(
        f'<Property oe:key="{key.replace("__", ".")}" oe:value={quoteattr(value)}/>'
        for key, value in properties.items()
    )
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<Environment xmlns="http://schemas.dmtf.org/ovf/environment/1"
 xmlns:oe="http://schemas.dmtf.org/ovf/environment/1" xmlns:ve="http://www.vmware.com/schema/ovfenv"
 oe:id="" ve:vCenterId="vm-1">
<PlatformSection><Kind>VMware ESXi</Kind></PlatformSection>
<PropertySection>{rows}<Property oe:key="other.hostname" oe:value="x y"/></PropertySection>
<ve:EthernetAdapterSection><ve:Adapter ve:mac="00:50:56:00:00:01"/></ve:EthernetAdapterSection>
</Environment>""".encode()


def test_all_fields_make_a_seed() -> None:
    read = ovf.parse(
        environment(
            cairn__hostname="cairn-1",
            cairn__mac="52:54:00:12:34:56",
            cairn__addresses="192.0.2.10/24, 2001:db8::10/64",
            cairn__gateways="192.0.2.1",
            cairn__dns="192.0.2.53 192.0.2.54",
            cairn__ntp="ntp.example",
            cairn__action="create",
            cairn__admin_password_hash=HASH,
            cairn__node_addresses="cairn.example.com,192.0.2.10",
            cairn__cluster_address="192.0.2.10",
            cairn__join_string="",
        )
    )
    assert read is not None and read.cluster is not None
    assert read.hostname == "cairn-1"
    assert read.network.hosts() == ["192.0.2.10", "2001:db8::10"]
    assert read.network.dns == ["192.0.2.53", "192.0.2.54"]
    assert read.cluster.admin_password_hash == HASH
    assert read.cluster.addresses == ["cairn.example.com", "192.0.2.10"]


def test_a_join_string_is_read() -> None:
    read = ovf.parse(environment(cairn__action="join", cairn__join_string=JOIN))
    assert read is not None and read.cluster is not None and read.cluster.join_string == JOIN


def test_what_nobody_filled_in_is_no_seed() -> None:
    assert ovf.parse(environment(cairn__hostname="", cairn__action=" ")) is None
    assert ovf.parse(environment()) is None


@pytest.mark.parametrize(
    ("given_", "told"),
    [
        (environment(cairn__hostname="a b"), "hostname"),
        (environment(cairn__host="a"), "cairn.host is none of ours"),
        (environment(cairn__action="make"), "action"),
        (environment(cairn__action="create"), "without cluster.admin_password_hash"),
        (environment(cairn__addresses="192.0.2.10"), "with a prefix length"),
        (environment(cairn__addresses="192.0.2.10/24,"), "network.addresses"),
        (b"", "no XML"),
        (b"<a>", "no XML"),
    ],
)
def test_what_cannot_be_meant_is_refused(given_: bytes, told: str) -> None:
    with pytest.raises(SeedError, match=told) as caught:
        ovf.parse(given_)
    assert "user-data" not in caught.value.remedy  # there is no such file here


def test_nothing_grows_and_nothing_is_fetched() -> None:
    """Entities need a DOCTYPE, and that is refused before one is read."""
    bomb = b'<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;&b;">]><a>&c;</a>'
    outside = b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>'
    for each in (bomb, outside):
        with pytest.raises(SeedError, match="DOCTYPE"):
            ovf.parse(each)


@given(st.binary(max_size=400))
def test_no_octets_raise_anything_else(octets: bytes) -> None:
    try:
        ovf.parse(octets)
    except SeedError as error:
        assert error.cause and error.remedy


def test_the_ova_asks_for_what_is_read() -> None:
    from images.appliance import ova

    descriptor = ova.descriptor_of("a.vmdk", 1, "0.1.0-1")
    for key in ovf.FIELDS:
        assert f'ovf:key="{key}"' in descriptor
