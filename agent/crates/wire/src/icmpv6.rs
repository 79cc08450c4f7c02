//! ICMPv6: Neighbor Discovery (RFC 4861) and recognition of MLD (RFC 2710, RFC 3810).

use core::net::Ipv6Addr;

use crate::{Error, Mac};

/// Octets that all messages have.
pub const HEADER_LEN: usize = 4;

const TYPE: usize = 0;
const CODE: usize = 1;
/// Target address of a solicitation, an advertisement and a redirect.
const TARGET: usize = 8;
const TARGET_END: usize = 24;

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A querier asks who listens to multicast.
    MldQuery,
    /// Somebody listens (versions 1 and 2).
    MldReport,
    /// Somebody stops (version 1).
    MldDone,
    /// A host asks for routers.
    RouterSolicitation,
    /// A router presents itself.
    RouterAdvertisement,
    /// A host asks for a neighbour's link-layer address, or if anybody has an address.
    NeighborSolicitation,
    /// A host tells its link-layer address.
    NeighborAdvertisement,
    /// A router names a better first hop.
    Redirect,
    /// Any other.
    Other(u8),
}

impl Kind {
    const fn of(number: u8) -> Self {
        match number {
            130 => Self::MldQuery,
            131 | 143 => Self::MldReport,
            132 => Self::MldDone,
            133 => Self::RouterSolicitation,
            134 => Self::RouterAdvertisement,
            135 => Self::NeighborSolicitation,
            136 => Self::NeighborAdvertisement,
            137 => Self::Redirect,
            other => Self::Other(other),
        }
    }

    /// Where the options begin; `None` where the message is not of Neighbor Discovery.
    const fn options_at(self) -> Option<usize> {
        match self {
            Self::RouterSolicitation => Some(8),
            Self::RouterAdvertisement => Some(16),
            Self::NeighborSolicitation | Self::NeighborAdvertisement => Some(24),
            Self::Redirect => Some(40),
            _ => None,
        }
    }

    /// Whether the message is of Neighbor Discovery.
    #[must_use]
    pub const fn is_discovery(self) -> bool {
        self.options_at().is_some()
    }

    /// Whether only routers send it (RFC 6105 names both).
    #[must_use]
    pub const fn is_from_router(self) -> bool {
        matches!(self, Self::RouterAdvertisement | Self::Redirect)
    }

    /// Whether the message manages multicast memberships.
    #[must_use]
    pub const fn is_membership(self) -> bool {
        matches!(self, Self::MldQuery | Self::MldReport | Self::MldDone)
    }
}

/// A message whose fixed part is known to be whole; its options are not looked at before
/// [`Message::options`].
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    kind: Kind,
    octets: &'a [u8],
}

impl<'a> Message<'a> {
    /// Checks the length of the fixed part.
    pub fn parse(octets: &'a [u8]) -> Result<Self, Error> {
        if octets.len() < HEADER_LEN {
            return Err(Error::Truncated);
        }
        let kind = Kind::of(octets[TYPE]);
        if octets.len() < kind.options_at().unwrap_or(HEADER_LEN) {
            return Err(Error::Truncated);
        }
        Ok(Self { kind, octets })
    }

    /// What it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Tells messages of one type apart; 0 in Neighbor Discovery.
    #[must_use]
    pub fn code(&self) -> u8 {
        self.octets[CODE]
    }

    /// The address that a neighbour solicitation asks for, that a neighbour advertisement
    /// claims, or that a redirect names as next hop.
    #[must_use]
    pub fn target(&self) -> Option<Ipv6Addr> {
        match self.kind {
            Kind::NeighborSolicitation | Kind::NeighborAdvertisement | Kind::Redirect => {
                let mut target = [0; 16];
                target.copy_from_slice(&self.octets[TARGET..TARGET_END]);
                Some(Ipv6Addr::from(target))
            }
            _ => None,
        }
    }

    /// The options of a Neighbor Discovery message; none of other messages.
    #[must_use]
    pub fn options(&self) -> Options<'a> {
        let at = self.kind.options_at().unwrap_or(self.octets.len());
        Options(&self.octets[at..])
    }
}

/// An option of a Neighbor Discovery message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NdOption {
    /// The sender's link-layer address.
    SourceAddress(Mac),
    /// The target's link-layer address.
    TargetAddress(Mac),
    /// Any other, by number.
    Other(u8),
}

/// Options one after the other. An error ends them: RFC 4861 sections 6.1 and 7.1 have the
/// receiver discard the whole message then.
#[derive(Clone, Debug)]
pub struct Options<'a>(&'a [u8]);

impl Options<'_> {
    fn read(&mut self) -> Result<NdOption, Error> {
        let [number, units] = *self.0.first_chunk().ok_or(Error::Truncated)?;
        if units == 0 {
            return Err(Error::Invalid);
        }
        let (option, rest) = self
            .0
            .split_at_checked(usize::from(units) * 8)
            .ok_or(Error::Truncated)?;
        self.0 = rest;
        let mut mac = [0; 6];
        mac.copy_from_slice(&option[2..8]);
        Ok(match number {
            1 => NdOption::SourceAddress(Mac(mac)),
            2 => NdOption::TargetAddress(Mac(mac)),
            other => NdOption::Other(other),
        })
    }
}

impl Iterator for Options<'_> {
    type Item = Result<NdOption, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let option = self.read();
        if option.is_err() {
            self.0 = &[];
        }
        Some(option)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn advertisement(options: &[u8]) -> Vec<u8> {
        let mut octets = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
        octets.extend_from_slice(&[0xfd; 16]);
        octets.extend_from_slice(options);
        octets
    }

    #[test]
    fn an_advertisement_shows_target_and_link_layer_address() {
        let octets = advertisement(&[2, 1, 2, 0, 0, 0, 0, 7]);
        let message = Message::parse(&octets).unwrap();

        assert_eq!(message.kind(), Kind::NeighborAdvertisement);
        assert_eq!(message.target(), Some(Ipv6Addr::from([0xfd; 16])));
        let options: Vec<_> = message.options().collect();
        assert_eq!(
            options,
            [Ok(NdOption::TargetAddress(Mac([2, 0, 0, 0, 0, 7])))]
        );
    }

    #[test]
    fn an_option_of_no_length_ends_the_options_with_an_error() {
        let octets = advertisement(&[14, 1, 0, 0, 0, 0, 0, 0, 2, 0, 9, 9, 9, 9, 9, 9]);
        let options: Vec<_> = Message::parse(&octets).unwrap().options().collect();

        assert_eq!(options, [Ok(NdOption::Other(14)), Err(Error::Invalid)]);
    }

    #[test]
    fn an_option_longer_than_the_message_is_truncated() {
        for rest in [&[1, 2, 0, 0, 0, 0, 0, 0][..], &[1]] {
            let octets = advertisement(rest);
            let options: Vec<_> = Message::parse(&octets).unwrap().options().collect();
            assert_eq!(options, [Err(Error::Truncated)]);
        }
    }

    #[test]
    fn each_kind_has_its_shortest_length() {
        for (number, shortest) in [
            (133, 8),
            (134, 16),
            (135, 24),
            (136, 24),
            (137, 40),
            (143, 4),
            (128, 4),
        ] {
            let mut octets = vec![0; shortest];
            octets[TYPE] = number;
            assert!(Message::parse(&octets).is_ok());
            assert_eq!(
                Message::parse(&octets[..shortest - 1]).unwrap_err(),
                Error::Truncated
            );
        }
    }

    #[test]
    fn mld_is_recognised_and_echo_is_not_discovery() {
        for number in [130, 131, 132, 143] {
            assert!(Kind::of(number).is_membership());
            assert!(!Kind::of(number).is_discovery());
        }
        assert!(!Kind::of(128).is_discovery() && !Kind::of(128).is_membership());
        assert!(Kind::of(134).is_from_router() && Kind::of(137).is_from_router());
    }
}
