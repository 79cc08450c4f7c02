//! Where the headers of a frame with a partial checksum are.

use cairn_wire::ethernet::{EtherType, Frame, HEADER_LEN, TAG_LEN};
use cairn_wire::ipv6;

use super::sum::{add, fold, with_length};

/// What segments and checksums are known of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    /// The one whose checksum is at `offset`.
    pub const fn of_checksum_offset(offset: u16) -> Option<Self> {
        match offset {
            16 => Some(Self::Tcp),
            6 => Some(Self::Udp),
            _ => None,
        }
    }

    /// Where the checksum is in the transport's header.
    pub const fn checksum_offset(self) -> usize {
        match self {
            Self::Tcp => 16,
            Self::Udp => 6,
        }
    }

    const fn protocol(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

/// Offsets into a frame, checked against it once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Where IPv4 or IPv6 starts.
    pub network: usize,
    /// Where TCP or UDP starts.
    pub start: usize,
    /// Length of all headers.
    pub headers: usize,
    /// TCP or UDP.
    pub transport: Transport,
    /// IPv6, not IPv4.
    pub is_v6: bool,
}

/// Octets of an IPv6 header.
const V6_HEADER: usize = 40;
/// TCP's FIN and PSH: on the last segment only.
const LAST_ONLY: u8 = 0x09;
/// TCP's CWR: on the first segment only.
const FIRST_ONLY: u8 = 0x80;
const TCP_FLAGS: usize = 13;

impl Layout {
    /// Finds the headers of a frame whose transport starts at `start`; `None` where they
    /// aren't what is said, or the packet is a fragment.
    pub fn of(frame: &[u8], start: usize, transport: Transport) -> Option<Self> {
        let view = Frame::parse(frame).ok()?;
        let network = HEADER_LEN + TAG_LEN * view.tags().count();
        let is_v6 = match view.ethertype()? {
            EtherType::IPV4 => false,
            EtherType::IPV6 => true,
            _ => return None,
        };
        let packet = frame.get(network..)?;
        let transport_at = start.checked_sub(network)?;
        let right = if is_v6 {
            leads_to_v6(packet, transport_at, transport.protocol())
        } else {
            leads_to_v4(packet, transport_at, transport.protocol())
        };
        let headers = start
            + match transport {
                Transport::Udp => 8,
                Transport::Tcp => usize::from(*frame.get(start + 12)? >> 4) * 4,
            };
        let long_enough = headers >= start + 8 && frame.len() >= headers;
        let tcp_whole = transport == Transport::Udp || headers >= start + 20;
        (right && long_enough && tcp_whole).then_some(Self {
            network,
            start,
            headers,
            transport,
            is_v6,
        })
    }

    /// Whether IPv6 has extension headers.
    pub(super) fn has_extensions(&self) -> bool {
        self.is_v6 && self.start > self.network + V6_HEADER
    }

    /// Finds the headers of a whole TCP segment, whatever is in front of it.
    pub(super) fn of_tcp(frame: &[u8]) -> Option<Self> {
        let view = Frame::parse(frame).ok()?;
        let packet = view.payload();
        let network = frame.len() - packet.len();
        let start = match view.ethertype()? {
            EtherType::IPV4 => network + usize::from(packet.first()? & 15) * 4,
            EtherType::IPV6 => {
                let packet = ipv6::Packet::parse(packet).ok()?;
                let upper = packet.upper().ok()?.payload.len();
                network + ipv6::HEADER_LEN + packet.payload().len() - upper
            }
            _ => return None,
        };
        Self::of(frame, start, Transport::Tcp)
    }

    /// The largest payload that the length fields can say.
    pub(super) fn most_payload(&self) -> usize {
        65_535 - (self.headers - self.network)
    }

    /// Makes `headers`, copied from a frame with `old` octets of payload, those of one with
    /// `new`. Lengths, IPv4's checksum and the pseudo-header's sum follow.
    pub(super) fn set_payload(&self, headers: &mut [u8], old: usize, new: usize) {
        let length = self.headers - self.network + new;
        let packet = &mut headers[self.network..];
        if self.is_v6 {
            put(packet, 4, length - 40);
        } else {
            put(packet, 2, length);
            self.sum_v4(packet);
        }
        let segment = self.headers - self.start;
        let transport = &mut headers[self.start..];
        if self.transport == Transport::Udp {
            put(transport, 4, 8 + new);
        }
        let at = self.transport.checksum_offset();
        let sum = u16::from_be_bytes([transport[at], transport[at + 1]]);
        let sum = with_length(sum, segment + old, segment + new);
        put(transport, at, usize::from(sum));
    }

    /// Makes `headers` those of the segment at `index`: IPv4's identification, TCP's sequence
    /// number and flags. Call it before [`Self::set_payload`], which sums.
    pub(super) fn set_segment(&self, headers: &mut [u8], index: usize, size: usize, last: bool) {
        if !self.is_v6 {
            let at = self.network + 4;
            let id = u16::from_be_bytes([headers[at], headers[at + 1]]);
            headers[at..at + 2].copy_from_slice(&id.wrapping_add(index as u16).to_be_bytes());
        }
        if self.transport == Transport::Udp {
            return;
        }
        let tcp = &mut headers[self.start..];
        let sequence = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
        let sequence = sequence.wrapping_add((index * size) as u32);
        tcp[4..8].copy_from_slice(&sequence.to_be_bytes());
        if !last {
            tcp[TCP_FLAGS] &= !LAST_ONLY;
        }
        if index > 0 {
            tcp[TCP_FLAGS] &= !FIRST_ONLY;
        }
    }

    /// Gives `headers` the flags that only the last segment may have.
    pub(super) fn take_last_flags(&self, headers: &mut [u8], last: &[u8]) {
        if self.transport == Transport::Tcp {
            headers[self.start + TCP_FLAGS] |= last[self.start + TCP_FLAGS] & LAST_ONLY;
        }
    }

    fn sum_v4(&self, packet: &mut [u8]) {
        put(packet, 10, 0);
        let sum = !fold(add(0, &packet[..self.start - self.network]));
        put(packet, 10, usize::from(sum));
    }
}

fn put(octets: &mut [u8], at: usize, value: usize) {
    octets[at..at + 2].copy_from_slice(&(value as u16).to_be_bytes());
}

fn leads_to_v4(packet: &[u8], transport: usize, protocol: u8) -> bool {
    /// More fragments, and the offset.
    const FRAGMENT: u16 = 0x3fff;
    packet.len() >= 20
        && transport >= 20
        && packet[0] == 0x40 | (transport / 4) as u8
        && transport.is_multiple_of(4)
        && transport <= 60
        && packet[9] == protocol
        && u16::from_be_bytes([packet[6], packet[7]]) & FRAGMENT == 0
}

/// Follows the extension headers that a packet that isn't a fragment may have.
fn leads_to_v6(packet: &[u8], transport: usize, protocol: u8) -> bool {
    const EXTENSIONS: [u8; 3] = [0, 43, 60];
    if packet.len() < 40 || packet[0] >> 4 != 6 {
        return false;
    }
    let (mut next, mut at) = (packet[6], 40);
    while at < transport && EXTENSIONS.contains(&next) {
        let Some([kind, length]) = packet.get(at..at + 2) else {
            return false;
        };
        next = *kind;
        at += 8 + usize::from(*length) * 8;
    }
    at == transport && next == protocol
}
