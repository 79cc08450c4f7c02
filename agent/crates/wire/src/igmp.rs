//! Recognition of IGMP messages (RFC 2236, RFC 3376).

use core::net::Ipv4Addr;

use crate::Error;

/// Octets that all versions have.
pub const LEN: usize = 8;

/// What a message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A querier asks who listens.
    Query,
    /// Somebody listens (versions 1, 2 and 3).
    Report,
    /// Somebody stops (version 2).
    Leave,
    /// None of these.
    Other,
}

/// A message whose common octets are known to be there.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a>(&'a [u8; LEN]);

impl<'a> Message<'a> {
    /// Checks the length.
    pub fn parse(octets: &'a [u8]) -> Result<Self, Error> {
        octets.first_chunk().map(Self).ok_or(Error::Truncated)
    }

    /// What it says.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self.0[0] {
            0x11 => Kind::Query,
            0x12 | 0x16 | 0x22 => Kind::Report,
            0x17 => Kind::Leave,
            _ => Kind::Other,
        }
    }

    /// The group it is about, except in version 3 reports, which list theirs behind.
    #[must_use]
    pub fn group(&self) -> Ipv4Addr {
        Ipv4Addr::new(self.0[4], self.0[5], self.0[6], self.0[7])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_is_recognised() {
        for (number, kind) in [
            (0x11, Kind::Query),
            (0x12, Kind::Report),
            (0x16, Kind::Report),
            (0x22, Kind::Report),
            (0x17, Kind::Leave),
            (0x13, Kind::Other),
        ] {
            let octets = [number, 0, 0, 0, 224, 0, 0, 251];
            let message = Message::parse(&octets).unwrap();
            assert_eq!(message.kind(), kind);
            assert_eq!(message.group(), Ipv4Addr::new(224, 0, 0, 251));
        }
        assert_eq!(Message::parse(&[0x11; 7]).unwrap_err(), Error::Truncated);
    }
}
