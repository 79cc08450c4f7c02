//! UDP ports (RFC 768), and those of DHCP (RFC 2131 section 4.1, RFC 8415 section 7.2).

use crate::Error;

/// Octets of the header.
pub const HEADER_LEN: usize = 8;

/// Where a DHCPv4 server listens.
pub const DHCPV4_SERVER: u16 = 67;
/// Where a DHCPv4 client listens: whatever goes there claims to come from a server.
pub const DHCPV4_CLIENT: u16 = 68;
/// Where a DHCPv6 client listens: whatever goes there claims to come from a server.
pub const DHCPV6_CLIENT: u16 = 546;
/// Where a DHCPv6 server listens.
pub const DHCPV6_SERVER: u16 = 547;

/// A datagram whose header is known to be whole.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    header: &'a [u8; HEADER_LEN],
    payload: &'a [u8],
}

impl<'a> Datagram<'a> {
    /// Checks that the header is there; the length field is left to the receiver, for a
    /// fragment's is larger than what is here.
    pub fn parse(octets: &'a [u8]) -> Result<Self, Error> {
        let (header, payload) = octets.split_first_chunk().ok_or(Error::Truncated)?;
        Ok(Self { header, payload })
    }

    /// From which port.
    #[must_use]
    pub fn source(&self) -> u16 {
        u16::from_be_bytes([self.header[0], self.header[1]])
    }

    /// To which port.
    #[must_use]
    pub fn destination(&self) -> u16 {
        u16::from_be_bytes([self.header[2], self.header[3]])
    }

    /// The octets behind the header.
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_from_the_first_four_octets() {
        let datagram = Datagram::parse(&[0, 67, 0, 68, 0, 9, 0, 0, 5]).unwrap();
        assert_eq!(datagram.source(), DHCPV4_SERVER);
        assert_eq!(datagram.destination(), DHCPV4_CLIENT);
        assert_eq!(datagram.payload(), [5]);
        assert_eq!(Datagram::parse(&[0; 7]).unwrap_err(), Error::Truncated);
    }
}
