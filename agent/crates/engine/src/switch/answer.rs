//! ARP and Neighbor Discovery answered where they are asked, from the bindings (RFC 9161).
//!
//! Only a plain question is answered: who has this address? What checks for a duplicate or
//! announces an address is everybody's business, and what is addressed to one member (a
//! neighbour that is probed) is that member's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};

use cairn_wire::ethernet::{EtherType, Frame, HEADER_LEN, MAX_TAGS, TAG_LEN};
use cairn_wire::icmpv6::{Kind, Message, NdOption};
use cairn_wire::{Mac, arp, ipv6};

use crate::PeerId;
use crate::offload::{add, fold};

/// A neighbour advertisement with one option.
const ADVERTISEMENT_LEN: usize = 32;
const LONGEST: usize = HEADER_LEN + MAX_TAGS * TAG_LEN + ipv6::HEADER_LEN + ADVERTISEMENT_LEN;

/// RFC 4861 section 7.1.1: a lower one came through a router.
const HOP_LIMIT: u8 = 255;
/// Solicited and override. Not router: nobody is answered for who might be one.
const FLAGS: [u8; 4] = [0x60, 0, 0, 0];

/// What was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// By ARP.
    Arp,
    /// By Neighbor Discovery.
    Nd,
}

/// A frame that this node hands to its own TAP in the name of another member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The member it speaks for.
    pub peer: PeerId,
    /// What was asked.
    pub asked: Asked,
    octets: [u8; LONGEST],
    len: usize,
}

impl Answer {
    /// The frame.
    #[must_use]
    pub fn frame(&self) -> &[u8] {
        &self.octets[..self.len]
    }
}

/// Who has this address?
#[derive(Clone, Copy, Debug)]
pub(super) struct Question<'a> {
    headers: &'a [u8],
    by: Mac,
    body: Body,
}

#[derive(Clone, Copy, Debug)]
enum Body {
    Arp {
        /// Types and lengths of the addresses.
        kind: [u8; 6],
        by: Ipv4Addr,
        target: Ipv4Addr,
    },
    Nd {
        by: Ipv6Addr,
        target: Ipv6Addr,
    },
}

impl<'a> Question<'a> {
    /// Reads a frame of a member that may say what it says of itself.
    pub(super) fn of(octets: &'a [u8], frame: &Frame<'a>) -> Option<Self> {
        let body = match frame.ethertype()? {
            EtherType::ARP => arp_body(frame)?,
            EtherType::IPV6 => nd_body(frame)?,
            _ => return None,
        };
        let headers = &octets[..octets.len() - frame.payload().len()];
        // Behind SNAP, which no stack asks in, the answer would need a length of its own.
        let is_plain = headers.len() == HEADER_LEN + TAG_LEN * frame.tags().count();
        is_plain.then_some(Self {
            headers,
            by: frame.source(),
            body,
        })
    }

    pub(super) fn ip(&self) -> IpAddr {
        match self.body {
            Body::Arp { target, .. } => target.into(),
            Body::Nd { target, .. } => target.into(),
        }
    }

    pub(super) fn asked(&self) -> Asked {
        match self.body {
            Body::Arp { .. } => Asked::Arp,
            Body::Nd { .. } => Asked::Nd,
        }
    }

    /// What `peer` would answer, whose address `mac` is; under the same tags.
    pub(super) fn answer(&self, peer: PeerId, mac: Mac) -> Answer {
        let mut frame = Writer::default();
        frame.put(&self.by.0);
        frame.put(&mac.0);
        frame.put(&self.headers[12..]);
        match self.body {
            Body::Arp { kind, by, target } => {
                frame.put(&kind);
                frame.put(&arp::REPLY.to_be_bytes());
                frame.put(&mac.0);
                frame.put(&target.octets());
                frame.put(&self.by.0);
                frame.put(&by.octets());
            }
            Body::Nd { by, target } => {
                let message = advertisement(target, by, mac);
                frame.put(&[0x60, 0, 0, 0, 0, ADVERTISEMENT_LEN as u8]);
                frame.put(&[ipv6::ICMPV6, HOP_LIMIT]);
                frame.put(&target.octets());
                frame.put(&by.octets());
                frame.put(&message);
            }
        }
        Answer {
            peer,
            asked: self.asked(),
            octets: frame.octets,
            len: frame.len,
        }
    }
}

/// Not a probe, nor an announcement (RFC 5227 section 1.1).
fn arp_body(frame: &Frame<'_>) -> Option<Body> {
    let packet = arp::Packet::parse(frame.payload()).ok()?;
    let is_question = frame.destination().is_broadcast()
        && packet.operation() == arp::REQUEST
        && !packet.is_probe()
        && !packet.is_announcement()
        && packet.sender_mac() == frame.source();
    is_question.then_some(Body::Arp {
        kind: *frame.payload().first_chunk()?,
        by: packet.sender_ip(),
        target: packet.target_ip(),
    })
}

/// A solicitation that its target would take (RFC 4861 section 7.1.1) and that is no duplicate
/// address detection. What has options or headers beyond those that are needed is left to the
/// target, which may know them.
fn nd_body(frame: &Frame<'_>) -> Option<Body> {
    let packet = ipv6::Packet::parse(frame.payload()).ok()?;
    let upper = packet.upper().ok()?;
    let is_plain = upper.payload.len() == packet.payload().len();
    if upper.protocol != ipv6::ICMPV6 || !is_plain || packet.hop_limit() != HOP_LIMIT {
        return None;
    }
    let message = Message::parse(upper.payload).ok()?;
    if message.kind() != Kind::NeighborSolicitation || message.code() != 0 {
        return None;
    }
    let (by, target) = (packet.source(), message.target()?);
    let group = solicited_node(target);
    let is_question = !by.is_unspecified()
        && !by.is_multicast()
        && !target.is_multicast()
        && packet.destination() == group
        && frame.destination() == mac_of_group(group)
        && message
            .options()
            .all(|option| option == Ok(NdOption::SourceAddress(frame.source())))
        && checksum(by, group, upper.payload) == 0;
    is_question.then_some(Body::Nd { by, target })
}

fn advertisement(target: Ipv6Addr, to: Ipv6Addr, mac: Mac) -> [u8; ADVERTISEMENT_LEN] {
    let mut message = [0; ADVERTISEMENT_LEN];
    message[0] = 136;
    message[4..8].copy_from_slice(&FLAGS);
    message[8..24].copy_from_slice(&target.octets());
    // Target link-layer address, in units of eight octets.
    message[24..26].copy_from_slice(&[2, 1]);
    message[26..].copy_from_slice(&mac.0);
    let sum = checksum(target, to, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

/// Over the pseudo-header and a message; zero for one whose checksum is right.
fn checksum(from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> u16 {
    let sum = message.len() as u64 + u64::from(ipv6::ICMPV6);
    let sum = add(add(sum, &from.octets()), &to.octets());
    !fold(add(sum, message))
}

/// RFC 4291 section 2.7.1.
fn solicited_node(target: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = target.octets();
    Ipv6Addr::new(
        0xff02,
        0,
        0,
        0,
        0,
        1,
        0xff00 | u16::from(a),
        u16::from_be_bytes([b, c]),
    )
}

/// RFC 2464 section 7.
fn mac_of_group(group: Ipv6Addr) -> Mac {
    let [.., a, b, c, d] = group.octets();
    Mac([0x33, 0x33, a, b, c, d])
}

struct Writer {
    octets: [u8; LONGEST],
    len: usize,
}

impl Default for Writer {
    fn default() -> Self {
        Self {
            octets: [0; LONGEST],
            len: 0,
        }
    }
}

impl Writer {
    fn put(&mut self, octets: &[u8]) {
        self.octets[self.len..][..octets.len()].copy_from_slice(octets);
        self.len += octets.len();
    }
}

/// How many questions were answered here, what else was not sent, and what went to many.
#[derive(Debug, Default)]
pub(super) struct Counters {
    arp: AtomicU64,
    nd: AtomicU64,
    pub(super) spared: AtomicU64,
    pub(super) moved_here: AtomicU64,
    pub(super) reflected: AtomicU64,
    pub(super) flooded: AtomicU64,
}

impl Counters {
    pub(super) fn count(&self, asked: Asked) {
        let counter = match asked {
            Asked::Arp => &self.arp,
            Asked::Nd => &self.nd,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn named(&self) -> [(&'static str, u64); 6] {
        [
            ("arp_answered", &self.arp),
            ("nd_answered", &self.nd),
            ("multicast_spared", &self.spared),
            ("moved_to_lan", &self.moved_here),
            ("reflected", &self.reflected),
            ("bum_sent", &self.flooded),
        ]
        .map(|(name, counter)| (name, counter.load(Ordering::Relaxed)))
    }
}
