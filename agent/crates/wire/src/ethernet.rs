//! Ethernet frames with VLAN tags and LLC/SNAP (IEEE 802.3-2022 clause 3, 802.1Q-2022 clause 9).
//!
//! A view is checked once, by [`Frame::parse`]; after that no accessor can fail.

use crate::{Error, Mac};

/// Octets of destination, source and EtherType.
pub const HEADER_LEN: usize = 14;
/// Octets that one VLAN tag adds.
pub const TAG_LEN: usize = 4;
/// Tags that are looked through: a service and a customer tag.
pub const MAX_TAGS: usize = 2;

const DESTINATION: usize = 0;
const SOURCE: usize = 6;
const TYPE: usize = 12;

/// Values below are lengths of an LLC frame, not EtherTypes (802.3 clause 3.2.6).
const SMALLEST_ETHERTYPE: u16 = 0x0600;
/// LLC of SNAP with the OUI of RFC 1042: an EtherType follows.
const SNAP_RFC1042: [u8; 6] = [0xaa, 0xaa, 0x03, 0x00, 0x00, 0x00];
/// The same with the OUI of bridge-tunnel encapsulation (802.1H).
const SNAP_BRIDGE_TUNNEL: [u8; 6] = [0xaa, 0xaa, 0x03, 0x00, 0x00, 0xf8];
const SNAP_LEN: usize = 8;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EtherType(pub u16);

impl EtherType {
    /// IPv4 (RFC 894).
    pub const IPV4: Self = Self(0x0800);
    /// ARP (RFC 826).
    pub const ARP: Self = Self(0x0806);
    /// IPv6 (RFC 2464).
    pub const IPV6: Self = Self(0x86dd);
    /// Anybody's, for experiments (IEEE 802, 9.2.4): Cairn's loop probes are among them.
    pub const LOCAL_EXPERIMENT_1: Self = Self(0x88b5);
    /// A customer VLAN tag (802.1Q).
    pub const VLAN: Self = Self(0x8100);
    /// A service VLAN tag (802.1ad).
    pub const SERVICE_VLAN: Self = Self(0x88a8);
    /// Service tags from before 802.1ad; some stacks still strip them.
    const OLD_SERVICE_VLAN: Self = Self(0x9100);

    /// Whether a VLAN tag starts here.
    #[must_use]
    pub const fn is_tag(self) -> bool {
        self.0 == Self::VLAN.0
            || self.0 == Self::SERVICE_VLAN.0
            || self.0 == Self::OLD_SERVICE_VLAN.0
    }
}

/// A VLAN tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    /// The tag protocol identifier.
    pub protocol: EtherType,
    /// Priority (3 bits), drop eligible (1), VLAN identifier (12).
    pub control: u16,
}

impl Tag {
    /// The VLAN identifier; 0 carries a priority only.
    #[must_use]
    pub const fn vlan(self) -> u16 {
        self.control & 0x0fff
    }
}

/// A frame whose headers, down to what it carries, are known to be whole.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    header: &'a [u8; HEADER_LEN],
    tags: [Option<Tag>; MAX_TAGS],
    ethertype: Option<EtherType>,
    payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Checks the headers: addresses, up to [`MAX_TAGS`] tags, and SNAP where it is used.
    ///
    /// More tags than that are [`Error::TooDeep`], and so is a tag behind SNAP: stacks strip
    /// such headers one after the other, so that what must be checked could hide behind them
    /// (CVE-2021-27853, -27854, -27861, -27862).
    pub fn parse(octets: &'a [u8]) -> Result<Self, Error> {
        let (header, mut rest) = octets
            .split_first_chunk::<HEADER_LEN>()
            .ok_or(Error::Truncated)?;
        let mut ethertype = EtherType(u16::from_be_bytes([header[TYPE], header[TYPE + 1]]));
        let mut tags = [None; MAX_TAGS];
        for slot in &mut tags {
            if !ethertype.is_tag() {
                break;
            }
            let ([a, b, c, d], inner) = rest.split_first_chunk().ok_or(Error::Truncated)?;
            *slot = Some(Tag {
                protocol: ethertype,
                control: u16::from_be_bytes([*a, *b]),
            });
            ethertype = EtherType(u16::from_be_bytes([*c, *d]));
            rest = inner;
        }
        if ethertype.is_tag() {
            return Err(Error::TooDeep);
        }
        let (ethertype, payload) = through_snap(ethertype, rest)?;
        Ok(Self {
            header,
            tags,
            ethertype,
            payload,
        })
    }

    /// To whom.
    #[must_use]
    pub fn destination(&self) -> Mac {
        mac_at::<DESTINATION>(self.header)
    }

    /// From whom.
    #[must_use]
    pub fn source(&self) -> Mac {
        mac_at::<SOURCE>(self.header)
    }

    /// The VLAN tags, outermost first.
    pub fn tags(&self) -> impl Iterator<Item = Tag> + use<> {
        self.tags.into_iter().flatten()
    }

    /// What the frame carries behind tags and SNAP; `None` for other LLC frames (STP, IS-IS...).
    #[must_use]
    pub fn ethertype(&self) -> Option<EtherType> {
        self.ethertype
    }

    /// The octets behind the last header; with padding, if there is any.
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

fn mac_at<const AT: usize>(header: &[u8; HEADER_LEN]) -> Mac {
    let mut octets = [0; 6];
    octets.copy_from_slice(&header[AT..AT + 6]);
    Mac(octets)
}

fn through_snap(ethertype: EtherType, rest: &[u8]) -> Result<(Option<EtherType>, &[u8]), Error> {
    if ethertype.0 >= SMALLEST_ETHERTYPE {
        return Ok((Some(ethertype), rest));
    }
    let Some((snap, payload)) = rest.split_first_chunk::<SNAP_LEN>() else {
        return Ok((None, rest));
    };
    if !snap.starts_with(&SNAP_RFC1042) && !snap.starts_with(&SNAP_BRIDGE_TUNNEL) {
        return Ok((None, rest));
    }
    let inner = EtherType(u16::from_be_bytes([snap[6], snap[7]]));
    if inner.is_tag() {
        return Err(Error::TooDeep);
    }
    Ok((Some(inner), payload))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESSES: [u8; 12] = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1];

    fn frame(rest: &[u8]) -> Vec<u8> {
        [&ADDRESSES[..], rest].concat()
    }

    #[test]
    fn an_untagged_frame_shows_addresses_type_and_payload() {
        let octets = frame(&[0x81, 0x37, 0xab]);
        let frame = Frame::parse(&octets).unwrap();

        assert_eq!(frame.destination(), Mac::BROADCAST);
        assert_eq!(frame.source(), Mac([2, 0, 0, 0, 0, 1]));
        assert_eq!(frame.ethertype(), Some(EtherType(0x8137)));
        assert_eq!(frame.payload(), [0xab]);
        assert_eq!(frame.tags().count(), 0);
    }

    #[test]
    fn two_tags_are_looked_through() {
        let octets = frame(&[
            0x88, 0xa8, 0x60, 0x05, 0x81, 0x00, 0x0f, 0xff, 0x08, 0x06, 1,
        ]);
        let frame = Frame::parse(&octets).unwrap();

        let vlans: Vec<_> = frame.tags().map(|tag| (tag.protocol, tag.vlan())).collect();
        assert_eq!(
            vlans,
            [(EtherType::SERVICE_VLAN, 5), (EtherType::VLAN, 0xfff)]
        );
        assert_eq!(frame.ethertype(), Some(EtherType::ARP));
        assert_eq!(frame.payload(), [1]);
    }

    #[test]
    fn a_third_tag_is_too_deep() {
        let octets = frame(&[0x81, 0, 0, 0, 0x81, 0, 0, 0, 0x81, 0, 0, 0, 0x08, 0x06]);
        assert_eq!(Frame::parse(&octets).unwrap_err(), Error::TooDeep);
    }

    #[test]
    fn snap_is_looked_through_and_other_llc_is_left_alone() {
        let snap = frame(&[0, 20, 0xaa, 0xaa, 3, 0, 0, 0, 0x86, 0xdd, 7]);
        let snap = Frame::parse(&snap).unwrap();
        assert_eq!(snap.ethertype(), Some(EtherType::IPV6));
        assert_eq!(snap.payload(), [7]);

        let stp = frame(&[0, 4, 0x42, 0x42, 3, 0]);
        let stp = Frame::parse(&stp).unwrap();
        assert_eq!(stp.ethertype(), None);
        assert_eq!(stp.payload(), [0x42, 0x42, 3, 0]);
    }

    #[test]
    fn a_tag_behind_snap_is_too_deep() {
        let octets = frame(&[0, 20, 0xaa, 0xaa, 3, 0, 0, 0, 0x81, 0x00, 0, 0, 0x08, 0x06]);
        assert_eq!(Frame::parse(&octets).unwrap_err(), Error::TooDeep);
    }

    #[test]
    fn a_runt_is_truncated() {
        assert_eq!(Frame::parse(&ADDRESSES).unwrap_err(), Error::Truncated);
        let in_the_tag = frame(&[0x81, 0x00, 0, 1, 0x08]);
        assert_eq!(Frame::parse(&in_the_tag).unwrap_err(), Error::Truncated);
    }
}
