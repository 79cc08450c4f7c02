//! What a member may say: its source address, its claims in ARP and Neighbor Discovery, and
//! whether it may answer as a DHCP server or a router (docs/protocol.md 1.4 rule 10).

use std::net::{IpAddr, Ipv6Addr};

use cairn_wire::ethernet::{EtherType, Frame};
use cairn_wire::icmpv6::{Kind, Message, NdOption};
use cairn_wire::{Error, Mac, arp, ipv4, ipv6, udp};

use super::bindings::{Bindings, Owner};
use super::refused::Refused;
use super::{Member, Policy, Role};

/// A member as the sender of a frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sender<'a> {
    pub(super) who: Owner,
    pub(super) member: &'a Member,
    pub(super) bindings: &'a Bindings,
    pub(super) policy: &'a Policy,
}

impl Sender<'_> {
    /// Checks all that a frame says of its sender.
    #[inline(always)]
    pub(super) fn check(&self, frame: &Frame<'_>) -> Result<(), Refused> {
        self.check_source(frame)?;
        match frame.ethertype() {
            Some(EtherType::ARP) => self.check_arp(frame.payload()),
            Some(EtherType::IPV4) => self.check_ipv4(frame.payload()),
            Some(EtherType::IPV6) => self.check_ipv6(frame.payload()),
            _ => Ok(()),
        }
    }

    /// Checks a frame that says nothing of its sender but its source address.
    #[inline(always)]
    pub(super) fn check_source(&self, frame: &Frame<'_>) -> Result<(), Refused> {
        if !frame.source().is_station() {
            return Err(Refused::BadSource);
        }
        if !self.may_use(frame.source()) {
            return Err(Refused::ForeignSource);
        }
        Ok(())
    }

    fn check_arp(&self, octets: &[u8]) -> Result<(), Refused> {
        let packet = match arp::Packet::parse(octets) {
            Ok(packet) => packet,
            Err(Error::Invalid) => return Ok(()),
            Err(_) => return Err(Refused::Concealed),
        };
        if !self.may_use(packet.sender_mac()) {
            return Err(Refused::ForeignClaim);
        }
        self.check_claim(packet.sender_ip().into())
    }

    /// A packet that isn't IPv4, whatever its EtherType says, passes: no stack reads it.
    fn check_ipv4(&self, octets: &[u8]) -> Result<(), Refused> {
        let Ok(packet) = ipv4::Packet::parse(octets) else {
            return Ok(());
        };
        if packet.protocol() != ipv4::UDP || !packet.has_upper_header() {
            return Ok(());
        }
        self.check_udp(packet.payload(), udp::DHCPV4_CLIENT)
    }

    fn check_ipv6(&self, octets: &[u8]) -> Result<(), Refused> {
        let Ok(packet) = ipv6::Packet::parse(octets) else {
            return Ok(());
        };
        let upper = packet.upper().map_err(|_| Refused::Concealed)?;
        if !upper.has_header() {
            return Ok(());
        }
        match upper.protocol {
            ipv6::UDP => self.check_udp(upper.payload, udp::DHCPV6_CLIENT),
            ipv6::ICMPV6 => {
                let message = Message::parse(upper.payload).map_err(|_| Refused::Concealed)?;
                if !message.kind().is_discovery() {
                    return Ok(());
                }
                if upper.fragment.is_some() {
                    return Err(Refused::Concealed);
                }
                self.check_discovery(&message, packet.source())
            }
            _ => Ok(()),
        }
    }

    fn check_udp(&self, octets: &[u8], client_port: u16) -> Result<(), Refused> {
        let datagram = udp::Datagram::parse(octets).map_err(|_| Refused::Concealed)?;
        let from_server = datagram.destination() == client_port;
        if from_server && self.is_host() && !self.policy.dhcp_server_from_hosts {
            return Err(Refused::DhcpServer);
        }
        Ok(())
    }

    fn check_discovery(&self, message: &Message<'_>, source: Ipv6Addr) -> Result<(), Refused> {
        if message.kind().is_from_router() && self.is_host() && !self.policy.ra_from_hosts {
            return Err(Refused::Router);
        }
        // Unspecified in duplicate address detection and in a first router solicitation.
        self.check_claim(source.into())?;
        if let (Kind::NeighborAdvertisement, Some(target)) = (message.kind(), message.target()) {
            self.check_claim(target.into())?;
        }
        for option in message.options() {
            let claimed = match option {
                Ok(NdOption::SourceAddress(mac)) => mac,
                // In a redirect it is the next hop's, which may be any member.
                Ok(NdOption::TargetAddress(mac)) if message.kind() != Kind::Redirect => mac,
                Ok(_) => continue,
                Err(_) => return Err(Refused::Concealed),
            };
            if !self.may_use(claimed) {
                return Err(Refused::ForeignClaim);
            }
        }
        Ok(())
    }

    fn check_claim(&self, ip: IpAddr) -> Result<(), Refused> {
        if ip.is_unspecified() || self.may_claim(ip) {
            Ok(())
        } else {
            Err(Refused::ForeignClaim)
        }
    }

    fn is_host(&self) -> bool {
        self.member.role == Role::Host
    }

    /// A host uses its own addresses, a gateway any that isn't another member's.
    fn may_use(&self, mac: Mac) -> bool {
        if self.member.macs.contains(&mac) {
            return true;
        }
        let bound = self.bindings.mac(mac);
        !self.is_host() && bound.is_none_or(|owner| owner == self.who)
    }

    /// Its own addresses, and of those that nobody is bound to: link-local ones; any, for a
    /// gateway; any, where the netmap can't know them all, because members give them out or
    /// because it lists none of this kind for the member; shared ones.
    fn may_claim(&self, ip: IpAddr) -> bool {
        if self.member.ips.contains(&ip) {
            return true;
        }
        match self.bindings.ip(ip) {
            Some(owner) => owner == self.who,
            None => {
                !self.is_host()
                    || self.policy.dhcp_server_from_hosts
                    || is_link_local(ip)
                    || self.policy.shared_ips.contains(&ip)
                    || !self
                        .member
                        .ips
                        .iter()
                        .any(|own| own.is_ipv4() == ip.is_ipv4())
            }
        }
    }
}

pub(super) fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}
