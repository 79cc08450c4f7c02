"""The rules of a site's router: the firewall, the NAT, losses and cuts, as one nft table."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Nat = Literal["none", "masquerade", "symmetric", "full-cone"]
PORT = 8002


@dataclass(slots=True)
class Firewall:
    """What a router lets through between `lan` and `wan`.

    `closed` lets only UDP and TCP 8002 pass (new flows either way, like a security group
    with one rule for each) and answers to flows already known.
    NAT: `masquerade` keeps the port where it can, `symmetric` takes another port for each
    destination, `full-cone` maps the WAN address's UDP 8002 to `cone_host` for everyone.
    """

    closed: bool = True
    nat: Nat = "none"
    cone_host: str = ""
    loss: float = 0.0  # 0..1, of UDP datagrams in each direction
    drops: list[str] = field(default_factory=list)  # nft match expressions
    passes: list[str] = field(default_factory=list)  # the same; though it is closed

    def ruleset(self) -> str:
        """Return the whole table for `nft -f`; loading it replaces the one before."""
        return f"""
table inet lab
delete table inet lab
table inet lab {{
    chain forward {{
        type filter hook forward priority filter; policy {"drop" if self.closed else "accept"};
        {self._impairments()}
        ct state established,related accept
        {self._inbound_rule()}
        {self._passed()}
        iifname "lan" udp dport {PORT} accept
        iifname "lan" tcp dport {PORT} accept
    }}
    {self._nat_chains()}
}}
"""

    def _impairments(self) -> str:
        lines = [f"{match} counter drop" for match in self.drops]
        if self.loss:
            below = round(self.loss * 10_000)
            lines.append(f"meta l4proto udp numgen random mod 10000 < {below} counter drop")
        return "\n        ".join(lines)

    def _passed(self) -> str:
        return "\n        ".join(f"{match} accept" for match in self.passes)

    def _inbound_rule(self) -> str:
        if self.nat == "full-cone":
            return 'iifname "wan" ct status dnat accept'
        if self.nat != "none":
            return ""  # nothing new comes in through a NAT
        return f'iifname "wan" meta l4proto {{ udp, tcp }} th dport {PORT} accept'

    def _nat_chains(self) -> str:
        if self.nat == "none":
            return ""
        # fully-random picks a port for each flow: a new one for each destination
        kind = "masquerade fully-random" if self.nat == "symmetric" else "masquerade"
        chains = f"""
    chain source {{
        type nat hook postrouting priority srcnat;
        oifname "wan" {kind}
    }}"""
        if self.nat == "full-cone":
            chains += f"""
    chain destination {{
        type nat hook prerouting priority dstnat;
        iifname "wan" udp dport {PORT} dnat ip to {self.cone_host}:{PORT}
    }}"""
        return chains
