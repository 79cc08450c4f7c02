//! The TLVs of CONTROL packets (docs/protocol.md 1.5).

use crate::Mac;

/// One TLV that this version knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tlv {
    /// Says only that the sender is alive.
    Keepalive,
    /// Asks for a response from a path that is to be validated.
    Challenge([u8; 8]),
    /// The answer to a challenge.
    Response([u8; 8]),
    /// Asks for a reply: liveness and round-trip time.
    Probe([u8; 8]),
    /// The answer to a probe.
    ProbeReply([u8; 8]),
    /// The sender's host doesn't listen to a multicast group: for so long it needs none of it.
    Prune {
        /// The group.
        group: Mac,
        /// For how long.
        seconds: u16,
    },
    /// Takes back all prunes of the sender.
    Graft,
}

/// The longest encoded TLV of this version.
pub const MAX_TLV_LEN: usize = 10;

impl Tlv {
    /// Writes the TLV; returns the room used.
    pub fn encode(self) -> ([u8; MAX_TLV_LEN], usize) {
        let (kind, value) = match self {
            Self::Keepalive => (1, None),
            Self::Challenge(value) => (2, Some(value)),
            Self::Response(value) => (3, Some(value)),
            Self::Probe(value) => (4, Some(value)),
            Self::ProbeReply(value) => (5, Some(value)),
            Self::Prune { group, seconds } => (16, Some(of_prune(group, seconds))),
            Self::Graft => (17, None),
        };
        let mut octets = [0; MAX_TLV_LEN];
        octets[0] = kind;
        let Some(value) = value else {
            return (octets, 2);
        };
        octets[1] = 8;
        octets[2..].copy_from_slice(&value);
        (octets, MAX_TLV_LEN)
    }
}

fn of_prune(group: Mac, seconds: u16) -> [u8; 8] {
    let mut value = [0; 8];
    value[..6].copy_from_slice(&group.0);
    value[6..].copy_from_slice(&seconds.to_be_bytes());
    value
}

/// A TLV runs past the end of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truncated;

/// Ends the list: it has no length, and all that follows is padding.
const PAD: u8 = 0;

/// The list without the padding behind it.
#[must_use]
pub fn without_padding(octets: &[u8]) -> &[u8] {
    let mut at = 0;
    while octets.get(at).is_some_and(|kind| *kind != PAD) {
        let Some(len) = octets.get(at + 1) else {
            return octets;
        };
        at += 2 + usize::from(*len);
    }
    octets.get(..at).unwrap_or(octets)
}

/// Walks a list of TLVs; unknown types, and known ones of a foreign length, are skipped.
#[derive(Clone, Copy, Debug)]
pub struct Tlvs<'a>(&'a [u8]);

impl<'a> Tlvs<'a> {
    /// A walk over the plaintext of a CONTROL packet.
    pub const fn new(octets: &'a [u8]) -> Self {
        Self(octets)
    }

    fn step(&mut self) -> Result<Option<Tlv>, Truncated> {
        let [kind, len, rest @ ..] = self.0 else {
            return Err(Truncated);
        };
        let (value, rest) = rest.split_at_checked(usize::from(*len)).ok_or(Truncated)?;
        self.0 = rest;
        Ok(known(*kind, value))
    }
}

fn known(kind: u8, value: &[u8]) -> Option<Tlv> {
    match (kind, <[u8; 8]>::try_from(value)) {
        (1, _) => Some(Tlv::Keepalive),
        (2, Ok(value)) => Some(Tlv::Challenge(value)),
        (3, Ok(value)) => Some(Tlv::Response(value)),
        (4, Ok(value)) => Some(Tlv::Probe(value)),
        (5, Ok(value)) => Some(Tlv::ProbeReply(value)),
        (16, Ok([a, b, c, d, e, f, high, low])) => Some(Tlv::Prune {
            group: Mac([a, b, c, d, e, f]),
            seconds: u16::from_be_bytes([high, low]),
        }),
        (17, _) => Some(Tlv::Graft),
        _ => None,
    }
}

impl Iterator for Tlvs<'_> {
    type Item = Result<Tlv, Truncated>;

    fn next(&mut self) -> Option<Self::Item> {
        while !matches!(self.0, [] | [PAD, ..]) {
            match self.step() {
                Ok(Some(tlv)) => return Some(Ok(tlv)),
                Ok(None) => {}
                Err(truncated) => {
                    self.0 = &[];
                    return Some(Err(truncated));
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_tlv_reads_back() {
        let all = [
            Tlv::Keepalive,
            Tlv::Challenge([1; 8]),
            Tlv::Response([2; 8]),
            Tlv::Probe([3; 8]),
            Tlv::ProbeReply([4; 8]),
            Tlv::Prune {
                group: Mac([1, 0, 0x5e, 1, 2, 3]),
                seconds: 300,
            },
            Tlv::Graft,
        ];
        let mut list = Vec::new();
        for tlv in all {
            let (octets, len) = tlv.encode();
            list.extend_from_slice(&octets[..len]);
        }

        let read: Result<Vec<Tlv>, _> = Tlvs::new(&list).collect();

        assert_eq!(read, Ok(all.to_vec()));
    }

    #[test]
    fn unknown_types_are_skipped_and_padding_ends_the_list() {
        let list = [200, 0, 1, 0, 2, 1, 7, 0, 1, 0];
        let read: Result<Vec<Tlv>, _> = Tlvs::new(&list).collect();
        assert_eq!(read, Ok(vec![Tlv::Keepalive]));
        assert_eq!(without_padding(&list), &list[..7]);
        assert_eq!(without_padding(&list[..7]), &list[..7]);
        assert_eq!(without_padding(&[0; 9000]), &[] as &[u8]);
    }

    #[test]
    fn a_tlv_past_the_end_ends_the_walk() {
        for list in [&[4u8][..], &[4, 8, 1, 2], &[1, 0, 4, 1]] {
            assert_eq!(Tlvs::new(list).last(), Some(Err(Truncated)));
            assert_eq!(without_padding(list), list);
        }
    }
}
