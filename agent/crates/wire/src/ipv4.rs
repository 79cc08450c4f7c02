//! IPv4 headers (RFC 791).

use core::net::Ipv4Addr;

use crate::Error;

/// Octets of a header without options.
pub const HEADER_LEN: usize = 20;

/// IANA protocol number of IGMP.
pub const IGMP: u8 = 2;
/// IANA protocol number of TCP.
pub const TCP: u8 = 6;
/// IANA protocol number of UDP.
pub const UDP: u8 = 17;

const VERSION_IHL: usize = 0;
const TOTAL_LEN: usize = 2;
const FLAGS_FRAGMENT: usize = 6;
const PROTOCOL: usize = 9;
const SOURCE: usize = 12;
const DESTINATION: usize = 16;

const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// A packet whose header, with its options, is known to be whole.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    header: &'a [u8; HEADER_LEN],
    payload: &'a [u8],
}

impl<'a> Packet<'a> {
    /// Checks version and header length.
    ///
    /// Octets behind the total length are padding and left out; a total length beyond the
    /// octets is accepted, because a superframe may be given by its first octets.
    pub fn parse(octets: &'a [u8]) -> Result<Self, Error> {
        let header = octets.first_chunk::<HEADER_LEN>().ok_or(Error::Truncated)?;
        let header_len = usize::from(header[VERSION_IHL] & 0x0f) * 4;
        if header[VERSION_IHL] >> 4 != 4 || header_len < HEADER_LEN {
            return Err(Error::Invalid);
        }
        let total_len = usize::from(u16::from_be_bytes([
            header[TOTAL_LEN],
            header[TOTAL_LEN + 1],
        ]));
        if total_len < header_len {
            return Err(Error::Invalid);
        }
        let payload = octets
            .get(header_len..total_len.min(octets.len()))
            .ok_or(Error::Truncated)?;
        Ok(Self { header, payload })
    }

    /// IANA number of what is carried.
    #[must_use]
    pub fn protocol(&self) -> u8 {
        self.header[PROTOCOL]
    }

    /// From whom.
    #[must_use]
    pub fn source(&self) -> Ipv4Addr {
        self.address::<SOURCE>()
    }

    /// To whom.
    #[must_use]
    pub fn destination(&self) -> Ipv4Addr {
        self.address::<DESTINATION>()
    }

    /// Whether this is a part of a packet.
    #[must_use]
    pub fn is_fragment(&self) -> bool {
        self.fragment_field() & (MORE_FRAGMENTS | FRAGMENT_OFFSET) != 0
    }

    /// Whether the payload begins with the header of [`Packet::protocol`]; not so in a
    /// fragment other than the first.
    #[must_use]
    pub fn has_upper_header(&self) -> bool {
        self.fragment_field() & FRAGMENT_OFFSET == 0
    }

    /// The octets behind the header, without padding.
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    fn fragment_field(&self) -> u16 {
        u16::from_be_bytes([self.header[FLAGS_FRAGMENT], self.header[FLAGS_FRAGMENT + 1]])
    }

    fn address<const AT: usize>(&self) -> Ipv4Addr {
        let mut octets = [0; 4];
        octets.copy_from_slice(&self.header[AT..AT + 4]);
        Ipv4Addr::from(octets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(ihl: u8, total_len: u16, len: usize) -> Vec<u8> {
        let mut octets = vec![0; len];
        octets[VERSION_IHL] = 0x40 | ihl;
        octets[TOTAL_LEN..TOTAL_LEN + 2].copy_from_slice(&total_len.to_be_bytes());
        octets[PROTOCOL] = UDP;
        octets[SOURCE..SOURCE + 4].copy_from_slice(&[10, 0, 0, 1]);
        octets[DESTINATION..DESTINATION + 4].copy_from_slice(&[10, 0, 0, 2]);
        octets
    }

    #[test]
    fn padding_behind_the_total_length_is_left_out() {
        let octets = packet(5, 28, 46);
        let packet = Packet::parse(&octets).unwrap();

        assert_eq!(packet.payload().len(), 8);
        assert_eq!(packet.protocol(), UDP);
        assert_eq!(packet.source(), Ipv4Addr::new(10, 0, 0, 1));
        assert_eq!(packet.destination(), Ipv4Addr::new(10, 0, 0, 2));
        assert!(!packet.is_fragment() && packet.has_upper_header());
    }

    #[test]
    fn options_belong_to_the_header() {
        let octets = packet(15, 64, 64);
        assert_eq!(Packet::parse(&octets).unwrap().payload().len(), 4);
    }

    #[test]
    fn only_the_first_fragment_has_the_upper_header() {
        let mut octets = packet(5, 28, 28);
        octets[FLAGS_FRAGMENT] = 0x20;
        let first = Packet::parse(&octets).unwrap();
        assert!(first.is_fragment() && first.has_upper_header());

        octets[FLAGS_FRAGMENT + 1] = 1;
        let second = Packet::parse(&octets).unwrap();
        assert!(second.is_fragment() && !second.has_upper_header());
    }

    #[test]
    fn lengths_that_contradict_each_other_are_refused() {
        let cases = [
            (packet(5, 20, 20)[..19].to_vec(), Error::Truncated),
            (packet(4, 20, 20), Error::Invalid),
            (packet(6, 20, 24), Error::Invalid),
            (packet(6, 24, 20), Error::Truncated),
            (packet(5, 19, 20), Error::Invalid),
        ];
        for (octets, error) in cases {
            assert_eq!(Packet::parse(&octets).unwrap_err(), error);
        }
    }
}
