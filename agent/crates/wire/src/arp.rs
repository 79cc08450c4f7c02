//! ARP for IPv4 over Ethernet (RFC 826, RFC 5227).

use core::net::Ipv4Addr;

use crate::ethernet::EtherType;
use crate::{Error, Mac};

/// Octets of a packet for IPv4 over Ethernet.
pub const LEN: usize = 28;

const PROTOCOL_TYPE: usize = 2;
const HARDWARE_LEN: usize = 4;
const PROTOCOL_LEN: usize = 5;
const OPERATION: usize = 6;
const SENDER_MAC: usize = 8;
const SENDER_IP: usize = 14;
const TARGET_MAC: usize = 18;
const TARGET_IP: usize = 24;

/// What a packet wants; other numbers exist and are left alone.
pub const REQUEST: u16 = 1;
/// See [`REQUEST`].
pub const REPLY: u16 = 2;

/// A packet for IPv4 over Ethernet that is known to be whole.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a>(&'a [u8; LEN]);

impl<'a> Packet<'a> {
    /// Checks length and address sizes; padding may follow.
    ///
    /// The hardware type is not looked at: Linux takes IEEE 802 (6) for Ethernet (1) too.
    /// [`Error::Invalid`] is another protocol's ARP, which no IPv4 stack reads.
    pub fn parse(octets: &'a [u8]) -> Result<Self, Error> {
        let kind = octets.first_chunk::<OPERATION>().ok_or(Error::Truncated)?;
        let protocol = u16::from_be_bytes([kind[PROTOCOL_TYPE], kind[PROTOCOL_TYPE + 1]]);
        if protocol != EtherType::IPV4.0 || kind[HARDWARE_LEN] != 6 || kind[PROTOCOL_LEN] != 4 {
            return Err(Error::Invalid);
        }
        octets.first_chunk().map(Self).ok_or(Error::Truncated)
    }

    /// [`REQUEST`], [`REPLY`] or another.
    #[must_use]
    pub fn operation(&self) -> u16 {
        u16::from_be_bytes([self.0[OPERATION], self.0[OPERATION + 1]])
    }

    /// Who says so.
    #[must_use]
    pub fn sender_mac(&self) -> Mac {
        Mac(self.octets::<SENDER_MAC, 6>())
    }

    /// The address the sender claims; unspecified in a probe (RFC 5227 section 1.1).
    #[must_use]
    pub fn sender_ip(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.octets::<SENDER_IP, 4>())
    }

    /// Who is asked or answered.
    #[must_use]
    pub fn target_mac(&self) -> Mac {
        Mac(self.octets::<TARGET_MAC, 6>())
    }

    /// The address that is asked for or answered to.
    #[must_use]
    pub fn target_ip(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.octets::<TARGET_IP, 4>())
    }

    /// Whether the sender only asks if somebody has the address (RFC 5227 section 1.1).
    #[must_use]
    pub fn is_probe(&self) -> bool {
        self.sender_ip().is_unspecified()
    }

    /// Whether the sender announces its own address (gratuitous ARP, RFC 5227 section 1.1).
    #[must_use]
    pub fn is_announcement(&self) -> bool {
        !self.is_probe() && self.sender_ip() == self.target_ip()
    }

    fn octets<const AT: usize, const N: usize>(&self) -> [u8; N] {
        let mut octets = [0; N];
        octets.copy_from_slice(&self.0[AT..AT + N]);
        octets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST_OCTETS: [u8; LEN] = [
        0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 9, 10, 7, 0, 2, 0, 0, 0, 0, 0, 0, 10, 7, 0, 3,
    ];

    #[test]
    fn a_request_shows_both_ends() {
        let packet = Packet::parse(&REQUEST_OCTETS).unwrap();

        assert_eq!(packet.operation(), REQUEST);
        assert_eq!(packet.sender_mac(), Mac([2, 0, 0, 0, 0, 9]));
        assert_eq!(packet.sender_ip(), Ipv4Addr::new(10, 7, 0, 2));
        assert_eq!(packet.target_mac(), Mac::ZERO);
        assert_eq!(packet.target_ip(), Ipv4Addr::new(10, 7, 0, 3));
        assert!(!packet.is_probe() && !packet.is_announcement());
    }

    #[test]
    fn probe_and_announcement_are_told_apart() {
        let mut probe = REQUEST_OCTETS;
        probe[SENDER_IP..SENDER_IP + 4].fill(0);
        assert!(Packet::parse(&probe).unwrap().is_probe());

        let mut announcement = REQUEST_OCTETS;
        announcement[TARGET_IP + 3] = 2;
        assert!(Packet::parse(&announcement).unwrap().is_announcement());
    }

    #[test]
    fn the_hardware_type_of_ieee_802_is_read_as_linux_reads_it() {
        let mut packet = REQUEST_OCTETS;
        packet[1] = 6;
        assert!(Packet::parse(&packet).is_ok());
    }

    #[test]
    fn short_and_foreign_packets_are_told_apart() {
        let short = &REQUEST_OCTETS[..LEN - 1];
        assert_eq!(Packet::parse(short).unwrap_err(), Error::Truncated);

        let mut foreign = REQUEST_OCTETS;
        foreign[HARDWARE_LEN] = 8;
        assert_eq!(Packet::parse(&foreign).unwrap_err(), Error::Invalid);
    }
}
