"""The machine's own settings, from what is kept of them to the files that systemd reads.

The system is read-only and the same on every machine: what differs is kept in /var as one
small document and rendered into /run at each boot.
"""

from __future__ import annotations

from cairn_appliance.image.seed import Network

NETWORK_UNIT = "systemd/network/10-cairn.network"
TIME_UNIT = "systemd/timesyncd.conf.d/10-cairn.conf"


def network_unit(network: Network) -> str:
    """Return what systemd-networkd is told."""
    match = f"MACAddress={network.mac}" if network.mac else "Type=ether\nKind=!*"
    lines = ["[Match]", match, "", "[Network]"]
    if network.addresses:
        lines += [f"Address={each}" for each in network.addresses]
        lines += [f"Gateway={each}" for each in network.gateways]
        has_v6_gateway = any(":" in each for each in network.gateways)
        lines.append(f"IPv6AcceptRA={'no' if has_v6_gateway else 'yes'}")
    else:
        lines += ["DHCP=yes", "IPv6AcceptRA=yes"]
    lines += [f"DNS={each}" for each in network.dns]
    if not network.addresses:
        # The lease goes with the machine's MAC address, not with an identifier of the system.
        lines += ["", "[DHCPv4]", "ClientIdentifier=mac"]
    return "\n".join(lines) + "\n"


def time_unit(network: Network) -> str:
    """Return what systemd-timesyncd is told; empty where its own servers are good."""
    return f"[Time]\nNTP={' '.join(network.ntp)}\n" if network.ntp else ""
