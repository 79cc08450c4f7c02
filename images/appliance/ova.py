"""The OVA: the disk as streamOptimized VMDK, its descriptor (OVF 1.1) and its manifest, in one tar.

What is asked for when it is deployed are the fields of the seed; the hypervisor gives them to the
machine on a CD (transport "iso"), which `cairn_appliance.image.ovf` reads at the first boot.
"""

from __future__ import annotations

import io
import re
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from cairn_appliance.image import ovf

from images.appliance.disk import SECTOR, WORK
from images.building import epoch, run, sha256

GIB = 1 << 30
CAPACITY_GIB = 20  # /var takes what is beyond the image's own size
_CPUS, _MEMORY_MIB = 2, 4096
_NETWORK = "Cairn"
_STREAMED = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"


@dataclass(frozen=True, slots=True)
class Property:
    """One field that is asked for."""

    label: str
    about: str
    is_secret: bool = False
    choices: tuple[str, ...] = ()


PROPERTIES = {
    "hostname": Property("Host name", "a to z, 0 to 9 and - inside; cairn unless given"),
    "mac": Property("MAC address", "Which interface is set up; all wired ones unless given"),
    "addresses": Property(
        "Addresses", "With prefix length, separated by commas; by DHCP unless given"
    ),
    "gateways": Property("Gateways", "Separated by commas; in the networks of the addresses"),
    "dns": Property("DNS servers", "Addresses, separated by commas"),
    "ntp": Property("Time servers", "Names or addresses, separated by commas"),
    "action": Property(
        "Cluster",
        "Make a new one or join one; neither: the machine waits",
        choices=("create", "join"),
    ),
    "admin_password_hash": Property(
        "Hash of the admin's password",
        "To create: as printed by cairn-appliance hash-password",
        is_secret=True,
    ),
    "join_string": Property(
        "Join string", "To join: as printed by cairn cluster join-string", is_secret=True
    ),
    "node_addresses": Property(
        "Addresses for nodes", "HOST[:PORT], separated by commas; its own addresses unless given"
    ),
    "cluster_address": Property(
        "Address for other appliances", "Where their etcds reach this one; its own unless given"
    ),
}
assert list(PROPERTIES) == list(ovf.FIELDS)


def make(disk: Path, digest: str, version: str, ova: Path) -> None:
    """Write the OVA of a finished disk, whose SHA-256 is `digest`."""
    parts = WORK / "ova"
    shutil.rmtree(parts, ignore_errors=True)
    parts.mkdir()
    vmdk = parts / f"{ova.stem}-disk1.vmdk"
    _make_vmdk(disk, digest, vmdk)
    descriptor = descriptor_of(vmdk.name, vmdk.stat().st_size, version)
    (parts / f"{ova.stem}.ovf").write_text(descriptor, "utf-8")
    order = [parts / f"{ova.stem}.ovf", parts / f"{ova.stem}.mf", vmdk]
    order[1].write_text(
        "".join(f"SHA256({each.name})= {sha256(each)}\n" for each in (order[0], vmdk))
    )
    with tarfile.open(ova, "w", format=tarfile.USTAR_FORMAT) as archive:
        for path in order:
            _add(archive, path)


def _make_vmdk(disk: Path, digest: str, vmdk: Path) -> None:
    """Pack the disk, with room for /var; the number that qemu-img draws goes by the content."""
    larger = vmdk.with_suffix(".qcow2")
    run(
        *("qemu-img", "create", "-q", "-f", "qcow2", "-b", str(disk), "-F", "raw"),
        *(str(larger), f"{CAPACITY_GIB}G"),
    )
    run(
        *("qemu-img", "convert", "-O", "vmdk"),
        *("-o", "subformat=streamOptimized,adapter_type=lsilogic,hwversion=14"),
        *(str(larger), str(vmdk)),
    )
    larger.unlink()
    with vmdk.open("r+b") as file:
        head = file.read(64 * 1024)
        at, sectors = (int.from_bytes(head[place : place + 8], "little") for place in (28, 36))
        size = sectors * SECTOR
        text = head[at * SECTOR : at * SECTOR + size].rstrip(b"\0")
        text, changed = re.subn(rb"(?m)^CID=[0-9a-f]+$", b"CID=" + digest[:8].encode(), text)
        assert changed == 1 and len(text) <= size, text
        file.seek(at * SECTOR)
        file.write(text.ljust(size, b"\0"))


def _add(archive: tarfile.TarFile, path: Path) -> None:
    about = tarfile.TarInfo(path.name)
    about.size, about.mtime, about.mode = path.stat().st_size, epoch(), 0o644
    about.uname = about.gname = "root"
    with path.open("rb") as file:
        archive.addfile(about, file)


def descriptor_of(vmdk: str, octets: int, version: str) -> str:
    """Return the OVF descriptor."""
    text = io.StringIO()
    text.write(
        f"""<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"
 xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"
 xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData">
  <References>
    <File ovf:href={quoteattr(vmdk)} ovf:id="file1" ovf:size="{octets}"/>
  </References>
  <DiskSection>
    <Info>The disk</Info>
    <Disk ovf:capacity="{CAPACITY_GIB}" ovf:capacityAllocationUnits="byte * 2^30" ovf:diskId="disk1"
      ovf:fileRef="file1" ovf:format="{_STREAMED}"/>
  </DiskSection>
  <NetworkSection>
    <Info>The networks</Info>
    <Network ovf:name="{_NETWORK}">
      <Description>Where nodes, operators and the other appliances reach this one</Description>
    </Network>
  </NetworkSection>
  <VirtualSystem ovf:id="cairn-appliance">
    <Info>A Cairn appliance</Info>
    <Name>cairn-appliance</Name>
    <OperatingSystemSection ovf:id="96">
      <Info>The kind of system</Info>
      <Description>Debian GNU/Linux (64-bit)</Description>
    </OperatingSystemSection>
    <VirtualHardwareSection ovf:transport="iso">
      <Info>The machine</Info>
      <System>
        <vssd:ElementName>Virtual Hardware Family</vssd:ElementName>
        <vssd:InstanceID>0</vssd:InstanceID>
        <vssd:VirtualSystemIdentifier>cairn-appliance</vssd:VirtualSystemIdentifier>
        <vssd:VirtualSystemType>vmx-14</vssd:VirtualSystemType>
      </System>
"""
    )
    for item in _items():
        text.write("      <Item>\n")
        for name, value in sorted(item.items()):  # the schema has them in this order
            text.write(f"        <rasd:{name}>{escape(value)}</rasd:{name}>\n")
        text.write("      </Item>\n")
    text.write("    </VirtualHardwareSection>\n")
    text.write(_product(version))
    text.write("  </VirtualSystem>\n</Envelope>\n")
    return text.getvalue()


def _items() -> list[dict[str, str]]:
    """Return the machine's parts; ResourceType is CIM's number of a kind."""
    return [
        {
            "AllocationUnits": "hertz * 10^6",
            "ElementName": f"{_CPUS} virtual CPUs",
            "InstanceID": "1",
            "ResourceType": "3",
            "VirtualQuantity": str(_CPUS),
        },
        {
            "AllocationUnits": "byte * 2^20",
            "ElementName": f"{_MEMORY_MIB} MiB of memory",
            "InstanceID": "2",
            "ResourceType": "4",
            "VirtualQuantity": str(_MEMORY_MIB),
        },
        {
            "Address": "0",
            "ElementName": "SCSI controller",
            "InstanceID": "3",
            "ResourceSubType": "VirtualSCSI",
            "ResourceType": "6",
        },
        {"Address": "0", "ElementName": "IDE controller", "InstanceID": "4", "ResourceType": "5"},
        {
            "AddressOnParent": "0",
            "ElementName": "Disk",
            "HostResource": "ovf:/disk/disk1",
            "InstanceID": "5",
            "Parent": "3",
            "ResourceType": "17",
        },
        {
            "AddressOnParent": "0",
            "AutomaticAllocation": "false",
            "ElementName": "CD drive",
            "InstanceID": "6",
            "Parent": "4",
            "ResourceSubType": "vmware.cdrom.remotepassthrough",
            "ResourceType": "15",
        },
        {
            "AddressOnParent": "7",
            "AutomaticAllocation": "true",
            "Connection": _NETWORK,
            "ElementName": "Network adapter",
            "InstanceID": "7",
            "ResourceSubType": "VmxNet3",
            "ResourceType": "10",
        },
    ]


def _product(version: str) -> str:
    text = io.StringIO()
    text.write(
        f"""    <ProductSection ovf:class="{ovf.CLASS}">
      <Info>How the machine is set up at its first start; docs/install.md has each field</Info>
      <Product>Cairn appliance</Product>
      <Version>{escape(version)}</Version>
"""
    )
    for key, field in PROPERTIES.items():
        more = ' ovf:password="true"' if field.is_secret else ""
        if field.choices:
            values = ", ".join(f'"{each}"' for each in ("", *field.choices))
            more += f" ovf:qualifiers={quoteattr(f'ValueMap{{{values}}}')}"
        text.write(
            f'      <Property ovf:key="{key}" ovf:type="string" ovf:userConfigurable="true"'
            f' ovf:value=""{more}>\n'
            f"        <Label>{escape(field.label)}</Label>\n"
            f"        <Description>{escape(field.about)}</Description>\n      </Property>\n"
        )
    text.write("    </ProductSection>\n")
    return text.getvalue()
