//! ICMP to the sender of a packet that is too large for the path (RFC 792, RFC 1191, RFC 4443).

use cairn_wire::ethernet::{EtherType, Frame};
use cairn_wire::{ipv4, ipv6};

use crate::offload::{add, fold};

/// So much of a frame is needed to answer it.
pub(crate) const QUOTED: usize = 14 + 2 * 4 + MOST_PACKET;

/// An answer is no longer than a packet that every IPv4 host takes (RFC 1812 4.3.2.3).
const MOST_PACKET: usize = 576;
const ICMP_LEN: usize = 8;
const ICMP: u8 = 1;
const UNREACHABLE: u8 = 3;
const FRAGMENTATION_NEEDED: u8 = 4;
/// Precedence "internetwork control" (RFC 1812 4.3.2.5).
const CONTROL: u8 = 0xc0;
const HOPS: u8 = 64;
const PACKET_TOO_BIG: u8 = 2;
/// No IPv6 path has a smaller MTU (RFC 8200 5); senders ignore what says so.
pub(crate) const LEAST_V6: usize = 1280;

/// The frame that tells the sender of `frame`, of which this is the start, that frames of up to
/// `longest` octets pass. It comes from the packet's destination: this node has no address that
/// each sender knows. `None` where nobody may be told (RFC 1122 3.2.2, RFC 4443 2.4).
pub(crate) fn answer(frame: &[u8], longest: usize) -> Option<Vec<u8>> {
    let view = Frame::parse(frame).ok()?;
    if frame[0] & 1 != 0 || frame[6] & 1 != 0 {
        return None;
    }
    let packet = view.payload();
    let network = frame.len() - packet.len();
    let mtu = longest.checked_sub(network)?;
    let mut answer = [&frame[6..12], &frame[..6], &frame[12..network]].concat();
    let quoted = match view.ethertype()? {
        EtherType::IPV4 => v4(&mut answer, packet, mtu),
        EtherType::IPV6 => v6(&mut answer, packet, mtu.max(LEAST_V6)),
        _ => None,
    };
    quoted.map(|()| answer)
}

fn v4(answer: &mut Vec<u8>, packet: &[u8], mtu: usize) -> Option<()> {
    const HEADER: usize = ipv4::HEADER_LEN;
    /// Echo reply, echo, timestamps: what isn't an error.
    const QUERIES: [u8; 4] = [0, 8, 13, 14];
    let head = packet.get(..HEADER)?;
    let header = usize::from(head[0] & 15) * 4;
    let source = <[u8; 4]>::try_from(&head[12..16]).ok()?;
    let offset = u16::from_be_bytes([head[6], head[7]]) & 0x1fff;
    let is_error = head[9] == ICMP && !QUERIES.contains(packet.get(header)?);
    let somebody = source[0] != 0 && source[0] < 224 && source[0] != 127 && head[16] < 224;
    if head[0] >> 4 != 4 || offset != 0 || is_error || !somebody {
        return None;
    }
    let quoted = &packet[..packet.len().min(MOST_PACKET - HEADER - ICMP_LEN)];
    let length = HEADER + ICMP_LEN + quoted.len();
    let at = answer.len();
    answer.extend([0x45, CONTROL]);
    answer.extend((length as u16).to_be_bytes());
    answer.extend([0, 0, 0, 0, HOPS, ICMP, 0, 0]);
    answer.extend(&head[16..20]);
    answer.extend(source);
    put_sum(answer, at, at + 10, 0);
    let icmp = answer.len();
    answer.extend([UNREACHABLE, FRAGMENTATION_NEEDED, 0, 0, 0, 0]);
    answer.extend((mtu as u16).to_be_bytes());
    answer.extend(quoted);
    put_sum(answer, icmp, icmp + 2, 0);
    Some(())
}

fn v6(answer: &mut Vec<u8>, packet: &[u8], mtu: usize) -> Option<()> {
    const HEADER: usize = ipv6::HEADER_LEN;
    let upper = ipv6::Packet::parse(packet).ok()?.upper().ok()?;
    let head = &packet[..HEADER];
    let somebody = head[8..24] != [0; 16] && head[8] != 0xff && head[24] != 0xff;
    if is_icmpv6_error(&upper) || !somebody {
        return None;
    }
    let quoted = &packet[..packet.len().min(MOST_PACKET - HEADER - ICMP_LEN)];
    let length = ICMP_LEN + quoted.len();
    answer.extend([0x60, 0, 0, 0]);
    answer.extend((length as u16).to_be_bytes());
    answer.extend([ipv6::ICMPV6, HOPS]);
    let addresses = answer.len();
    answer.extend(&head[24..40]);
    answer.extend(&head[8..24]);
    let pseudo = add(
        length as u64 + u64::from(ipv6::ICMPV6),
        &answer[addresses..],
    );
    let icmp = answer.len();
    answer.extend([PACKET_TOO_BIG, 0, 0, 0]);
    answer.extend((mtu as u32).to_be_bytes());
    answer.extend(quoted);
    put_sum(answer, icmp, icmp + 2, pseudo);
    Some(())
}

fn is_icmpv6_error(upper: &ipv6::Upper<'_>) -> bool {
    /// Types below are errors (RFC 4443 2.1).
    const QUERIES: u8 = 128;
    upper.protocol == ipv6::ICMPV6
        && upper.has_header()
        && upper.payload.first().is_none_or(|kind| *kind < QUERIES)
}

/// Writes the checksum of all from `start` on to `at`.
fn put_sum(octets: &mut [u8], start: usize, at: usize, pseudo: u64) {
    let sum = !fold(add(pseudo, &octets[start..]));
    octets[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}
