//! IPv6 headers and extension headers (RFC 8200, RFC 7045, RFC 4302).

use core::net::Ipv6Addr;

use crate::Error;

/// Octets of the fixed header.
pub const HEADER_LEN: usize = 40;
/// Extension headers that are followed. RFC 8200 section 4.1 knows at most one of each kind, and
/// destination options twice; a chain beyond this hides something.
pub const MAX_EXTENSIONS: usize = 8;

/// IANA protocol number of TCP.
pub const TCP: u8 = 6;
/// IANA protocol number of UDP.
pub const UDP: u8 = 17;
/// IANA protocol number of ICMPv6.
pub const ICMPV6: u8 = 58;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;
const MOBILITY: u8 = 135;
const HOST_IDENTITY: u8 = 139;
const SHIM6: u8 = 140;

const VERSION: usize = 0;
const PAYLOAD_LEN: usize = 4;
const NEXT_HEADER: usize = 6;
const HOP_LIMIT: usize = 7;
const SOURCE: usize = 8;
const DESTINATION: usize = 24;

/// Octets of the shortest extension header, and of a fragment header.
const EXTENSION_LEN: usize = 8;

/// A packet whose fixed header is known to be whole.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    header: &'a [u8; HEADER_LEN],
    payload: &'a [u8],
}

/// What stands behind the extension headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upper<'a> {
    /// IANA number of what is carried; ESP and "no next header" end the chain too.
    pub protocol: u8,
    /// Its octets; without its header in a fragment other than the first.
    pub payload: &'a [u8],
    /// Where the packet is (a part of) a fragmented one.
    pub fragment: Option<Fragment>,
}

/// A fragment header (RFC 8200 section 4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Octets in front of this part.
    pub offset: u16,
    /// Whether other parts follow.
    pub more: bool,
}

impl Upper<'_> {
    /// Whether the payload begins with the header of `protocol`.
    #[must_use]
    pub fn has_header(&self) -> bool {
        self.fragment.is_none_or(|fragment| fragment.offset == 0)
    }
}

impl<'a> Packet<'a> {
    /// Checks length and version.
    ///
    /// Octets behind the payload length are padding and left out; a payload length of 0 (jumbo,
    /// or a superframe) or beyond the octets means all of them.
    pub fn parse(octets: &'a [u8]) -> Result<Self, Error> {
        let (header, rest) = octets.split_first_chunk().ok_or(Error::Truncated)?;
        let header: &[u8; HEADER_LEN] = header;
        if header[VERSION] >> 4 != 6 {
            return Err(Error::Invalid);
        }
        let len = usize::from(u16::from_be_bytes([
            header[PAYLOAD_LEN],
            header[PAYLOAD_LEN + 1],
        ]));
        let payload = if len == 0 {
            rest
        } else {
            &rest[..len.min(rest.len())]
        };
        Ok(Self { header, payload })
    }

    /// How many more routers may forward it.
    #[must_use]
    pub fn hop_limit(&self) -> u8 {
        self.header[HOP_LIMIT]
    }

    /// From whom.
    #[must_use]
    pub fn source(&self) -> Ipv6Addr {
        self.address::<SOURCE>()
    }

    /// To whom.
    #[must_use]
    pub fn destination(&self) -> Ipv6Addr {
        self.address::<DESTINATION>()
    }

    /// The octets behind the fixed header, without padding.
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// Walks the extension headers, at most [`MAX_EXTENSIONS`] of them.
    ///
    /// [`Error::Truncated`]: the octets end within the chain, which RFC 7112 forbids even to a
    /// first fragment. [`Error::TooDeep`]: the chain is longer than is followed.
    pub fn upper(&self) -> Result<Upper<'a>, Error> {
        let mut protocol = self.header[NEXT_HEADER];
        let mut payload = self.payload;
        let mut fragment = None;
        for _ in 0..MAX_EXTENSIONS {
            let len = match protocol {
                HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS | MOBILITY | HOST_IDENTITY | SHIM6 => {
                    EXTENSION_LEN * (usize::from(extension(payload)?[1]) + 1)
                }
                // Its length is in units of four octets, less two (RFC 4302 section 2.2).
                AUTHENTICATION => 4 * (usize::from(extension(payload)?[1]) + 2),
                FRAGMENT => {
                    let part = read_fragment(extension(payload)?);
                    fragment = Some(part);
                    if part.offset > 0 {
                        // What follows is the middle of something; its type is only a hint.
                        return Ok(Upper {
                            protocol: payload[0],
                            payload: &payload[EXTENSION_LEN..],
                            fragment,
                        });
                    }
                    EXTENSION_LEN
                }
                _ => {
                    return Ok(Upper {
                        protocol,
                        payload,
                        fragment,
                    });
                }
            };
            protocol = extension(payload)?[0];
            payload = payload.get(len..).ok_or(Error::Truncated)?;
        }
        if is_extension(protocol) {
            return Err(Error::TooDeep);
        }
        Ok(Upper {
            protocol,
            payload,
            fragment,
        })
    }

    fn address<const AT: usize>(&self) -> Ipv6Addr {
        let mut octets = [0; 16];
        octets.copy_from_slice(&self.header[AT..AT + 16]);
        Ipv6Addr::from(octets)
    }
}

fn is_extension(protocol: u8) -> bool {
    matches!(
        protocol,
        HOP_BY_HOP
            | ROUTING
            | FRAGMENT
            | AUTHENTICATION
            | DESTINATION_OPTIONS
            | MOBILITY
            | HOST_IDENTITY
            | SHIM6
    )
}

fn extension(octets: &[u8]) -> Result<&[u8; EXTENSION_LEN], Error> {
    octets.first_chunk().ok_or(Error::Truncated)
}

fn read_fragment(header: &[u8; EXTENSION_LEN]) -> Fragment {
    let field = u16::from_be_bytes([header[2], header[3]]);
    Fragment {
        offset: field & 0xfff8,
        more: field & 1 != 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(next: u8, payload: &[u8]) -> Vec<u8> {
        let mut octets = vec![0; HEADER_LEN];
        octets[VERSION] = 0x60;
        octets[PAYLOAD_LEN..PAYLOAD_LEN + 2]
            .copy_from_slice(&u16::try_from(payload.len()).unwrap().to_be_bytes());
        octets[NEXT_HEADER] = next;
        octets[SOURCE] = 0xfd;
        octets[DESTINATION] = 0xff;
        octets.extend_from_slice(payload);
        octets
    }

    fn upper_of(octets: &[u8]) -> Result<Upper<'_>, Error> {
        Packet::parse(octets).unwrap().upper()
    }

    #[test]
    fn without_extensions_the_payload_is_the_upper_layer() {
        let octets = [&packet(UDP, &[1, 2, 3])[..], &[0; 7]].concat();
        let packet = Packet::parse(&octets).unwrap();

        assert_eq!(packet.source(), "fd00::".parse::<Ipv6Addr>().unwrap());
        assert_eq!(packet.destination(), "ff00::".parse::<Ipv6Addr>().unwrap());
        let upper = packet.upper().unwrap();
        assert_eq!((upper.protocol, upper.payload), (UDP, &[1, 2, 3][..]));
        assert!(upper.has_header());
    }

    #[test]
    fn extensions_of_all_sizes_are_walked() {
        let mut chain = Vec::new();
        chain.extend_from_slice(&[DESTINATION_OPTIONS, 0, 0, 0, 0, 0, 0, 0]);
        chain.extend_from_slice(&[AUTHENTICATION, 1]);
        chain.extend_from_slice(&[0; 14]);
        // Length 4 means 24 octets here: 4 * (4 + 2).
        chain.extend_from_slice(&[ICMPV6, 4]);
        chain.extend_from_slice(&[0; 22]);
        chain.extend_from_slice(&[135, 0]);

        let octets = packet(HOP_BY_HOP, &chain);
        let upper = upper_of(&octets).unwrap();

        assert_eq!((upper.protocol, upper.payload), (ICMPV6, &[135, 0][..]));
    }

    #[test]
    fn a_later_fragment_has_no_upper_header_even_if_it_looks_like_one() {
        let octets = packet(FRAGMENT, &[ICMPV6, 0, 0, 8, 0, 0, 0, 1, 134, 0]);
        let upper = upper_of(&octets).unwrap();

        assert!(!upper.has_header());
        assert_eq!(
            upper.fragment,
            Some(Fragment {
                offset: 8,
                more: false
            })
        );
    }

    #[test]
    fn a_first_fragment_and_an_atomic_one_have_it() {
        for more in [0, 1] {
            let octets = packet(FRAGMENT, &[ICMPV6, 0, 0, more, 0, 0, 0, 1, 134, 0]);
            let upper = upper_of(&octets).unwrap();

            assert!(upper.has_header() && upper.fragment.is_some());
            assert_eq!((upper.protocol, upper.payload), (ICMPV6, &[134, 0][..]));
        }
    }

    #[test]
    fn esp_and_no_next_header_end_the_chain() {
        for end in [50, 59] {
            let octets = packet(HOP_BY_HOP, &[end, 0, 0, 0, 0, 0, 0, 0]);
            let upper = upper_of(&octets).unwrap();
            assert_eq!((upper.protocol, upper.payload), (end, &[][..]));
        }
    }

    #[test]
    fn a_chain_that_ends_early_is_truncated() {
        let cases: [(u8, &[u8]); 4] = [
            (HOP_BY_HOP, &[UDP, 0, 0, 0, 0, 0, 0]),
            (ROUTING, &[UDP, 1, 0, 0, 0, 0, 0, 0]),
            (AUTHENTICATION, &[UDP, 255, 0, 0, 0, 0, 0, 0]),
            (FRAGMENT, &[UDP, 0, 0]),
        ];
        for (next, payload) in cases {
            assert_eq!(
                upper_of(&packet(next, payload)).unwrap_err(),
                Error::Truncated
            );
        }
    }

    #[test]
    fn a_chain_as_long_as_is_followed_is_read_and_a_longer_one_is_too_deep() {
        let link = [DESTINATION_OPTIONS, 0, 0, 0, 0, 0, 0, 0];
        let last = [UDP, 0, 0, 0, 0, 0, 0, 0];

        let longest = [&link.repeat(MAX_EXTENSIONS - 1)[..], &last].concat();
        assert_eq!(
            upper_of(&packet(DESTINATION_OPTIONS, &longest))
                .unwrap()
                .protocol,
            UDP
        );

        let longer = [&link.repeat(MAX_EXTENSIONS)[..], &last].concat();
        assert_eq!(
            upper_of(&packet(DESTINATION_OPTIONS, &longer)).unwrap_err(),
            Error::TooDeep
        );
    }

    #[test]
    fn other_versions_and_runts_are_refused() {
        let mut octets = packet(UDP, &[]);
        octets[VERSION] = 0x45;
        assert_eq!(Packet::parse(&octets).unwrap_err(), Error::Invalid);
        assert_eq!(Packet::parse(&octets[..39]).unwrap_err(), Error::Truncated);
    }
}
