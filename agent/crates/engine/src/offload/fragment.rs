//! Packets divided by IP's own fragmentation: the last resort for what a path doesn't carry.

use cairn_wire::ethernet::{EtherType, Frame};
use cairn_wire::{ipv4, ipv6};

use super::content::Content;
use super::layout::Transport;
use super::sum::{add, fold};

const DONT_FRAGMENT: u16 = 0x4000;
const MORE: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;
const V6_FRAGMENT: u8 = 44;
const V6_FRAGMENT_LEN: usize = 8;
/// Extension headers that are in each fragment (RFC 8200 4.5).
const V6_PER_FRAGMENT: [u8; 2] = [0, 43];

/// How a packet is divided; the frame itself isn't touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragments {
    network: usize,
    /// Where what is divided starts: behind the headers that each fragment has.
    body: usize,
    end: usize,
    /// Octets of the body in each fragment; a multiple of eight.
    step: usize,
    family: Family,
    /// A partial checksum: where its transport starts, where the checksum is.
    partial: Option<(usize, usize)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    V4,
    /// With the place of the octet that says what follows the headers, and whether the packet is
    /// a fragment already.
    V6 {
        next: usize,
        again: bool,
    },
}

impl Fragments {
    /// Divides a frame into ones of at most `limit` octets; `None` if it may not be or can't:
    /// IPv4 with DF or options, IPv6 that its sender can divide itself (above 1,280 octets).
    pub fn new(frame: &[u8], content: Content, limit: usize) -> Option<Self> {
        let view = Frame::parse(frame).ok()?;
        let packet = view.payload();
        let network = frame.len() - packet.len();
        let (body, length, family) = match view.ethertype()? {
            EtherType::IPV4 => of_v4(packet)?,
            EtherType::IPV6 => of_v6(packet)?,
            _ => return None,
        };
        let inserted = match family {
            Family::V6 { again: false, .. } => V6_FRAGMENT_LEN,
            _ => 0,
        };
        let family = match family {
            Family::V6 { next, again } => Family::V6 {
                next: network + next,
                again,
            },
            Family::V4 => Family::V4,
        };
        let step = limit.checked_sub(network + body + inserted)? / 8 * 8;
        let partial = match content {
            Content::Whole => None,
            Content::Bundle => return None,
            Content::Partial {
                transport, start, ..
            } => Some((usize::from(start), transport.checksum_offset())),
        };
        let body_end = network + body + step;
        let sum_in_first = partial.is_none_or(|(start, offset)| start + offset + 2 <= body_end);
        (step > 0 && sum_in_first && length > body && network + length <= frame.len()).then_some(
            Self {
                network,
                body: network + body,
                end: network + length,
                step,
                family,
                partial,
            },
        )
    }

    /// How many frames it makes.
    pub fn count(&self) -> usize {
        (self.end - self.body).div_ceil(self.step)
    }

    /// Length of the headers of each frame.
    fn headers_len(&self) -> usize {
        match self.family {
            Family::V6 { again: false, .. } => self.body + V6_FRAGMENT_LEN,
            _ => self.body,
        }
    }

    fn payload<'f>(&self, frame: &'f [u8], index: usize) -> &'f [u8] {
        let from = self.body + index * self.step;
        &frame[from..(from + self.step).min(self.end)]
    }

    /// Length of the frame at `index`.
    pub fn len_of(&self, index: usize) -> usize {
        let left = self.end - self.body - index * self.step;
        self.headers_len() + left.min(self.step)
    }

    /// Writes the frame at `index`; `out` is [`Self::len_of`] long. `id` is new for each packet.
    pub fn put(&self, frame: &[u8], index: usize, id: u32, out: &mut [u8]) {
        let (headers, payload) = out.split_at_mut(self.headers_len());
        headers[..self.body].copy_from_slice(&frame[..self.body]);
        payload.copy_from_slice(self.payload(frame, index));
        let last = index + 1 == self.count();
        let length = headers.len() - self.network + payload.len();
        match self.family {
            Family::V4 => self.put_v4(headers, index, last, length),
            Family::V6 { next, again } => {
                if !again {
                    headers[self.body..].copy_from_slice(&[0; V6_FRAGMENT_LEN]);
                    headers[self.body] = headers[next];
                    headers[self.body + 4..].copy_from_slice(&id.to_be_bytes());
                    headers[next] = V6_FRAGMENT;
                }
                self.put_v6(headers, index, last, length);
            }
        }
        if let Some((start, offset)) = self.partial.filter(|_| index == 0) {
            let sum = match !fold(add(0, &frame[start..self.end])) {
                // Zero means "none" in UDP's field.
                0 if offset == Transport::Udp.checksum_offset() => 0xffff,
                sum => sum,
            };
            let at = start - self.body + offset;
            payload[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        }
    }

    fn put_v4(&self, headers: &mut [u8], index: usize, last: bool, length: usize) {
        let packet = &mut headers[self.network..];
        packet[2..4].copy_from_slice(&(length as u16).to_be_bytes());
        let was = u16::from_be_bytes([packet[6], packet[7]]);
        let more = if last { was & MORE } else { MORE };
        let offset = (was & OFFSET) + (index * self.step / 8) as u16;
        packet[6..8].copy_from_slice(&(more | offset).to_be_bytes());
        packet[10..12].fill(0);
        let sum = !fold(add(0, packet));
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    }

    fn put_v6(&self, headers: &mut [u8], index: usize, last: bool, length: usize) {
        let payload = (length - ipv6::HEADER_LEN) as u16;
        headers[self.network + 4..self.network + 6].copy_from_slice(&payload.to_be_bytes());
        let at = headers.len() - V6_FRAGMENT_LEN + 2;
        let was = u16::from_be_bytes([headers[at], headers[at + 1]]);
        let more = if last { was & 1 } else { 1 };
        let offset = (was & !7) + (index * self.step) as u16;
        headers[at..at + 2].copy_from_slice(&(offset | more).to_be_bytes());
    }
}

/// Where the body of a packet that may be divided starts, and where it ends.
fn of_v4(packet: &[u8]) -> Option<(usize, usize, Family)> {
    let head = packet.get(..ipv4::HEADER_LEN)?;
    let flags = u16::from_be_bytes([head[6], head[7]]);
    let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
    (head[0] == 0x45 && flags & DONT_FRAGMENT == 0).then_some((
        ipv4::HEADER_LEN,
        length,
        Family::V4,
    ))
}

/// Only where the sender can't do it: to say that less than 1,280 octets pass is no use, and a
/// link must then divide packets itself (RFC 8200 5).
fn of_v6(packet: &[u8]) -> Option<(usize, usize, Family)> {
    let head = packet.get(..ipv6::HEADER_LEN)?;
    let length = ipv6::HEADER_LEN + usize::from(u16::from_be_bytes([head[4], head[5]]));
    if head[0] >> 4 != 6 || length > crate::too_large::LEAST_V6 {
        return None;
    }
    let (mut next, mut body) = (6, ipv6::HEADER_LEN);
    while V6_PER_FRAGMENT.contains(&packet[next]) {
        next = body;
        body += 8 + usize::from(*packet.get(body + 1)?) * 8;
    }
    let again = packet[next] == V6_FRAGMENT;
    if again {
        body += V6_FRAGMENT_LEN;
    }
    Some((body, length, Family::V6 { next, again }))
}
